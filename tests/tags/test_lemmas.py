import pytest

from dynrefer.tags.lemmas import noun_bases, verb_bases


@pytest.mark.parametrize(
    ("word", "base"),
    [
        ("trees", "tree"),
        ("buses", "bus"),
        ("horses", "horse"),
        ("dishes", "dish"),
        ("boxes", "box"),
        ("shoes", "shoe"),
        ("tomatoes", "tomato"),
        ("cherries", "cherry"),
        ("cookies", "cookie"),
        ("skis", "ski"),
        ("glasses", "glass"),
        ("women", "woman"),
        ("people", "person"),
        ("leaves", "leaf"),
        ("knives", "knife"),
        ("feet", "foot"),
    ],
)
def test_singulars(word: str, base: str) -> None:
    assert base in noun_bases(word)


@pytest.mark.parametrize("word", ["tree", "grass", "bus", "woman", "this", "as", ""])
def test_a_singular_has_no_other_base(word: str) -> None:
    assert noun_bases(word) == ()


@pytest.mark.parametrize(
    ("word", "base"),
    [
        ("standing", "stand"),
        ("sitting", "sit"),
        ("riding", "ride"),
        ("pulling", "pull"),
        ("lying", "lie"),
        ("leaning", "lean"),
        ("dancing", "dance"),
        ("mowing", "mow"),
        ("boxed", "box"),
        ("striped", "stripe"),
        ("stopped", "stop"),
        ("carried", "carry"),
        ("watches", "watch"),
        ("flies", "fly"),
        ("rode", "ride"),
        ("eaten", "eat"),
    ],
)
def test_verbs(word: str, base: str) -> None:
    assert base in verb_bases(word)


@pytest.mark.parametrize(
    ("word", "wrong"),
    [
        ("staring", "star"),
        ("rated", "rat"),
        ("red", "r"),
        ("left", "leave"),
        ("string", "str"),
        ("building", "build"),
        ("earring", "ear"),
        ("bed", "b"),
    ],
)
def test_what_only_looks_like_a_form(word: str, wrong: str) -> None:
    assert wrong not in verb_bases(word)
