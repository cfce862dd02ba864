"""English words by what they do in a phrase: the tables of ``english.yaml``."""

from pathlib import Path

import yaml

_TABLES = yaml.safe_load(Path(__file__).with_name("english.yaml").read_text(encoding="utf-8"))


def _pairs(text: str) -> dict[str, str]:
    return dict(pair.split() for pair in text.split(","))


CLOSED_KINDS = {
    word: kind for kind, words in _TABLES["closed_kinds"].items() for word in words.split()
}
WORDS = {name: frozenset(words.split()) for name, words in _TABLES["words"].items()}
SINGULARS = _pairs(_TABLES["irregular_nouns"])
BASES = _pairs(_TABLES["irregular_verbs"])
