"""JSON files of any size, element by element: memory holds a chunk of the file and one element."""

import codecs
import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

CHUNK_BYTES = 4 << 20
# A number, a literal or an escape this near to the end of what was read may go on after it.
_MARGIN = 16
_whitespace = re.compile(r"[ \t\n\r]*")
_decoder = json.JSONDecoder()


def iterate_items(
    path: str | Path, key: str | None = None, errors: str = "strict"
) -> Iterator[Any]:
    """Elements of the array that a file is, or of the array under a top-level key of its object.

    What follows the array of ``key`` is not read. ``errors`` is that of ``bytes.decode``: with
    "surrogateescape" a byte that is not UTF-8 stays in its text as a lone surrogate.

    Raises FileNotFoundError for a missing file, and, on reaching the place, ValueError naming file,
    key and byte position: not JSON, cut off, key missing, not an array, not UTF-8.
    """
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"no file at {source}")
    return _array(source, errors) if key is None else _array_of_key(source, key, errors)


def is_array(path: str | Path, errors: str = "strict") -> bool:
    """Whether a file begins as a JSON array does; ``errors`` is that of ``iterate_items``.

    Raises FileNotFoundError for a missing file, ValueError for one that does not begin as UTF-8.
    """
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"no file at {source}")
    with source.open("rb") as file:
        return _Reader(file, source, errors).peek() == "["


def read_members(
    path: str | Path, without: Collection[str] = (), errors: str = "strict"
) -> dict[str, Any]:
    """Members of the object that a file is, except those named, which are skipped unkept.

    ``errors`` is that of ``iterate_items``.

    Raises FileNotFoundError for a missing file and ValueError naming file and byte position for one
    that is not a whole JSON object in UTF-8.
    """
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"no file at {source}")
    members: dict[str, Any] = {}
    with source.open("rb") as file:
        reader = _Reader(file, source, errors)
        for key in reader.member_names():
            if key in without:
                reader.skip_value()
            else:
                members[key] = list(reader.items()) if reader.peek() == "[" else reader.value()
        reader.finish()
    return members


def _array(source: Path, errors: str) -> Iterator[Any]:
    with source.open("rb") as file:
        reader = _Reader(file, source, errors)
        if reader.peek() != "[":
            raise reader.error("must be an array")
        yield from reader.items()
        reader.finish()


def _array_of_key(source: Path, key: str, errors: str) -> Iterator[Any]:
    with source.open("rb") as file:
        reader = _Reader(file, source, errors)
        others = []
        for member in reader.member_names():
            if member != key:
                others.append(member)
                reader.skip_value()
                continue
            if reader.peek() != "[":
                raise reader.error(f"'{key}' must be an array")
            yield from reader.items()
            if reader.peek() not in (",", "}"):
                raise reader.error(f"'{key}' is followed by neither ',' nor '}}'")
            return
        reader.finish()
    raise ValueError(f"{source}: has no key '{key}'; its keys are {others}")


class _Reader:
    """A place in a JSON text that is read as far as needed."""

    def __init__(self, file: BinaryIO, source: Path, errors: str) -> None:
        self._file, self._source, self._errors = file, source, errors
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors)
        if file.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
            file.seek(0)
        self._passed_bytes = file.tell()  # before the text
        self._text, self._position = "", 0

    def member_names(self) -> Iterator[str]:
        """Keys of an object; the caller takes the value after each."""
        if self.peek() != "{":
            raise self.error("must be an object")
        self._position += 1
        if self.peek() == "}":
            self._position += 1
            return
        while True:
            if self.peek() != '"':
                raise self.error("a key in double quotes is missing")
            key = self.value()
            self._take(":")
            yield key
            if self._take(",}") == "}":
                return

    def items(self) -> Iterator[Any]:
        """Elements of the array that starts here."""
        self._take("[")
        if self.peek() == "]":
            self._position += 1
            return
        while True:
            yield self.value()
            if self._take(",]") == "]":
                return

    def value(self) -> Any:
        """The value that starts here, in whole."""
        self.peek()
        while True:
            try:
                value, end = _decoder.raw_decode(self._text, self._position)
            except json.JSONDecodeError as error:
                if self._may_go_on(error) and self._read_more():
                    continue
                if error.msg.startswith("Unterminated") or error.pos >= len(self._text):
                    raise self.error("ends inside a value; is the file cut off?") from error
                raise self.error(error.msg, error.pos) from error
            except RecursionError as error:
                raise self.error("is nested too deeply") from error
            if len(self._text) - end >= _MARGIN or not self._read_more():
                self._position = end
                return value

    def skip_value(self) -> None:
        """Passes over the value that starts here; an array's elements one by one."""
        if self.peek() == "[":
            for _ in self.items():
                pass
        else:
            self.value()

    def peek(self) -> str:
        """The next character that is no white space; "" at the end of the file."""
        while True:
            self._position = _whitespace.match(self._text, self._position).end()
            if self._position < len(self._text):
                return self._text[self._position]
            if not self._read_more():
                return ""

    def finish(self) -> None:
        """Checks that nothing follows."""
        if self.peek():
            raise self.error("text follows the end of the JSON")

    def error(self, message: str, position: int | None = None) -> ValueError:
        """An error naming the file and the byte of a position in the text, by default this one."""
        passed = self._text[: self._position if position is None else position]
        byte = self._passed_bytes + len(passed.encode("utf-8", self._errors))
        return ValueError(f"{self._source}: {message} (at byte {byte})")

    def _take(self, wanted: str) -> str:
        found = self.peek()
        if found and found in wanted:
            self._position += 1
            return found
        if not found:
            raise self.error("ends too early; is the file cut off?")
        raise self.error(f"{found!r} where {' or '.join(map(repr, wanted))} must stand")

    def _may_go_on(self, error: json.JSONDecodeError) -> bool:
        unfinished = error.msg.startswith("Unterminated string")
        return unfinished or len(self._text) - error.pos < _MARGIN

    def _read_more(self) -> bool:
        """Drops the text that was passed and reads on; False at the end of the file."""
        # A long element is read by doubling, so that trying it again stays cheap in total.
        content = self._file.read(max(CHUNK_BYTES, len(self._text) - self._position))
        pending = len(self._decoder.getstate()[0])
        try:
            decoded = self._decoder.decode(content, final=not content)
        except UnicodeDecodeError as error:
            byte = self._file.tell() - len(content) - pending + error.start
            message = f"{self._source}: is not UTF-8 (at byte {byte}); convert it to UTF-8"
            raise ValueError(message) from error
        if not content:
            return False
        passed = self._text[: self._position]
        self._passed_bytes += len(passed.encode("utf-8", self._errors))
        self._text = self._text[self._position :] + decoded
        self._position = 0
        return True
