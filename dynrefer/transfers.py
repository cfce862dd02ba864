"""One HTTP transfer into an open file: the part that is missing, checked against what is known."""

import contextlib
import http.client
import json
import logging
import os
import re
import shutil
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

logger = logging.getLogger(__name__)

CHUNK = 2**20
# Seconds without a byte after which a connection counts as broken.
TIMEOUT = 30
# What servers answer when they are busy, not when the file is not there.
_BUSY = (408, 425, 429, 500, 502, 503, 504)
_NOTHING_LEFT = http.client.REQUESTED_RANGE_NOT_SATISFIABLE


class DownloadError(OSError):
    """A file that could not be fetched; what has arrived is kept where it can be gone on with."""


class InterruptedTransfer(Exception):
    """A transfer that may be gone on with or tried again."""


def transfer(url: str, stream: IO[bytes], size: int | None) -> None:
    """Appends what is missing to an unbuffered file.

    Args:
        url: http or https.
        stream: what has arrived so far; it is emptied where that cannot be gone on with.
        size: bytes of the published file, where known.

    Raises:
        InterruptedTransfer: the connection broke, or the server gave something unexpected.
        DownloadError: trying again would not help.
    """
    start = stream.seek(0, os.SEEK_END)
    if size is not None and start > size:
        start = start_over(stream)
    if size is not None and start == size:
        return
    part = Path(stream.name)
    known = _known(part) if start else {}
    with _request(url, start, known.get("tag")) as response:
        if response.status == _NOTHING_LEFT:
            if size is None and _content_range(response) == (None, start):
                return
            start_over(stream)
            raise InterruptedTransfer("the server's file is shorter than what lies here")
        if response.status == http.client.PARTIAL_CONTENT:
            if _content_range(response)[0] != start:
                start_over(stream)
                raise InterruptedTransfer("the server sent another part than asked for")
        elif start:
            logger.warning("%s: the server sends the whole file again", url)
            start = start_over(stream)
        total = _checked_total(response, url, start, size)
        if start and (known.get("total") or total) != total:
            start_over(stream)
            raise InterruptedTransfer("the server's file has another length than before")
        if not start:
            _remember(response, part, total)
        _check_space(part, total - start)
        _append(response, stream, url, total)


def read_all(url: str) -> bytes:
    """The content of a small file; raises as :func:`transfer` does."""
    with _request(url) as response:
        return b"".join(iter(lambda: _read(response), b""))


def notes_of(part: Path) -> Path:
    """Where the server's tag and length of the file lie, so that no two versions are mixed."""
    return part.with_name(part.name + ".json")


def start_over(stream: IO[bytes]) -> int:
    """Empties the file; returns 0, the new position."""
    stream.truncate(0)
    return stream.seek(0)


def write(stream: IO[bytes], chunk: bytes) -> None:
    """Writes all of a chunk to an unbuffered file, which may take it in pieces."""
    rest = memoryview(chunk)
    while rest:
        rest = rest[stream.write(rest) :]


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the disk refuses into a DownloadError that says so."""
    try:
        yield
    except DownloadError:
        raise
    except OSError as error:
        raise DownloadError(
            f"cannot write {path}: {error.strerror or error}; make room or choose another place"
        ) from error


def _append(response: http.client.HTTPResponse, stream: IO[bytes], url: str, total: int) -> None:
    """Writes the response's body; ``total`` is the length of the whole file or 0."""
    start = stream.seek(0, os.SEEK_END)
    name = Path(stream.name).name.removesuffix(".part")
    bar = tqdm(
        desc=name, total=total or None, initial=start, unit="B", unit_scale=True, mininterval=1
    )
    with bar, writing(Path(stream.name)):
        while chunk := _read(response):
            write(stream, chunk)
            bar.update(len(chunk))
        os.fsync(stream.fileno())
    position = stream.tell()
    if total and position > total:
        start_over(stream)
        raise DownloadError(f"{url} sends more than the {total:,} bytes of the file")
    if total and position < total:
        raise InterruptedTransfer(f"broke off after {position:,} of {total:,} bytes")


def _request(url: str, start: int = 0, tag: str | None = None) -> http.client.HTTPResponse:
    """Opens the connection; a part is asked for where ``start`` is above 0."""
    headers = {"User-Agent": "dynrefer", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if tag:
            headers["If-Range"] = tag
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == _NOTHING_LEFT and start:
            return error  # it is a response, too
        error.close()
        if error.code in _BUSY:
            raise InterruptedTransfer(f"the server says {error.code} {error.reason}") from error
        raise DownloadError(f"{url}: the server says {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, socket.gaierror | ssl.SSLCertVerificationError):
            raise DownloadError(f"{url}: cannot be reached: {error.reason}") from error
        raise InterruptedTransfer(f"cannot be reached: {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise InterruptedTransfer(f"cannot be reached: {error!r}") from error
    except ValueError as error:
        raise DownloadError(f"{url} is no address: {error}") from error


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise InterruptedTransfer(f"the connection broke: {error!r}") from error


def _checked_total(
    response: http.client.HTTPResponse, url: str, start: int, size: int | None
) -> int:
    """Bytes of the whole file as the server says, or as published; 0 where neither does."""
    if response.headers.get_content_type() == "text/html":
        raise DownloadError(f"{url} is a web page and not the file (a login page, or a proxy's?)")
    length = response.headers["Content-Length"]
    total = _content_range(response)[1]
    if total is None and length and length.isdigit():
        total = start + int(length)
    if size is not None and total not in (None, size):
        raise DownloadError(
            f"{url}: the server's file has {total:,} bytes, the published one {size:,}"
        )
    if total is None and size is None and response.headers["Transfer-Encoding"] != "chunked":
        raise DownloadError(f"{url}: the server does not say how long the file is")
    return total or size or 0


def _content_range(response: http.client.HTTPResponse) -> tuple[int | None, int | None]:
    """First byte of a part and bytes of the whole file, where the server says them."""
    header = response.headers["Content-Range"] or ""
    words = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", header.strip())
    first, total = words.groups() if words else (None, None)
    return int(first) if first else None, int(total) if total and total != "*" else None


def _known(part: Path) -> dict[str, Any]:
    """What an earlier request noted; nothing where it noted nothing."""
    try:
        notes = json.loads(notes_of(part).read_text())
    except (OSError, ValueError):
        return {}
    return notes if isinstance(notes, dict) else {}


def _remember(response: http.client.HTTPResponse, part: Path, total: int) -> None:
    tag = response.headers["ETag"] or ""
    tag = response.headers["Last-Modified"] if not tag or tag.startswith("W/") else tag
    with writing(part):
        notes_of(part).write_text(json.dumps({"tag": tag, "total": total}))


def _check_space(part: Path, missing: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if missing > free:
        raise DownloadError(
            f"{part.parent}: {missing / 1e9:.1f} GB are to come, {free / 1e9:.1f} GB are free on "
            "this disk; make room or choose another place"
        )
