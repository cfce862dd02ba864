"""Parsing as a whole, and the hand-made phrases of tests/data/tag_phrases.json."""

import pickle
from pathlib import Path

import pytest

from dynrefer.registry import UnknownNameError
from dynrefer.tags import ParsedTags, RuleTagParser, TagIndex, build_tag_parser
from dynrefer.vocabulary import TagVocabulary, load_tags
from scripts.benchmark_tags import (
    HALVES,
    SIDES,
    load_phrases,
    precision_and_recall,
    vocabulary_of,
)
from tests.shared import shared_path

VOCABULARY = TagVocabulary(
    ("dog", "couch", "white", "sleep", "traffic light", "light", "play golf")
)
# Measured precision and recall of subjects and of others: a change that lowers one is a change for
# the worse (docs/data.md).
Scores = dict[str, tuple[float, float]]
OWN_TAGS = {
    "development": {"subject": (0.9941, 1.0), "others": (0.9947, 1.0)},
    "held_out": {"subject": (0.9943, 0.9888), "others": (0.9836, 1.0)},
}
RAM_TAGS = {
    "development": {"subject": (0.9883, 1.0), "others": (0.9947, 1.0)},
    "held_out": {"subject": (0.9831, 0.9776), "others": (0.9782, 0.9944)},
}


@pytest.fixture
def parser() -> RuleTagParser:
    return build_tag_parser("rules", VOCABULARY)


def named(tags: ParsedTags) -> tuple[list[str], list[str]]:
    return tuple([VOCABULARY.names[tag] for tag in side] for side in tags)


def test_subject_and_others_in_the_order_of_the_phrase(parser: RuleTagParser) -> None:
    tags = named(parser("White puppies sleeping on a white sofa under two traffic signals"))
    assert tags == (["white", "dog"], ["sleep", "white", "couch", "traffic light"])


def test_a_deed_of_several_words_is_of_others(parser: RuleTagParser) -> None:
    assert named(parser("a dog playing golf")) == (["dog"], ["play golf"])


def test_words_that_name_no_tag(parser: RuleTagParser) -> None:
    assert parser("") == parser("an xylophone\u2026 42 \U0001f600") == ParsedTags([], [])


def test_a_phrase_must_be_a_text(parser: RuleTagParser) -> None:
    with pytest.raises(TypeError, match="phrase is None; valid is a string"):
        parser(None)


def test_own_synonyms_come_before_the_built_in_ones(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("pooch -> dog\npuppy -> couch\n")
    parser = build_tag_parser("rules", VOCABULARY, tmp_path / "own.txt")
    assert named(parser("a pooch")) == (["dog"], [])
    assert named(parser("a puppy")) == (["couch"], [])


def test_unknown_parsers_are_named() -> None:
    with pytest.raises(UnknownNameError, match="no tag_parser is registered as 'rule'.*rules"):
        build_tag_parser("rule", VOCABULARY)


def test_a_parser_can_be_sent_to_another_process(parser: RuleTagParser) -> None:
    copy = pickle.loads(pickle.dumps(parser))
    assert copy("a white dog") == parser("a white dog")


def test_the_hand_made_phrases_are_enough_and_say_what_they_need() -> None:
    phrases = load_phrases()
    rows = [row for half in HALVES for row in phrases[half]]
    assert len({row["phrase"] for row in rows}) == len(rows) >= 220
    assert abs(len(phrases["development"]) - len(phrases["held_out"])) <= 1
    named = {name for row in rows for side in SIDES for name in row[side]}
    assert len(phrases["distractors"]) >= 20
    assert named.isdisjoint(phrases["distractors"])


def assert_reached(scores: Scores, measured: Scores) -> None:
    """Each number is as measured or better."""
    pairs = [pair for side in SIDES for pair in zip(scores[side], measured[side], strict=True)]
    assert all(number >= least for number, least in pairs), scores


@pytest.mark.parametrize("half", HALVES)
def test_precision_and_recall_over_their_own_tags(half: str) -> None:
    phrases = load_phrases()
    vocabulary = vocabulary_of(phrases)
    parser = build_tag_parser("rules", vocabulary)
    assert_reached(precision_and_recall(parser, vocabulary, phrases[half]), OWN_TAGS[half])


@pytest.mark.parametrize("half", HALVES)
def test_precision_and_recall_over_rams_tags(half: str) -> None:
    vocabulary = load_tags(shared_path("data/ram_tag_list.txt"))
    parser = build_tag_parser("rules", vocabulary)
    assert_reached(precision_and_recall(parser, vocabulary, load_phrases()[half]), RAM_TAGS[half])


def test_scores_count_wrong_and_missed_tags() -> None:
    rows = [{"phrase": "x", "subject": ["dog", "white"], "others": []}]

    def parse(_: str) -> ParsedTags:
        return ParsedTags([0, 1, 3], [4])

    scores = precision_and_recall(parse, VOCABULARY, rows)
    assert scores == {"subject": (pytest.approx(1 / 3), 0.5), "others": (0.0, 0.0)}


def test_the_index_of_a_parser_can_be_used_alone() -> None:
    assert RuleTagParser(TagIndex(VOCABULARY))("sofa") == ParsedTags([], [])
