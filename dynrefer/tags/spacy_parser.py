"""Tags of a phrase by spaCy's dependency parse, where spaCy is installed."""

from collections.abc import Callable, Iterable
from typing import Any

from dynrefer.registry import registry
from dynrefer.tags.index import TagIndex
from dynrefer.tags.parser import ParsedTags, collect_tags
from dynrefer.tags.phrase_sides import Side
from dynrefer.tags.word_classes import QUANTITIES

MODEL = "en_core_web_sm"
_INSTALL = f"pip install spacy && python -m spacy download {MODEL}"
_WORD_KINDS = frozenset(("NOUN", "PROPN", "ADJ", "VERB", "NUM"))
_MODIFIERS = frozenset(("amod", "compound", "nummod", "nmod", "appos", "conj", "npadvmod"))
_SUBJECTS = frozenset(("nsubj", "nsubjpass"))
_COMPLEMENTS = frozenset(("attr", "acomp", "oprd"))

Token = Any  # spacy.tokens.Token; spaCy is no dependency of this project


@registry.register("tag_parser", "spacy")
class SpacyTagParser:
    """Parses by dependencies instead of rules; tags are looked up in the same way.

    The subject is the root noun, or a verb's subject and what a copula says of it, with modifiers
    and what quantity nouns stand for; all else is of others.

    Args:
        index: finds tags in words.
        nlp: a loaded spaCy pipeline with tagger and parser; en_core_web_sm by default.

    Raises ImportError with the command that installs what is missing.
    """

    def __init__(
        self, index: TagIndex, nlp: Callable[[str], Iterable[Token]] | None = None
    ) -> None:
        self.index = index
        self.nlp = _load() if nlp is None else nlp

    def __call__(self, phrase: str) -> ParsedTags:
        """Tags of a phrase; raises TypeError for one that is no string."""
        if not isinstance(phrase, str):
            raise TypeError(f"phrase is {phrase!r}; valid is a string")
        tokens = [token for token in self.nlp(phrase) if not (token.is_punct or token.is_space)]
        sides = _sides(tokens)
        words = [token.lower_ for token in tokens]
        deeds = [token.pos_ == "VERB" for token in tokens]
        named = [token.pos_ in _WORD_KINDS for token in tokens]
        tags: list[int | None] = [None] * len(tokens)
        for span in self.index.spans(words):
            named[span.start : span.end] = [False] * (span.end - span.start)
            tags[span.end - 1] = span.tag
        for i, word in enumerate(words):
            if named[i]:
                tags[i] = self.index.word_tag(word, deeds[i])
        return collect_tags(tags, sides)


def _load() -> Callable[[str], Iterable[Token]]:
    try:
        import spacy
    except ImportError as error:
        raise ImportError(f"the tag parser 'spacy' needs spaCy: {_INSTALL}") from error
    try:
        return spacy.load(MODEL, exclude=["ner"])
    except OSError as error:
        raise ImportError(f"the tag parser 'spacy' needs its model {MODEL}: {_INSTALL}") from error


def _sides(tokens: list[Token]) -> list[Side]:
    denied = {i for token in tokens for i in _denied_by(token)}
    subject: set[int] = set()
    for root in (token for token in tokens if token.dep_ == "ROOT"):
        for head in _heads(root):
            _add_noun_phrase(head, subject)
    sides = [Side.SUBJECT if token.i in subject else Side.OTHERS for token in tokens]
    return [
        Side.NONE if token.i in denied else side for token, side in zip(tokens, sides, strict=True)
    ]


def _denied_by(token: Token) -> list[int]:
    """Positions of what a word denies: all under "without" and "no hat", all after "not"."""
    if token.lower_ == "without":
        return [other.i for other in token.subtree]
    if token.lower_ == "no":
        return [other.i for other in token.head.subtree]
    if token.dep_ == "neg":
        after = [other.i for other in token.head.subtree if other.i > token.i]
        return [token.head.i, *after]
    return []


def _heads(root: Token) -> list[Token]:
    """What a phrase is about, given its root."""
    if root.pos_ not in ("VERB", "AUX"):
        return [root, *_of_copulas(root)]
    heads = [child for child in root.children if child.dep_ in _SUBJECTS]
    if root.lemma_ == "be":
        heads += [child for child in root.children if child.dep_ in _COMPLEMENTS]
    return heads


def _of_copulas(noun: Token) -> list[Token]:
    """Complements of "that is ..." after a noun."""
    clauses = [c for c in noun.children if c.dep_ == "relcl" and c.lemma_ == "be"]
    return [c for clause in clauses for c in clause.children if c.dep_ in _COMPLEMENTS]


def _add_noun_phrase(head: Token, subject: set[int]) -> None:
    subject.add(head.i)
    for child in head.children:
        if child.dep_ in _MODIFIERS:
            _add_noun_phrase(child, subject)
        elif child.dep_ == "prep" and child.lower_ == "of" and head.lemma_.lower() in QUANTITIES:
            for thing in child.children:
                _add_noun_phrase(thing, subject)
