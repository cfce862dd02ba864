"""Tags that a phrase names: those of its subject, and those of other things in it."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from dynrefer.registry import registry
from dynrefer.tags.index import TagIndex
from dynrefer.tags.phrase_sides import Kind, Side, kinds_of, sides_of
from dynrefer.tags.synonyms import load_synonyms
from dynrefer.vocabulary import TagVocabulary


class ParsedTags(NamedTuple):
    """Indices into a tag vocabulary, each once a list, in the order of the phrase."""

    subject: list[int]
    others: list[int]


TagParser = Callable[[str], ParsedTags]  # a "tag_parser" of the registry is built of a TagIndex


@registry.register("tag_parser", "rules")
class RuleTagParser:
    """Parses by the rules of ``phrase_sides.py``; needs nothing but the vocabulary.

    Names of several words are found first, then each of them counts as one word, then the words are
    given their sides, then single words are looked up where they are nouns, adjectives or verbs.
    """

    def __init__(self, index: TagIndex) -> None:
        self.index = index

    def __call__(self, phrase: str) -> ParsedTags:
        """Tags of a phrase; raises TypeError for one that is no string."""
        if not isinstance(phrase, str):
            raise TypeError(f"phrase is {phrase!r}; valid is a string")
        words = self.index.split(phrase)
        tags: list[int | None] = [None] * len(words)
        for start, end, tag in reversed(self.index.spans(words)):
            words[start:end], tags[start:end] = [" ".join(words[start:end])], [tag]
        kinds = kinds_of(words, {i for i, tag in enumerate(tags) if tag is not None})
        sides = sides_of(words, kinds)
        for i, word in enumerate(words):
            if tags[i] is None and sides[i] is not Side.NONE:
                tags[i] = self.index.word_tag(word, kinds[i] is Kind.VERB)
        return collect_tags(tags, sides)


def collect_tags(tags: list[int | None], sides: list[Side]) -> ParsedTags:
    """Tags of words by the sides of these."""
    named = [(side, tag) for side, tag in zip(sides, tags, strict=True) if tag is not None]
    subject = [tag for side, tag in named if side is Side.SUBJECT]
    others = [tag for side, tag in named if side is Side.OTHERS]
    return ParsedTags(list(dict.fromkeys(subject)), list(dict.fromkeys(others)))


def build_tag_parser(
    name: str, vocabulary: TagVocabulary, synonyms: str | Path | None = None
) -> TagParser:
    """A registered parser, "rules" or "spacy", over a vocabulary.

    ``synonyms`` is a user's table (``synonyms.py`` says how it is written), whose terms come before
    the built-in ones. Raises UnknownNameError for a name that is not registered, ImportError for
    "spacy" without it, and what ``load_synonyms`` raises.
    """
    parser = registry.get("tag_parser", name)
    own = load_synonyms(synonyms) if synonyms is not None else []
    return parser(TagIndex(vocabulary, [*own, *load_synonyms()]))
