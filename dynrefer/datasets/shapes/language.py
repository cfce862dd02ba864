"""Captions of the shapes world: writing them, and reading what they say."""

import re
from collections.abc import Iterable

from dynrefer.datasets.shapes.words import (
    COLOURS,
    FIGURES,
    SIZES,
    SURROUNDINGS,
    SYNONYMS,
    TEXTURES,
    Facts,
)

# A "2" marks the second phrase of a relation, place or ground, and the synonym of a size or
# texture. What is unclear of a figure is left out.
TEMPLATES = (
    "a {size} {texture} {colour} {figure} {relation} {other} {ground} {place}",
    "a {size} {colour} {texture} {figure} {ground2} {place2} {relation2} {other}",
    "{place} {ground} a {size} {texture} {colour} {figure} {relation2} {other}",
    "the {size2} {texture2} {colour} {figure} {place} {relation} {other} {ground}",
    # Of the test split alone:
    "a {size} {figure} that is {colour} and {texture} {ground} {relation} {other} {place2}",
    "a {texture} {colour} {figure} of {size} size {place} {ground2} {relation2} {other}",
)
# Many of people's captions say only one thing, often without a noun. Without such captions colour
# and texture tell most pairs of a batch apart, and a model has little need to learn the rest, or to
# read an attribute alone.
SHORT_TEMPLATES = (
    "the {figure}",
    "the {colour} one",
    "the one that is {colour}",
    "the {texture} one",
    "the one that has a {texture} pattern",
    "the {size} one",
    "the one that is {size}",
    "the one {relation} {another}",
    "the one that is {relation2} {another}",
    "the one {relation} {other}",
    "the one {place}",
    "the one that is {place2}",
    "the one {ground}",
    "the one that is {ground2}",
)
# Templates of the captions of training and validation, with their shares. "The one" must stay rarer
# than "a small", or a beam search takes the short ones.
TRAIN_TEMPLATES = (*TEMPLATES[:4], *SHORT_TEMPLATES)
TRAIN_TEMPLATE_SHARES = (0.34, 0.14, 0.1, 0.05)
TRAIN_TEMPLATE_SHARES += (0.05, 0.02, 0.01, 0.02, 0.02, 0.05, 0.01)
TRAIN_TEMPLATE_SHARES += (0.05, 0.03, 0.03, 0.03, 0.02, 0.02, 0.01)


def caption(template: str, facts: Facts) -> str:
    """Fills a template; one of which nothing is left but "the one" becomes "the {figure}"."""
    words = {
        "size": facts.size,
        "size2": SYNONYMS[facts.size],
        "texture": facts.texture,
        "texture2": SYNONYMS[facts.texture],
        "colour": facts.colour,
        "figure": facts.figure,
        "another": "another" if facts.relation else "",
        "other": "a {} {}".format(*facts.neighbour) if facts.neighbour else "",
    }
    for kind, table in SURROUNDINGS.items():
        value = getattr(facts, kind)
        words[kind], words[f"{kind}2"] = table[value][:2] if value else ("", "")
    text = " ".join(template.format(**words).split())
    if text in ("the one", "the one that is"):
        text = f"the {facts.figure}"
    return re.sub(r"\ba(?= [aeiou])", "an", text)


KINDS = ("figure", "colour", "texture", "size", "place", "ground", "relation", "neighbour")


def facts_by_kind(facts: Facts) -> dict[str, str]:
    """What is true of a figure by kind, those of KINDS that are clear; a neighbour: "red star"."""
    values = {kind: getattr(facts, kind) for kind in KINDS}
    values["neighbour"] = facts.neighbour and " ".join(facts.neighbour)
    return {kind: value for kind, value in values.items() if value}


def said_by_kind(text: str) -> dict[str, str]:
    """What a caption says by kind, of KINDS those that it names; the first where it names several.

    A relation may stand without a neighbour. What is left of the caption without relation and
    neighbour, place and ground is about the figure itself.
    """
    said = {}
    rest = text.lower()
    if match := _RELATION.search(rest):
        phrase, colour, figure = match.groups()
        said["relation"] = _VALUES["relation"][phrase]
        if figure:
            said["neighbour"] = f"{colour} {figure}"
    rest = _RELATION.sub(" | ", rest)
    for kind in ("place", "ground", "figure", "colour", "texture", "size"):
        if match := _PATTERNS[kind].search(rest):
            said[kind] = _VALUES[kind][match.group(1)]
            rest = _PATTERNS[kind].sub(" | ", rest)
    return {kind: said[kind] for kind in KINDS if kind in said}


def _phrase_values() -> dict[str, dict[str, str]]:
    """By kind: the value that each phrase stands for."""
    values = {"figure": {name: name for name in FIGURES}, "colour": {n: n for n in COLOURS}}
    for kind, table in {"texture": TEXTURES, "size": SIZES}.items():
        values[kind] = {word: name for name in table for word in (name, SYNONYMS[name])}
    for kind, table in SURROUNDINGS.items():
        values[kind] = {phrase: name for name, row in table.items() for phrase in row[:2]}
    return values


def _any_of(phrases: Iterable[str]) -> str:
    """A pattern for one of some phrases, the longest that fits, between whole words."""
    return rf"\b({'|'.join(sorted(map(re.escape, phrases), key=len, reverse=True))})\b"


_VALUES = _phrase_values()
_PATTERNS = {kind: re.compile(_any_of(phrases)) for kind, phrases in _VALUES.items()}
_RELATION = re.compile(
    _any_of(_VALUES["relation"])
    + rf"(?: (?:an?|the) {_any_of(_VALUES['colour'])} {_any_of(_VALUES['figure'])}| another\b)?"
)
