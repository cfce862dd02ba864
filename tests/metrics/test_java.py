"""The Java programs: every sentence in its place, any number of processes, all of them ended."""

import gzip
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dynrefer.metrics import java
from dynrefer.metrics.java import Meteor, ptb_tokenize, single_line

UNUSUAL = ["", " ", "two\nlines", "a ||| b", "|||", "|", "café 狗 👍", "\ud83d", "\x00\x1a", "EVAL"]
# Whole matches by words, stems and synonyms, of one chunk and of several, and none at all.
PHRASES = [
    "a red dog",
    "the red dog",
    "red dogs",
    "dog",
    "a dog red",
    "big car",
    "large auto",
    "xyz",
    "",
]
QUICK = ("-l", "en", "-norm", "-m", "exact stem")
KNOWN = (["the red dog", "a dog"], "a red dog")


@pytest.fixture
def quick(monkeypatch):
    """METEOR by words and stems alone: no table of paraphrases, which takes seconds to read."""
    monkeypatch.setattr(java, "METEOR_OPTIONS", QUICK)


def ended(pid):
    """Whether a process is gone, or dead with nobody left to ask how it ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


def test_tokens_are_lower_case_without_punctuation():
    # Brackets stay, as in pycocoevalcap: its list of punctuation has "-LRB-" in capitals only.
    sentences = ["A red dog.", "", 'He said: "don\'t" (twice)', "Café\nnoir", "..."]
    tokens = ["a red dog", "", "he said do n't -lrb- twice -rrb-", "café noir", ""]
    assert ptb_tokenize(sentences) == tokens
    assert ptb_tokenize([]) == []


HOSTILE = {
    "_JAVA_OPTIONS": "-Xmx2m -Duser.language=de",
    "JAVA_TOOL_OPTIONS": "-Xnonsense",
    "JDK_JAVA_OPTIONS": "-version",
    "LC_ALL": "de_DE",
}


@pytest.fixture
def cluster(monkeypatch):
    """Java options for other programs, another locale, no home."""
    for name, value in HOSTILE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("HOME")


def test_options_of_the_cluster_do_not_reach_java(cluster, quick):
    assert ptb_tokenize(["Café 狗"]) == ["café 狗"]
    with Meteor() as meteor:  # with decimal commas it cannot read its own statistics back
        _, each = meteor.scores([["le café noir"]] * 2, ["le café noir", "un café"])
    assert each[0] == 1 > each[1] > 0


def test_paths_may_hold_anything(tmp_path, monkeypatch):
    """METEOR's table is found there too: a small one, in the place of the seconds' one."""
    folder = tmp_path / "mon café 100 %20"
    (folder / "data").mkdir(parents=True)
    shutil.copy(java.METEOR_JAR, folder)
    with gzip.open(folder / "data/paraphrase.gz", "wt") as table:
        table.write("0.5\nred dog\ncrimson hound\n")
    monkeypatch.setattr(java, "METEOR_JAR", folder / java.METEOR_JAR.name)
    options = (*java.METEOR_OPTIONS[:-1], str(folder / "data/paraphrase.gz"))
    monkeypatch.setattr(java, "METEOR_OPTIONS", options)
    with Meteor() as meteor:
        _, each = meteor.scores([["a red dog"]] * 2, ["a crimson hound", "a crimson cat"])
    assert each[0] > 0.5 > each[1]


def test_every_sentence_keeps_its_place_in_the_tokeniser():
    draw = random.Random(0)
    ranges = [(0, 0x100), (0x2000, 0x2100), (0xD800, 0xE000), (0x3000, 0x30FF), (0, 0x10FFFF)]
    sentences = UNUSUAL + [
        "".join(chr(draw.randint(*draw.choice(ranges))) for _ in range(draw.randint(0, 12)))
        for _ in range(500)
    ]
    marked = [sentence for text in sentences for sentence in (text, "marker")]
    assert ptb_tokenize(marked)[1::2] == ["marker"] * len(sentences)


def test_tokeniser_failure_shows_javas_message(monkeypatch):
    monkeypatch.setattr("dynrefer.metrics.java.TOKENIZER_JAR", "missing.jar")
    with pytest.raises(ChildProcessError, match="ended with code 1(.|\n)*PTBTokenizer"):
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


def test_java_ends_after_use_and_after_an_exception(quick):
    with Meteor() as meteor:
        used = meteor.processes[0].java
        assert used.poll() is None
    assert ended(used.pid)
    with pytest.raises(KeyError), Meteor() as meteor:
        failed = meteor.processes[0].java
        raise KeyError("anything")
    assert ended(failed.pid)


def test_meteor_outside_a_with_block_or_dead_is_an_error(quick):
    meteor = Meteor()
    with pytest.raises(RuntimeError, match="with Meteor"):
        meteor.scores([["a"]], ["a"])
    with pytest.raises(ChildProcessError, match="ended with code -9"), meteor:
        meteor.processes[0].java.kill()
        meteor.scores([["a"]], ["a"])


def test_meteor_failure_shows_javas_message(monkeypatch):
    monkeypatch.setattr("dynrefer.metrics.java.METEOR_JAR", "missing.jar")
    with (
        pytest.raises(ChildProcessError, match=r"ended with code 1: .*missing\.jar"),
        Meteor() as meteor,
    ):
        meteor.scores([["a"]], ["a"])


# Several processes


@pytest.fixture
def small_parts(monkeypatch):
    """Lets METEOR take another process for every two sentences, and three of them at a time."""
    monkeypatch.setattr(java, "SENTENCES_A_PROCESS", 2)
    monkeypatch.setattr(java, "PART", 3)


def many_pairs(count):
    words = ("a", "the", "red", "blue", "dog", "dogs", "cat", "runs", "running", "near", "man")
    draw = random.Random(0)

    def sentence():
        return " ".join(draw.choices(words, k=draw.randint(1, 9)))

    references = [[sentence() for _ in range(draw.randint(1, 3))] for _ in range(count)]
    return references, [sentence() for _ in range(count)]


def test_several_processes_give_the_scores_of_one(quick, small_parts, monkeypatch):
    pairs = many_pairs(100)
    with Meteor(processes=1) as alone:
        expected = alone.scores(*pairs)
        assert len(alone.processes) == 1 and len(set(expected[1])) > 50
    answered = []
    answers = java._MeteorProcess.answers

    def recorded(process, lines):
        answered.append((process, len(lines)))
        return answers(process, lines)

    monkeypatch.setattr(java._MeteorProcess, "answers", recorded)
    with Meteor(processes=2) as parallel:
        assert parallel.scores(*pairs) == expected
        assert {process for process, _ in answered} == set(parallel.processes)
        assert len(parallel.processes) == 2
        assert sum(count for _, count in answered) == 100
        assert parallel.scores(pairs[0][::-1], pairs[1]) != expected


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(st.sampled_from(PHRASES), st.sampled_from(PHRASES)), min_size=1))
def test_pooling_is_that_of_one_meteor_process(meteor, pairs):
    """Asked for all sentences at once, METEOR itself pools them."""
    references, candidates = [[accepted] for accepted, _ in pairs], [said for _, said in pairs]
    whole, each = meteor.scores(references, candidates)
    (process,) = meteor.processes
    statistics = process.answers(list(map(java._score_line, references, candidates)))
    assert (each, whole) == process.evaluate(statistics)


def test_few_sentences_take_one_process(meteor):
    meteor.scores(*many_pairs(50))
    assert len(meteor.processes) == 1


@pytest.mark.parametrize("number", [0, -2])
def test_a_wrong_number_of_processes(number):
    with pytest.raises(ValueError, match=f"processes is {number}, must be at least 1"):
        Meteor(processes=number)


def test_one_dead_process_ends_all(quick, small_parts, monkeypatch):
    answers = java._MeteorProcess.answers

    def killed(process, lines):
        if process is meteor.processes[1]:
            process.java.kill()
        return answers(process, lines)

    monkeypatch.setattr(java._MeteorProcess, "answers", killed)
    with Meteor(processes=2) as meteor:
        with pytest.raises(ChildProcessError, match="ended with code -9"):
            meteor.scores(*many_pairs(1000))
        processes = [process.java for process in meteor.processes]
        assert [process.wait(10) for process in processes] == [-9, -9]
    assert all(ended(process.pid) for process in processes)


def test_progress_that_cannot_be_shown_ends_all(quick, small_parts, monkeypatch):
    """As in a terminal that was closed: an error, and nothing waits for a bar's lock."""

    def gone(bar, state):
        raise BrokenPipeError("stderr")

    monkeypatch.setattr(java.Progress, "refresh", gone)
    monkeypatch.setattr(java.Progress, "update", lambda bar, count: bar.refresh(count))
    with Meteor(processes=2) as meteor:
        with pytest.raises(BrokenPipeError, match="stderr"):
            meteor.scores(*many_pairs(1000))
        assert [process.java.wait(10) for process in meteor.processes] == [-9, -9]


