"""Control words: extraction from captions, sampling, joining."""

from collections import Counter

import numpy as np
import pytest

from dynrefer.processors import control_words
from dynrefer.processors.control_words import (
    ControlWordSampler,
    caption_control_words,
    join_control_words,
)


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("a small red star by a blue ring", ["small", "red star", "star", "blue ring", "ring"]),
        # A noun is extended by the nouns that follow; an adjective that follows ends the phrase.
        ("the tennis ball on green grass", ["tennis ball", "ball", "green grass", "grass"]),
        # Published: every "red" is extended at the first one, whose next word is an adjective.
        ("red wooden chair and a red car", ["red", "wooden chair", "chair", "car"]),
        ("the dog's bowl isn't here", ["dog", "bowl"]),
        ("of the and", []),
        ("", []),
        ("  ,, 5 %", []),
    ],
)
def test_caption_words(caption, words):
    assert caption_control_words(caption) == words


def test_caption_words_ignore_punctuation_between_words():
    assert caption_control_words("red, star") == ["red star", "star"]


def test_caption_words_are_the_callers_own():
    caption_control_words("a red dog").append("changed")
    assert caption_control_words("a red dog") == ["red dog", "dog"]


def test_next_word_counts_as_noun_where_it_is_one_anywhere(monkeypatch):
    """Published: whether the next word continues a phrase is asked of the word, not its place."""
    tagged = [("men", "NNS"), ("park", "VB"), ("near", "IN"), ("park", "NN"), ("!", ".")]
    monkeypatch.setattr(control_words, "_tagged", lambda caption: tagged)
    assert control_words._control_words.__wrapped__("") == ("men park", "park")


def test_tagging_needs_no_nltk_data(monkeypatch):
    monkeypatch.setattr("nltk.data.path", [])
    words = control_words._control_words.__wrapped__("a striped cat and an old tv on the table")
    assert words == ("striped cat", "cat", "old tv", "tv", "table")


def test_joining_keeps_the_first_order():
    assert join_control_words(["dog", "grass", "dog"]) == "dog,grass|"
    assert join_control_words(word for word in ("b", " a ", "", "a")) == "b,a|"
    assert join_control_words([]) == "|"


def sample(sampler, count=4000):
    rng = np.random.default_rng(9)
    return [sampler("a red dog", ["grass", "dog"], rng) for _ in range(count)]


def test_nothing_dropped_gives_all_words_shuffled():
    strings = sample(ControlWordSampler(full_drop_ratio=0, drop_ratio=0))
    orders = Counter(tuple(string.removesuffix("|").split(",")) for string in strings)
    assert {frozenset(order) for order in orders} == {frozenset({"grass", "dog", "red dog"})}
    assert len(orders) == 6 and min(orders.values()) > 550


def test_published_ratios():
    strings = sample(ControlWordSampler())
    # All words go in half of the draws, and in one eighth of the rest by chance.
    assert abs(strings.count("|") / len(strings) - 9 / 16) < 0.03
    kept = Counter(word for string in strings for word in string[:-1].split(",") if word)
    assert set(kept) == {"grass", "dog", "red dog"}
    assert all(abs(count / len(strings) - 0.25) < 0.03 for count in kept.values())


@pytest.mark.parametrize("seed", range(5))
def test_draws_go_to_tags_first_and_then_to_words_of_the_caption(seed):
    rng = np.random.default_rng(seed)
    rng.random()  # whether all of them go
    words = np.array(["grass", "dog", "red dog"])
    kept = np.flatnonzero(rng.random(3) >= 0.5)
    expected = ",".join(words[rng.permutation(kept)]) + "|"
    sampler, again = ControlWordSampler(0, 0.5), np.random.default_rng(seed)
    assert sampler("a red dog", ["grass", "dog"], again) == expected


@pytest.mark.parametrize("ratios", [(1, 0), (0, 1)])
def test_everything_dropped(ratios):
    assert set(sample(ControlWordSampler(*ratios), 200)) == {"|"}


def test_no_words_at_all():
    assert ControlWordSampler(0, 0)("", [], np.random.default_rng(0)) == "|"


def test_sampling_depends_on_the_generator_alone():
    sampler = ControlWordSampler(0.2, 0.3)
    assert sample(sampler, 50) == sample(sampler, 50)


@pytest.mark.parametrize("name", ["full_drop_ratio", "drop_ratio"])
@pytest.mark.parametrize("ratio", [-0.1, 1.5, float("nan")])
def test_wrong_ratio_is_named(name, ratio):
    with pytest.raises(ValueError, match=f"{name} is {ratio}; valid is a probability"):
        ControlWordSampler(**{name: ratio})
