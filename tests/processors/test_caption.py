"""Cleaning of captions."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynrefer.processors.caption import CaptionProcessor
from dynrefer.registry import registry


@pytest.mark.parametrize(
    ("caption", "cleaned"),
    [
        ("A Dog.", "a dog"),
        ("  two\t\tmen \n", "two men"),
        ('He said: "stop!" (now); #1 ~ *', "he said stop now 1"),
        ("dog's t-shirt, really?", "dog's t-shirt, really?"),
        ("a red ball\n", "a red ball"),
        ("one\ttab", "one\ttab"),  # a single blank of any kind stays, as published
        ("...", ""),
        ("", ""),
        ("Ünïcode ÉTÉ", "ünïcode été"),
    ],
)
def test_published_cleaning(caption, cleaned):
    assert CaptionProcessor()(caption) == cleaned


def test_cut_after_max_words():
    caption = " ".join(f"w{i}" for i in range(60))
    assert CaptionProcessor()(caption).split() == [f"w{i}" for i in range(50)]
    assert CaptionProcessor(max_words=2)("one two. three") == "one two"
    assert CaptionProcessor(max_words=1)("one two. three") == "one"


@settings(deadline=None)
@given(st.text(alphabet=st.sampled_from('aB c.!"()*#:;~\t\n,-')))
def test_result_is_clean_and_stays_so(caption):
    cleaned = CaptionProcessor()(caption)
    assert not set(cleaned) & set('.!"()*#:;~AB') and "  " not in cleaned
    assert cleaned == cleaned.strip(" ")
    assert [c for c in cleaned if c not in " \t\n"] == [c for c in caption.lower() if c in "abc,-"]


@pytest.mark.parametrize("caption", [None, 3, ["a"]])
def test_a_caption_that_is_no_string(caption):
    with pytest.raises(TypeError, match="caption is .*; valid is a string"):
        CaptionProcessor()(caption)


def test_registration_and_wrong_length():
    assert registry.get("processor", "blip_caption") is CaptionProcessor
    with pytest.raises(ValueError, match="max_words is 0"):
        CaptionProcessor(max_words=0)
