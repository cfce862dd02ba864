"""Lines of results that survive any kill: a file a process, joined in order at the end.

While work goes on, ``OUT.parts`` beside ``OUT`` holds a file of each process and ``job.json``, what
the work is. A line is written at once and whole; of a killed process the last one may be torn, and
is written again.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from dynrefer.captioning.regions import WantedRegion
from dynrefer.files import part_of, write_atomically, write_text

JOB = "job.json"


class ResumableLines:
    """The lines that one process writes, and those that any has written before.

    Args:
        target: where all lines go in the end.
        job: plain values; another job's lines are not gone on with.
        rank: of this process; 0 begins the work, and joins the lines.

    """

    def __init__(self, target: Path, job: dict[str, Any], rank: int) -> None:
        self.target, self.job = target, job
        self.folder = target.with_name(f"{target.name}.parts")
        self.own = self.folder / f"rank-{rank:05}.jsonl"

    def begin(self) -> None:
        """Makes the folder, or checks whose it is; for one process, before the others open it.

        Raises:
            ValueError: it holds the lines of another job.
        """
        note = self.folder / JOB
        self.folder.mkdir(parents=True, exist_ok=True)
        if not note.is_file():
            write_text(note, json.dumps(self.job, indent=2))
            return
        before = json.loads(note.read_text(encoding="utf-8"))
        for key, value in self.job.items():
            if before.get(key) != value:
                raise ValueError(
                    f"{self.folder} was begun with {key}: {before.get(key)!r}, this is {value!r}; "
                    "go on with the same, delete the folder, or name another --out"
                )

    def done(self) -> set[Any]:
        """Names of the regions that have their line."""
        return {name_of(line) for path in self._parts() for _, _, line in whole_lines(path)}

    def __enter__(self) -> "ResumableLines":
        end = max((start + length for start, length, _ in whole_lines(self.own)), default=0)
        self._file = self.own.open("ab", buffering=0)
        self._file.truncate(end)  # a line that a kill has torn
        return self

    def __exit__(self, *_: Any) -> None:
        self._file.close()

    def write(self, lines: Iterable[dict[str, Any]]) -> None:
        """Adds lines, each by one call of the system."""
        for line in lines:
            self._file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")

    def join(self, names: Iterable[Any]) -> None:
        """Puts the lines of all processes at the target, in the order of names; for one process.

        Raises:
            ValueError: a name has no line.
        """
        places: dict[Any, tuple[Path, int, int]] = {}
        for path in self._parts():
            for start, length, line in whole_lines(path):
                places.setdefault(name_of(line), (path, start, length))

        def write(part: Path) -> None:
            with ExitStack() as stack:
                files = {path: stack.enter_context(path.open("rb")) for path in self._parts()}
                joined = stack.enter_context(part.open("wb"))
                for name in names:
                    if name not in places:
                        raise ValueError(f"{self.folder} has no line of region {name!r}")
                    path, start, length = places[name]
                    files[path].seek(start)
                    joined.write(files[path].read(length))

        write_atomically(self.target, write)
        self.clear()

    def clear(self) -> None:
        """Removes what is needed no more."""
        shutil.rmtree(self.folder, ignore_errors=True)
        part_of(self.target).unlink(missing_ok=True)

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob("rank-*.jsonl"))


def whole_lines(path: Path) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Start and length in bytes, and content, of the lines that a file has up to a torn one."""
    if not path.is_file():
        return
    start = 0
    with path.open("rb") as file:
        for text in file:
            try:
                line = json.loads(text)
            except ValueError:
                return
            if not text.endswith(b"\n") or not isinstance(line, dict) or "id" not in line:
                return
            yield start, len(text), line
            start += len(text)


def name_of(line: dict[str, Any]) -> Any:
    """What no two lines share: see ``WantedRegion.name``."""
    return WantedRegion(line["id"], line=line.get("line")).name


def missing(path: Path, names: Iterable[Any]) -> int:
    """How many of the names have no line in a finished file."""
    there = {name_of(line) for _, _, line in whole_lines(path)}
    return sum(name not in there for name in names)


def size_of(path: Path) -> list[int]:
    """What changes with a file: its bytes, and when it was written."""
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]
