"""JSON files of any size, element by element: memory holds a chunk of the file and one element.

The standard library's scanner, fed chunk by chunk. ijson is no substitute: it takes 1.4 times as
long, makes "?" of half a surrogate pair without a word, and refuses the NaN that json writes.

A byte that is not UTF-8 stays in its text as a lone surrogate, so that it costs its record and not
the file: ``dynrefer.datasets.annotations.fields.checked_text`` finds it.
"""

import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, TextIO

CHUNK = 1 << 20  # characters
# A number, a literal or an escape this near to the end of what was read may go on after it.
_MARGIN = 16
_whitespace = re.compile(r"[ \t\n\r]*")
_decoder = json.JSONDecoder()


def iterate_items(path: str | Path, key: str | None = None) -> Iterator[Any]:
    """Elements of the array that a file is, or of the array under a top-level key of its object.

    What follows the array of ``key`` is not read.

    Raises FileNotFoundError for a missing file, and, on reaching the place, ValueError naming file,
    key and character: not JSON, cut off, key missing, not an array.
    """
    return _items(_existing(path), key)


def is_array(path: str | Path) -> bool:
    """Whether a file begins as a JSON array does; FileNotFoundError for a missing file."""
    with _opened(_existing(path)) as file:
        return _Reader(file).peek() == "["


def read_members(path: str | Path, without: Collection[str] = ()) -> dict[str, Any]:
    """Members of the object that a file is, except those named, which are read over unkept.

    Raises FileNotFoundError for a missing file and ValueError naming file and character for one
    that is not a whole JSON object.
    """
    with _opened(_existing(path)) as file:
        reader, members, left_out = _Reader(file), {}, set()
        for key in reader.member_names():
            if key in members or key in left_out:
                raise reader.error(f"'{key}' comes twice")
            if key in without:
                left_out.add(key)
                reader.skip_value()
            else:
                members[key] = reader.value()
        reader.finish()
    return members


def _existing(path: str | Path) -> Path:
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file at {path}")
    return Path(path)


def _opened(path: Path) -> TextIO:
    # Without the translation of line ends, characters are counted as they stand in the file.
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


def _items(path: Path, key: str | None) -> Iterator[Any]:
    with _opened(path) as file:
        reader, others = _Reader(file), []
        if key is None:
            yield from reader.elements("must be an array")
            reader.finish()
            return
        for member in reader.member_names():
            if member == key:
                yield from reader.elements(f"'{key}' must be an array")
                reader.take(",}")
                return
            others.append(member)
            reader.skip_value()
        reader.finish()
    raise ValueError(f"{path}: has no key '{key}'; its keys are {others}")


class _Reader:
    """A place in a JSON text that is read as far as needed."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._passed = file, 0  # characters before the text
        self._text, self._position = "", 0

    def member_names(self) -> Iterator[str]:
        """Keys of an object; the caller takes the value after each."""
        self.take("{", "must be an object")
        closed = self.peek() == "}" and self.take("}")
        while not closed:
            if self.peek() != '"':
                raise self.error("a key in double quotes is missing")
            key = self.value()
            self.take(":")
            yield key
            closed = self.take(",}") == "}"

    def elements(self, otherwise: str) -> Iterator[Any]:
        """Elements of the array that starts here; ``otherwise`` is what to say of another value."""
        self.take("[", otherwise)
        closed = self.peek() == "]" and self.take("]")
        while not closed:
            yield self.value()
            closed = self.take(",]") == "]"

    def value(self) -> Any:
        """The value that starts here, in whole."""
        self.peek()
        while True:
            try:
                value, end = _decoder.raw_decode(self._text, self._position)
            except json.JSONDecodeError as error:
                unfinished = error.msg.startswith("Unterminated string")
                end = len(self._text) if unfinished else error.pos
                if len(self._text) - end < _MARGIN and self._read_more():
                    continue
                if end >= len(self._text):
                    raise self.error("ends inside a value; is the file cut off?") from error
                raise self.error(error.msg, error.pos) from error
            except (ValueError, RecursionError) as error:  # of a number of thousands of digits
                deep = isinstance(error, RecursionError)
                raise self.error("is nested too deeply" if deep else str(error)) from error
            if len(self._text) - end >= _MARGIN or not self._read_more():
                self._position = end
                return value

    def skip_value(self) -> None:
        """Passes over the value that starts here; an array's elements one by one."""
        for _ in self.elements("") if self.peek() == "[" else (self.value(),):
            pass

    def peek(self) -> str:
        """The next character that is no white space; "" at the end of the file."""
        while True:
            self._position = _whitespace.match(self._text, self._position).end()
            if self._position < len(self._text):
                return self._text[self._position]
            if not self._read_more():
                return ""

    def take(self, wanted: str, otherwise: str = "") -> str:
        """The next character, one of those wanted; ``otherwise`` is what to say of another."""
        found = self.peek()
        if not found or found not in wanted:
            found = f"{found!r} where" if found else "the end (is the file cut off?) where"
            raise self.error(otherwise or f"{found} {' or '.join(map(repr, wanted))} must stand")
        self._position += 1
        return found

    def finish(self) -> None:
        """Checks that nothing follows."""
        if self.peek():
            raise self.error("text follows the end of the JSON")

    def error(self, message: str, position: int | None = None) -> ValueError:
        """An error naming the file and a position in the text, by default this one."""
        place = self._passed + (self._position if position is None else position)
        return ValueError(f"{self._file.name}: {message} (at character {place})")

    def _read_more(self) -> bool:
        """Drops the text that was passed and reads on; False at the end of the file."""
        # A long element is read by doubling, so that trying it again stays cheap in total.
        more = self._file.read(max(CHUNK, len(self._text) - self._position))
        if more:
            self._passed += self._position
            self._text, self._position = self._text[self._position :] + more, 0
        return bool(more)
