import pytest

from dynrefer.tags.index import TagIndex, words_of
from dynrefer.vocabulary import TagVocabulary

NAMES = (
    "wine",
    "wine glass",
    "red wine",
    "glass",
    "glasses",
    "t-shirt",
    "street light",
    "skateboard",
    "play tennis",
    "ride",
    "riding",
    "rubik's cube",
    "autumn leave",
    "park",
    "Eiffel tower",
    "air balloon",
    "hot air balloon",
    "underwater",
)


@pytest.fixture
def index() -> TagIndex:
    return TagIndex(TagVocabulary(NAMES), [("goblet", ["wine glass"]), ("wine", ["glass"])])


def names(index: TagIndex, phrase: str) -> list[str]:
    words = index.split(phrase)
    return [NAMES[span.tag] for span in index.spans(words)]


def word(index: TagIndex, text: str, is_deed: bool = False) -> str | None:
    tag = index.word_tag(text, is_deed)
    return None if tag is None else NAMES[tag]


def test_words_of_a_phrase() -> None:
    assert words_of("The man's Hat, isn\u2019t it?") == [
        "the",
        "man",
        "'s",
        "hat",
        ",",
        "is",
        "not",
        "it",
    ]
    assert words_of("the girls' t-shirts (2)") == ["the", "girls", "'s", "t-shirts", "2"]
    assert words_of("un caf\xe9") == ["un", "caf\xe9"]
    assert words_of(" ?! ") == []


def test_the_longest_name_wins_from_the_right(index: TagIndex) -> None:
    assert names(index, "red wine glasses") == ["wine glass"]
    assert names(index, "red wine") == ["red wine"]
    assert names(index, "hot air balloons by an air balloon") == ["hot air balloon", "air balloon"]


def test_other_spellings_of_a_name(index: TagIndex) -> None:
    assert word(index, "streetlights") == "street light"
    assert names(index, "a skate board") == ["skateboard"]
    assert names(index, "a fish under water") == []
    assert names(index, "t shirt") == ["t-shirt"]
    assert names(index, "rubik's cubes") == ["rubik's cube"]
    assert names(index, "autumn leaves") == []  # of leaf, not of the list's "leave"
    assert names(index, "the EIFFEL Tower") == ["Eiffel tower"]


def test_words_of_three_letters_join_and_shorter_ones_do_not() -> None:
    apart, joined = (
        TagIndex(TagVocabulary(("tea pot", "go kart"))),
        TagVocabulary(("teapot", "gokart")),
    )
    assert apart.word_tag("teapot") == 0 and apart.word_tag("gokart") is None
    assert [span.tag for span in TagIndex(joined).spans(["a", "tea", "pots"])] == [0]
    assert TagIndex(joined).spans(["go", "kart"]) == []


def test_hyphens_split_what_is_no_name(index: TagIndex) -> None:
    assert index.split("a t-shirt, wine-red") == ["a", "t-shirt", ",", "wine", "red"]


def test_a_verb_in_a_name_may_be_in_another_form(index: TagIndex) -> None:
    assert names(index, "playing tennis") == names(index, "plays tennis") == ["play tennis"]
    pole = TagIndex(TagVocabulary(("light pole",)))  # "light" is no deed of anyone
    assert pole.spans(["light", "poles"]) and not pole.spans(["lighted", "pole"])


def test_a_word_as_noun_and_as_verb(index: TagIndex) -> None:
    assert word(index, "riding") == "riding"
    assert word(index, "riding", is_deed=True) == "ride"
    assert word(index, "rides", is_deed=True) == "ride"


def test_a_deed_is_no_thing_of_that_name(index: TagIndex) -> None:
    assert word(index, "park") == word(index, "parks") == "park"
    assert word(index, "parked") is None
    assert word(index, "park", is_deed=True) is None


def test_a_glass_is_no_part_of_glasses() -> None:
    spectacles = TagIndex(TagVocabulary(("glasses",)))
    assert spectacles.word_tag("glasses") == 0
    assert spectacles.word_tag("glass") is None


def test_synonyms_never_take_the_place_of_a_tag(index: TagIndex) -> None:
    assert word(index, "goblets") == "wine glass"
    assert word(index, "wine") == "wine"


def test_the_earlier_of_two_names_with_one_form_has_it() -> None:
    index = TagIndex(TagVocabulary(("tree", "trees", "t shirt", "t-shirt")))
    assert index.word_tag("trees") == 1
    assert [span.tag for span in index.spans(["t", "shirt"])] == [2]
    assert index.word_tag("t-shirt") == 3


def test_an_empty_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="vocabulary is empty"):
        TagIndex(TagVocabulary(()))


def test_a_name_of_punctuation_alone_is_never_found() -> None:
    index = TagIndex(TagVocabulary(("?!", "dog")))
    assert index.spans([]) == []
    assert index.word_tag("dog") == 1
