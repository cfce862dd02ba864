"""Files and folders that are put in place when they are whole, and on the disk."""

import errno
import hashlib
import os
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

# Bytes; file systems take 255, and suffixes come behind it.
LONGEST_STEM = 150

# What is raised where no more can be written: a full disk, a quota, a limit of the shell.
_FULL = {
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the limit of file sizes is reached",
}


def shipped(path: str | Path) -> Path:
    """A file of the repository, "configs/train/shapes.yaml", where the package has it.

    Wheels hold ``configs`` and ``scripts`` inside the package, a checkout beside it. A path that
    neither has is returned as it is.
    """
    package = Path(__file__).resolve().parent
    for place in (package, package.parent):
        if Path(path).parts[:1] in (("configs",), ("scripts",)) and (place / path).exists():
            return place / path
    return Path(path)


def part_of(target: Path) -> Path:
    """Where a file or folder lies until it is whole."""
    return target.with_name(target.name + ".part")


def file_stem(name: str) -> str:
    """A name of any characters and any length as the beginning of a file's name.

    Letters, digits and what files are commonly named with stay; the end of a long name becomes a
    checksum.
    """

    def quoted(found: re.Match) -> str:
        return quote(found[0], safe="", errors="surrogatepass")

    safe = re.sub(r"[^\w .,+=@()\[\]-]", quoted, name)
    safe = f"%2E{safe[1:]}" if safe.startswith(".") else safe
    if len(safe.encode()) <= LONGEST_STEM:
        return safe
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return safe.encode()[: LONGEST_STEM - 13].decode(errors="ignore") + f"-{digest}"


def sync(path: Path) -> None:
    """Returns when a file, or the list of a folder's entries, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put_in_place(part: Path, target: Path) -> None:
    """Renames a file or folder so that a power cut leaves all of it, or what was there before.

    A rename may reach the disk before what the files hold; so they go first, the name last.
    """
    for path in (*part.rglob("*"), part) if part.is_dir() else (part,):
        sync(path)
    part.replace(target)
    sync(target.parent)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Names ``path`` in what a full disk makes the system or a library raise, as an OSError."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and getattr(cause, "errno", None) not in _FULL:
            cause = cause.__context__  # torch.save ends in an error of its own
        if cause is None:
            raise
        raise OSError(f"{path} cannot be written: {_FULL[cause.errno]}") from error


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Has ``write`` make the file at ``part_of(path)``, then puts it in place.

    For one writer: where it raises, what was at ``path`` stays as it was, and the part stays until
    the next try writes over it.
    """
    with writing(path):
        write(part_of(path))
        put_in_place(part_of(path), path)


def write_text(path: Path, text: str) -> None:
    """Writes text as UTF-8 by :func:`write_atomically`."""
    write_atomically(path, lambda part: part.write_text(text, encoding="utf-8"))


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Where to write a file that is put at ``path`` at the end; after an error nothing of it stays.

    For any number of writers: the last one's file remains, whole. The place has the suffix of
    ``path``, by which libraries choose formats.
    """
    part = _hidden(path)
    try:
        with writing(path):
            yield part
            put_in_place(part, path)
    finally:
        part.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Checks that a file can be put at ``path``, before the work that makes it.

    Raises OSError where there is no folder for it, or it cannot be written; ``path`` is a folder or
    a device; or no file can have the name.
    """
    try:
        if path.exists() and not path.is_file():
            raise OSError(f"{path} is {'a folder' if path.is_dir() else 'no file'}; name a file")
        if not path.parent.is_dir():
            raise FileNotFoundError(f"{path}: there is no folder {path.parent}")
        part = _hidden(path)
        part.touch()
        part.unlink()
    except OSError as error:
        if error.strerror is None:
            raise
        raise OSError(f"{path} cannot be written: {error.strerror}") from error


def _hidden(path: Path) -> Path:
    """A name of its own for a writer, with the suffix of ``path``."""
    return path.with_name(f".{path.stem}.{uuid.uuid4().hex}.part{path.suffix}")
