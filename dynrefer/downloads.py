"""Fetching large files over HTTP: resumed, checked, and in place only when whole."""

import contextlib
import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from dynrefer.files import part_of
from dynrefer.transfers import (
    CHUNK,
    DownloadError,
    InterruptedTransfer,
    notes_of,
    read_all,
    start_over,
    transfer,
    write,
    writing,
)

logger = logging.getLogger(__name__)


class WrongFileError(DownloadError):
    """A file that is whole and not the one that was published."""


def download(
    url: str,
    target: Path,
    size: int | None = None,
    sha256: str | None = None,
    attempts: int = 5,
    pause: float = 1.0,
) -> str:
    """Fetches a file; what has arrived lies in ``<target>.part`` and is gone on with.

    Args:
        url: http or https.
        target: is there only when it is whole and verified.
        size, sha256: bytes and checksum of the published file, where known.
        attempts: how often it is tried without a byte of progress.
        pause: seconds before the second attempt, doubled each time.

    Returns:
        The sha256 of the file.

    Raises:
        DownloadError: the server has no such file, is out of reach or sends another one; the
            target cannot be written; another process fetches it now.
    """
    part = part_of(target)
    with _open_part(part) as stream:
        resumed = stream.seek(0, os.SEEK_END) > 0
        _fetch(url, stream, size, attempts, pause)
        try:
            digest = check(part, size, sha256, url)
        except WrongFileError as error:
            start_over(stream)
            if not resumed:
                raise
            logger.warning("%s; what lay here before may be of another file, once more", error)
            _fetch(url, stream, size, attempts, pause)
            digest = _checked(stream, size, sha256, url)
        part.replace(target)
    notes_of(part).unlink(missing_ok=True)
    return digest


def copy(source: Path, target: Path, size: int | None = None, sha256: str | None = None) -> str:
    """Copies a local file with the same checks; returns its sha256."""
    part = part_of(target)
    with source.open("rb") as content, _open_part(part) as stream:
        start_over(stream)
        with writing(part):
            while chunk := content.read(CHUNK):
                write(stream, chunk)
            os.fsync(stream.fileno())
        digest = _checked(stream, size, sha256, str(source))
        part.replace(target)
    return digest


def read_small(url: str, attempts: int = 3, pause: float = 1.0) -> bytes:
    """The content of a small file; raises DownloadError as :func:`download` does."""
    failures = 0
    while True:
        try:
            return read_all(url)
        except InterruptedTransfer as error:
            failures += 1
            if failures == attempts:
                raise DownloadError(f"{url}: {error}; gave up after {attempts} attempts") from error
            time.sleep(pause * 2 ** (failures - 1))


def check(path: Path, size: int | None, sha256: str | None, source: str) -> str:
    """The sha256 of a file; raises WrongFileError where size or sha256 are not the published."""
    found = path.stat().st_size
    if size is not None and found != size:
        raise WrongFileError(f"{source} has {found:,} bytes, the published file has {size:,}")
    digest = sha256_of(path)
    if sha256 is not None and digest != sha256:
        raise WrongFileError(
            f"{source} is not the published file: sha256 {digest}, published {sha256}"
        )
    return digest


def sha256_of(path: Path) -> str:
    """Checksum of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as content:
        while chunk := content.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _fetch(url: str, stream: IO[bytes], size: int | None, attempts: int, pause: float) -> None:
    """Transfers until the file is whole; gives up after attempts that bring nothing new."""
    furthest, failures = stream.seek(0, os.SEEK_END), 0
    while True:
        try:
            return transfer(url, stream, size)
        except InterruptedTransfer as error:
            position = stream.seek(0, os.SEEK_END)
            failures = 1 if position > furthest else failures + 1
            furthest = max(furthest, position)
            if failures >= attempts:
                raise DownloadError(
                    f"{url}: {error}; gave up after {attempts} attempts without progress, run the "
                    "same command again to go on"
                ) from error
            logger.warning("%s: %s; trying again", url, error)
            time.sleep(pause * 2 ** (failures - 1))


def _checked(stream: IO[bytes], size: int | None, sha256: str | None, source: str) -> str:
    """As :func:`check`; a wrong file is not kept."""
    try:
        return check(Path(stream.name), size, sha256, source)
    except WrongFileError:
        start_over(stream)
        raise


@contextlib.contextmanager
def _open_part(part: Path) -> Iterator[IO[bytes]]:
    """The file that is appended to, for one process at a time; it goes where it stays empty.

    It is not buffered, so that nothing is left to write on closing when the disk is full.
    """
    with writing(part):
        part.parent.mkdir(parents=True, exist_ok=True)
        stream = part.open("ab", buffering=0)
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DownloadError(f"{part}: another process fetches this file now") from error
        try:
            yield stream
        finally:
            if stream.seek(0, os.SEEK_END) == 0:
                part.unlink(missing_ok=True)
                notes_of(part).unlink(missing_ok=True)
