"""The spaCy parser on parses made by hand; spaCy itself is no dependency."""

import builtins
import sys
import types

import pytest

from dynrefer.tags import ParsedTags, SpacyTagParser, TagIndex, build_tag_parser
from dynrefer.vocabulary import TagVocabulary

VOCABULARY = TagVocabulary(
    (
        "man",
        "hat",
        "white",
        "ride",
        "horse",
        "wall",
        "traffic light",
        "dog",
        "wear",
        "slice",
        "pizza",
    )
)


class Token:
    """As much of a token as spaCy's documentation promises and the parser reads."""

    def __init__(self, i: int, text: str, pos: str, dep: str, lemma: str) -> None:
        self.i, self.lower_, self.pos_, self.dep_ = i, text.lower(), pos, dep
        self.lemma_ = lemma
        self.is_punct, self.is_space = pos == "PUNCT", pos == "SPACE"
        self.head: Token = self
        self.children: list[Token] = []

    @property
    def subtree(self) -> list["Token"]:
        below = [token for child in self.children for token in child.subtree]
        return sorted([self, *below], key=lambda token: token.i)


def parsed(text: str) -> list[Token]:
    """Tokens of lines "word POS dependency head's number [lemma]"."""
    rows = [line.split() for line in text.strip().splitlines()]
    tokens = [
        Token(i, row[0], row[1], row[2], row[4] if len(row) > 4 else row[0].lower())
        for i, row in enumerate(rows)
    ]
    for token, row in zip(tokens, rows, strict=True):
        token.head = tokens[int(row[3])]
        if token.head is not token:
            token.head.children.append(token)
    return tokens


MAN_RIDING = """
A DET det 2
white ADJ amod 2
man NOUN ROOT 2
riding VERB acl 2 ride
a DET det 5
horse NOUN dobj 3
"""
WALL_IS_WHITE = """
man NOUN poss 2
's PART case 0
wall NOUN nsubj 3
is AUX ROOT 3 be
white ADJ acomp 3
. PUNCT punct 3
"""
SLICE = """
slice NOUN ROOT 0
of ADP prep 0
pizza NOUN pobj 1
under ADP prep 0
traffic NOUN compound 5
lights NOUN pobj 3 light
"""
NO_HAT = """
man NOUN nsubj 2
not PART neg 2
wearing VERB ROOT 2 wear
a DET det 4
hat NOUN dobj 2
"""
WITHOUT = """
dog NOUN ROOT 0
without ADP prep 0
a DET det 3
hat NOUN pobj 1
"""
NO_DOG = """
wall NOUN ROOT 0
with ADP prep 0
no DET det 4
white ADJ amod 4
dogs NOUN pobj 1 dog
"""
SHIRT_THAT_IS = """
hat NOUN ROOT 0
that PRON nsubj 2
is AUX relcl 0 be
white ADJ acomp 2
on ADP prep 2
dog NOUN pobj 4
and CCONJ cc 0
horse NOUN conj 0
"""


def named(tags: ParsedTags) -> tuple[list[str], list[str]]:
    return tuple([VOCABULARY.names[tag] for tag in side] for side in tags)


@pytest.mark.parametrize(
    ("parse", "subject", "others"),
    [
        (MAN_RIDING, ["white", "man"], ["ride", "horse"]),
        (WALL_IS_WHITE, ["wall", "white"], ["man"]),
        (SLICE, ["slice", "pizza"], ["traffic light"]),
        (NO_HAT, ["man"], []),
        (WITHOUT, ["dog"], []),
        (NO_DOG, ["wall"], []),
        (SHIRT_THAT_IS, ["hat", "white", "horse"], ["dog"]),
    ],
)
def test_tags_by_dependencies(parse: str, subject: list[str], others: list[str]) -> None:
    parser = SpacyTagParser(TagIndex(VOCABULARY), lambda _: parsed(parse))
    assert named(parser("a phrase")) == (subject, others)


def test_a_phrase_must_be_a_text() -> None:
    parser = SpacyTagParser(TagIndex(VOCABULARY), lambda _: [])
    assert parser("") == ParsedTags([], [])
    with pytest.raises(TypeError, match="phrase is 3; valid is a string"):
        parser(3)


def test_without_spacy_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def refuse(name: str, *arguments: object) -> types.ModuleType:
        if name == "spacy":
            raise ImportError("No module named 'spacy'")
        return real_import(name, *arguments)

    monkeypatch.delitem(sys.modules, "spacy", raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match="pip install spacy && python -m spacy download en_core"):
        build_tag_parser("spacy", VOCABULARY)


def test_without_its_model_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, exclude: list[str]) -> None:
        raise OSError(f"[E050] Can't find model '{name}'.")

    monkeypatch.setitem(sys.modules, "spacy", types.SimpleNamespace(load=load))
    with pytest.raises(ImportError, match="needs its model en_core_web_sm: pip install spacy"):
        build_tag_parser("spacy", VOCABULARY)


def test_the_installed_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    spacy = types.SimpleNamespace(load=lambda name, exclude: lambda text: parsed(MAN_RIDING))
    monkeypatch.setitem(sys.modules, "spacy", spacy)
    assert named(build_tag_parser("spacy", VOCABULARY)("x"))[0] == ["white", "man"]
