"""Tags of a phrase by spaCy's dependency parse, where spaCy is installed."""

from collections.abc import Callable, Iterable
from typing import Any

from dynrefer.registry import registry
from dynrefer.tags.index import TagIndex
from dynrefer.tags.parser import ParsedTags, collect_tags
from dynrefer.tags.phrase_sides import Side
from dynrefer.tags.word_classes import WORDS

MODEL = "en_core_web_sm"
_INSTALL = f"pip install spacy && python -m spacy download {MODEL}"
_WORD_KINDS = {"NOUN", "PROPN", "ADJ", "VERB", "NUM"}
_MODIFIERS = {"amod", "compound", "nummod", "nmod", "appos", "conj", "npadvmod"}
_SUBJECTS = {"nsubj", "nsubjpass"}
_COMPLEMENTS = {"attr", "acomp", "oprd"}

Token = Any  # spacy.tokens.Token; spaCy is no dependency of this project


@registry.register("tag_parser", "spacy")
class SpacyTagParser:
    """Parses by dependencies instead of rules; tags are looked up in the same way.

    The subject is the root noun, or a verb's subject and what a copula says of it, with modifiers
    and what quantity nouns stand for; all else is of others. ``nlp`` is a loaded spaCy pipeline
    with tagger and parser, en_core_web_sm by default. Raises ImportError with the command that
    installs what is missing.
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
        tags = [
            self.index.word_tag(token.lower_, token.pos_ == "VERB")
            if token.pos_ in _WORD_KINDS
            else None
            for token in tokens
        ]
        for start, end, tag in self.index.spans([token.lower_ for token in tokens]):
            tags[start:end] = [*[None] * (end - start - 1), tag]
        return collect_tags(tags, _sides(tokens))


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
    sides = {token.i: Side.OTHERS for token in tokens}
    heads = [head for token in tokens if token.dep_ == "ROOT" for head in _heads(token)]
    for position in (i for head in heads for i in _noun_phrase(head)):
        sides[position] = Side.SUBJECT
    for position in (i for token in tokens for i in _denied_by(token)):
        sides[position] = Side.NONE
    return [sides[token.i] for token in tokens]


def _denied_by(token: Token) -> list[int]:
    """Positions of what a word denies: all under "without" and "no hat", all after "not"."""
    if token.lower_ == "without":
        return [other.i for other in token.subtree]
    if token.lower_ == "no":
        return [other.i for other in token.head.subtree]
    if token.dep_ == "neg":
        return [token.head.i, *(other.i for other in token.head.subtree if other.i > token.i)]
    return []


def _heads(root: Token) -> list[Token]:
    """What a phrase is about, given its root: nouns, and what a copula says of them."""
    children = list(root.children)
    if root.pos_ in ("VERB", "AUX"):
        heads = [child for child in children if child.dep_ in _SUBJECTS]
        copulas = [root]
    else:
        heads = [root]
        copulas = [child for child in children if child.dep_ == "relcl"]  # "that is ..."
    said = (child for verb in copulas if verb.lemma_ == "be" for child in verb.children)
    return heads + [child for child in said if child.dep_ in _COMPLEMENTS]


def _noun_phrase(head: Token) -> list[int]:
    """Positions of a noun, its modifiers and, of a quantity, the things after "of"."""
    positions = [head.i]
    is_quantity = head.lemma_.lower() in WORDS["quantities"]
    for child in head.children:
        if child.dep_ in _MODIFIERS:
            positions += _noun_phrase(child)
        elif is_quantity and child.dep_ == "prep" and child.lower_ == "of":
            positions += [i for thing in child.children for i in _noun_phrase(thing)]
    return positions
