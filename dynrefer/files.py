"""Files and folders that are put in place when they are whole."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def part_of(target: Path) -> Path:
    """Where a file or folder lies until it is whole."""
    return target.with_name(target.name + ".part")


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Has ``write`` make the file at ``part_of(path)``, then puts it in place.

    For one writer: where it raises, what was at ``path`` stays as it was, and the part stays until
    the next try writes over it.
    """
    write(part_of(path))
    part_of(path).replace(path)


def write_text(path: Path, text: str) -> None:
    """Writes text as UTF-8 by :func:`write_atomically`."""
    write_atomically(path, lambda part: part.write_text(text, encoding="utf-8"))


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Where to write a file that is put at ``path`` at the end; after an error nothing of it stays.

    For any number of writers: the last one's file remains, whole. The place has the suffix of
    ``path``, by which libraries choose formats.
    """
    part = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.part{path.suffix}")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
