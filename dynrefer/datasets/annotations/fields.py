"""Values out of records; what cannot be used raises BadRecord with a reason to count by."""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

NAMED_CASES = 5  # of a reason
DETAIL_LENGTH = 200  # a polygon can have thousands of numbers
_LARGEST = sys.float_info.max
_LONGEST_SIDE = (1 << 31) - 1  # pixels; no format has more

Identity = int | str


class BadRecord(Exception):
    """A record that cannot be used: a reason to count by, and the value at fault."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail[:DETAIL_LENGTH]}")
        self.reason = reason


@dataclass
class Cases:
    """How often something happened for which reason, and the first records it happened to."""

    counts: Counter[str] = field(default_factory=Counter)
    named: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, case: str) -> None:
        """Counts a case under its reason, and keeps the first of each reason."""
        self.counts[reason] += 1
        cases = self.named.setdefault(reason, [])
        if len(cases) < NAMED_CASES:
            cases.append(printable(case))

    def add_bad(self, record: str, error: BadRecord) -> None:
        """Counts a bad record."""
        self.add(error.reason, f"{record}: {error}")

    def __str__(self) -> str:
        counts = ", ".join(f"{count} x {reason}" for reason, count in self.counts.items())
        return f"{self.counts.total()} bad records ({counts})"


def label_of(kind: str, record: Any, position: int, key: str = "id") -> str:
    """What a report calls a record: by its id, else by its position in the file."""
    known = isinstance(record, dict) and isinstance(record.get(key), (int, str))
    return f"{kind} {record[key]!r}" if known else f"{kind} at position {position}"


def labelled(kind: str, records: Iterable[Any], key: str = "id") -> Iterator[tuple[str, Any]]:
    """Records, each after what a report calls it."""
    for position, record in enumerate(records):
        yield label_of(kind, record, position, key), record


def value_of(record: Any, key: str, kinds: type | tuple[type, ...], *older_keys: str) -> Any:
    """The value under ``key``, else under one of its older names, of one of the kinds."""
    if not isinstance(record, dict):
        raise BadRecord("wrong type", f"must be an object, is {record!r}")
    found = key if key in record else next(filter(record.__contains__, older_keys), None)
    if found is None:
        raise BadRecord("missing key", f"'{key}'")
    value = record[found]
    # JSON's true is no number, whatever Python thinks of it.
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise BadRecord("wrong type", f"'{found}' is {value!r}")
    return value


def whole_number(record: Any, key: str) -> int:
    """A whole number; tables that hold blanks make 640.0 of it."""
    value = value_of(record, key, (int, float))
    if value % 1:  # of nan too
        raise BadRecord("wrong type", f"'{key}' is {value!r}, must be a whole number")
    return int(value)


def identity_of(record: Any, key: str = "id", *older_keys: str) -> Identity:
    """A whole number or a text."""
    value = value_of(record, key, (int, str), *older_keys)
    return checked_text(value, key) if isinstance(value, str) else value


def members_of(value: Any, key: str) -> dict[str, Any]:
    """The members of an object that are not null; a null object has none."""
    if not isinstance(value, dict | None):
        raise BadRecord("wrong type", f"'{key}' is {value!r}, must be an object")
    return {name: member for name, member in (value or {}).items() if member is not None}


def text_of(record: Any, key: str, *older_keys: str) -> str:
    """A text whose every character can be written as UTF-8."""
    return checked_text(value_of(record, key, str, *older_keys), key)


def checked_text(text: str, key: str) -> str:
    """The text, unless it holds a byte that was not UTF-8, or half of a surrogate pair."""
    if not text.isascii() and printable(text) != text:
        raise BadRecord("text is not UTF-8", f"'{key}' is '{printable(text)}'")
    return text


def printable(text: str) -> str:
    """The text with lone surrogates, which no file takes, as backslash escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def captions_of(record: dict[str, Any]) -> list[str]:
    """All references of a record: ``caption``, then the others of ``captions``, each kept once.

    null is as good as an absent key, and a text without a letter or digit is no reference.
    """
    caption, others = record.get("caption"), record.get("captions")
    if not isinstance(caption, str | None):
        raise BadRecord("wrong type", f"'caption' is {caption!r}, must be a text")
    if not isinstance(others, list | None) or not all(isinstance(t, str) for t in others or ()):
        raise BadRecord("wrong type", f"'captions' is {others!r}, must be a list of texts")
    texts = [caption or "", *(others or ())]
    if caption in texts[1:]:
        texts.pop(1 + texts[1:].index(caption))
    key = "captions" if others else "caption"
    return [checked_text(text, key) for text in texts if any(map(str.isalnum, text))]


def size_of(record: Any) -> tuple[int, int]:
    """Width and height of an image in pixels."""
    width, height = whole_number(record, "width"), whole_number(record, "height")
    if width < 1 or height < 1:
        raise BadRecord("image has no area", f"{width} x {height} pixels")
    if max(width, height) > _LONGEST_SIDE:
        raise BadRecord("image too large", f"{width:.4g} x {height:.4g} pixels")
    return width, height


def finite_numbers(values: Sequence[Any], key: str, count: int | None = None) -> list[float]:
    """Finite numbers, so many where a count is given."""
    numbers = [
        v for v in values if isinstance(v, (int, float)) and v is not True and v is not False
    ]
    if len(numbers) != len(values) or count not in (None, len(values)):
        wanted = "numbers" if count is None else f"{count} numbers"
        raise BadRecord("wrong type", f"'{key}' is {list(values)!r}, must be {wanted}")
    if not all(map(is_finite, numbers)):
        raise BadRecord("box is not finite", f"'{key}' is {list(values)}")
    return numbers


def is_finite(number: float) -> bool:
    """Whether a number is one, and within what a float holds, as a whole number need not be."""
    return -_LARGEST <= number <= _LARGEST