def test_long_sentences_do_not_block_the_pipes(meteor):
    """More than a pipe holds, in one line and in the lines on their way."""
    long = " ".join(f"word{number}" for number in range(2_000))
    assert 20 * len(long) > 4 * 65_536
    _, each = meteor.scores([["a dog"]] * 40, [*[long] * 20, *["a dog"] * 20])
    assert each == [0.0] * 20 + [1.0] * 20


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_java_ends_with_its_user(sent):
    """Only Python gets the signal, unlike with Ctrl-C, where the terminal tells Java as well."""
    command = [sys.executable, "-c", LONG_SCORING]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    user = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        pids = [int(pid) for pid in user.stdout.readline().split()]
        assert len(pids) == 2 and not any(map(ended, pids))
        user.send_signal(sent)
        _, errors = user.communicate(timeout=30)
        assert ("KeyboardInterrupt" in errors) == (sent == signal.SIGINT)
        assert user.returncode != 0
        patience = time.monotonic() + 120  # a Java that is still starting ends after it
        while not all(map(ended, pids)) and time.monotonic() < patience:
            time.sleep(0.1)
        assert all(map(ended, pids))
    finally:
        user.kill()


LONG_SCORING = """
import signal, threading, time
from dynrefer.metrics import java

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored under nohup

def tell_once_scoring():
    while threading.active_count() < 6:  # this thread, the main one, two for each process
        time.sleep(0.01)
    print(*(process.java.pid for process in meteor.processes), flush=True)

java.SENTENCES_A_PROCESS, java.METEOR_OPTIONS = 1, ("-l", "en", "-norm", "-m", "exact")
with java.Meteor(processes=2) as meteor:
    threading.Thread(target=tell_once_scoring, daemon=True).start()
    meteor.scores([["a red dog"]] * 300_000, ["the dog"] * 300_000)
"""
