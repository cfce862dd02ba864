import os
import subprocess

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dynrefer.metrics import captions
from dynrefer.metrics.captions import caption_metrics
from dynrefer.metrics.java import Meteor, java_command, ptb_tokenize, single_line

UNUSUAL = ["", " ", "two\nlines", "a ||| b", "|||", "|", "café 狗 👍", "\ud83d", "\x00\x1a", "EVAL"]
KNOWN = (["the red dog", "a dog"], "a red dog")


def _ended(process):
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return process.returncode is not None
    return False


def test_captions_agree_with_the_published_code(reference, meteor):
    case = reference("captions.json")
    expected = case["expected"]
    metrics = caption_metrics(case["references"], case["hypotheses"], meteor)
    assert [metrics[f"BLEU_{n}"] for n in (1, 2, 3, 4)] == pytest.approx(expected["Bleu"], abs=1e-6)
    for name in ("METEOR", "ROUGE_L", "CIDEr"):
        assert metrics[name] == pytest.approx(expected[name], abs=1e-6)


def test_order_and_kind_of_ids_do_not_matter(meteor):
    references = {7: ["a red dog", "the dog"], "b": ["two cats"], 3: ["a man with a hat"]}
    predictions = {3: "a man", "b": "two cats", 7: "a dog"}
    shuffled = {key: references[key] for key in (3, 7, "b")}
    first = caption_metrics(references, predictions, meteor)
    assert caption_metrics(shuffled, predictions, meteor) == pytest.approx(first)


def test_nothing_is_printed(meteor, capfd):
    caption_metrics({1: ["a dog"], 2: ["a cat"]}, {1: "a dog", 2: ""}, meteor)
    assert capfd.readouterr() == ("", "")


def test_caption_metrics_starts_and_ends_its_own_meteor(meteor, monkeypatch):
    events = []

    class Recorded:
        def __enter__(self):
            events.append("start")
            return meteor

        def __exit__(self, *error):
            events.append("end")

    monkeypatch.setattr(captions, "Meteor", Recorded)
    assert caption_metrics({1: ["a red dog"]}, {1: "a red dog"})["METEOR"] == 1.0
    assert events == ["start", "end"]


@pytest.mark.parametrize(
    ("references", "predictions", "message"),
    [
        ({}, {}, "empty"),
        ({1: ["a"], 2: ["b"]}, {1: "a"}, r"1 of 2 references have no prediction \(e.g. \[2\]\)"),
        ({1: ["a"]}, {1: "a", "x": "b"}, r"1 of 2 predictions have no reference \(e.g. \['x'\]\)"),
        ({1: []}, {1: "a"}, r"references\[1\] is \[\]"),
        ({1: "a dog"}, {1: "a"}, r"references\[1\] is 'a dog', not a list"),
        ({1: ["..."]}, {1: "a dog"}, "no reference caption holds a word"),
    ],
)
def test_captions_that_cannot_be_scored_are_named(references, predictions, message):
    with pytest.raises(ValueError, match=message):
        caption_metrics(references, predictions)


def test_tokens_are_lower_case_without_punctuation():
    # Brackets stay, as in pycocoevalcap: its list of punctuation has "-LRB-" in capitals only.
    sentences = ["A red dog.", "", 'He said: "don\'t" (twice)', "Café\nnoir", "..."]
    tokens = ["a red dog", "", "he said do n't -lrb- twice -rrb-", "café noir", ""]
    assert ptb_tokenize(sentences) == tokens
    assert ptb_tokenize([]) == []


def test_java_runs_in_english_for_users_of_any_locale(monkeypatch):
    # With decimal commas METEOR cannot read its own statistics back.
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Duser.language=de -Duser.country=DE")
    command = java_command("-XshowSettings:locale -version")
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert "default locale = English (United States)" in shown


def test_tokens_survive_a_plain_locale(monkeypatch):
    monkeypatch.setenv("LC_ALL", "C")
    assert ptb_tokenize(["Café 狗"]) == ["café 狗"]


@settings(max_examples=5, deadline=None)
@given(st.lists(st.text(), min_size=1))
def test_every_sentence_keeps_its_place_in_the_tokeniser(sentences):
    marked = [sentence for text in sentences for sentence in (text, "marker")]
    tokens = ptb_tokenize(marked)
    assert tokens[1::2] == ["marker"] * len(sentences)


def test_tokeniser_failure_shows_javas_message(monkeypatch):
    monkeypatch.setattr("dynrefer.metrics.java.TOKENIZER_JAR", "missing.jar")
    with pytest.raises(RuntimeError, match="ended with code 1(.|\n)*PTBTokenizer"):
        ptb_tokenize(["a dog"])


@given(st.text(alphabet=st.one_of(st.characters(), st.sampled_from("| \n\r\u2028"))))
def test_single_line_holds_no_separator(sentence):
    line = single_line(sentence)
    assert len(line.splitlines()) <= 1 and "|||" not in line
    assert single_line(line) == line


def test_meteor_of_equal_and_foreign_sentences(meteor):
    whole, each = meteor.scores([["a red dog"], ["a red dog"], ["a"]], ["a red dog", "xyz", ""])
    assert each == [1.0, 0.0, 0.0]
    assert 0 < whole < 1
    assert meteor.scores([], []) == (0.0, [])


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.one_of(st.sampled_from(UNUSUAL), st.text()), min_size=1, max_size=6))
def test_unusual_sentences_do_not_disturb_their_neighbours(meteor, sentences):
    _, (alone,) = meteor.scores([KNOWN[0]], [KNOWN[1]])
    references = [sentences, *([sentence] for sentence in sentences), KNOWN[0]]
    _, each = meteor.scores(references, [sentences[0], *sentences, KNOWN[1]])
    assert len(each) == len(sentences) + 2 and each[-1] == alone
    assert all(0 <= score <= 1 for score in each)


@pytest.mark.parametrize(
    ("references", "candidates", "message"),
    [
        ([["a"]], ["a", "b"], "1 reference lists for 2 candidates"),
        ([[]], ["a"], r"references\[0\] is \[\]"),
        (["a dog"], ["a"], r"references\[0\] is 'a dog'"),
    ],
)
def test_meteor_refuses_lists_that_do_not_fit(meteor, references, candidates, message):
    with pytest.raises(ValueError, match=message):
        meteor.scores(references, candidates)


def test_java_ends_after_use_and_after_an_exception():
    with Meteor() as meteor:
        used = meteor.process
        assert used.poll() is None
    assert _ended(used)
    with pytest.raises(KeyError), Meteor() as meteor:
        failed = meteor.process
        raise KeyError("anything")
    assert _ended(failed)


def test_meteor_outside_a_with_block_or_dead_is_an_error():
    meteor = Meteor()
    with pytest.raises(RuntimeError, match="with Meteor"):
        meteor.scores([["a"]], ["a"])
    with pytest.raises(RuntimeError, match="ended with code -9"), meteor:
        meteor.process.kill()
        meteor.scores([["a"]], ["a"])


def test_meteor_failure_shows_javas_message(monkeypatch):
    monkeypatch.setattr("dynrefer.metrics.java.METEOR_JAR", "missing.jar")
    with (
        pytest.raises(RuntimeError, match=r"ended with code 1: .*missing\.jar"),
        Meteor() as meteor,
    ):
        meteor.scores([["a"]], ["a"])
