"""Values out of records of public files; what cannot be used raises BadRecord with the reason."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dynrefer.datasets.annotations.json_stream import iterate_items, read_members
from dynrefer.datasets.annotations.records import BadRecord, Identity

Image = dict[str, Any]  # id, file_name, width, height, as annotation files have them
Box = list[float]


def read_records(path: Path, key: str | None = None) -> Iterator[Any]:
    """Elements of a JSON array, as ``iterate_items`` reads it; text that is not UTF-8 stays in.

    So one bad text costs its record alone (``text_of`` refuses it), not the file.
    """
    return iterate_items(path, key, errors="surrogateescape")


def read_other_members(path: Path) -> dict[str, Any]:
    """Members of a COCO-style file but its images and annotations; text as in ``read_records``."""
    return read_members(path, without=("images", "annotations"), errors="surrogateescape")


def label_of(kind: str, record: Any, position: int, key: str = "id") -> str:
    """What a report calls a record: by its id, else by its position in the file."""
    known = isinstance(record, dict) and isinstance(record.get(key), (int, str))
    return f"{kind} {record[key]!r}" if known else f"{kind} at position {position}"


def value_of(record: Any, key: str, kinds: type | tuple[type, ...], *older_keys: str) -> Any:
    """The value under ``key``, else under one of its older names, of one of the kinds."""
    if not isinstance(record, dict):
        raise BadRecord("wrong type", f"must be an object, is {record!r}")
    found = next((name for name in (key, *older_keys) if name in record), None)
    if found is None:
        raise BadRecord("missing key", f"'{key}'")
    value = record[found]
    # JSON's true is no number, whatever Python thinks of it.
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise BadRecord("wrong type", f"'{found}' is {value!r}")
    return value


def identity_of(record: Any, key: str = "id", *older_keys: str) -> Identity:
    """A whole number or a text."""
    value = value_of(record, key, (int, str), *older_keys)
    return checked_text(value, key) if isinstance(value, str) else value


def text_of(record: Any, key: str, *older_keys: str) -> str:
    """A text whose every character can be written as UTF-8."""
    return checked_text(value_of(record, key, str, *older_keys), key)


def checked_text(text: str, key: str) -> str:
    """The text, unless it holds a byte that was not UTF-8, or half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        shown = text.encode("utf-8", "backslashreplace").decode()
        raise BadRecord("text is not UTF-8", f"'{key}' is '{shown}'") from error
    return text


def size_of(record: Any) -> tuple[int, int]:
    """Width and height of an image in pixels."""
    width, height = value_of(record, "width", int), value_of(record, "height", int)
    if width < 1 or height < 1:
        raise BadRecord("image has no area", f"{width} x {height} pixels")
    return width, height


def box_of(record: Any, key: str = "bbox", box_format: str = "xywh") -> Box:
    """A box as x, y, width, height; ``box_format`` says how the record has it (xywh or xyxy)."""
    box = finite_numbers(value_of(record, key, list), key, count=4)
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]] if box_format == "xyxy" else box


def finite_numbers(values: Sequence[Any], key: str, count: int) -> list[float]:
    """So many finite numbers."""
    numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
    if len(values) != count or len(numbers) != count:
        raise BadRecord("wrong type", f"'{key}' is {list(values)!r}, must be {count} numbers")
    if not all(map(math.isfinite, numbers)):
        raise BadRecord("box is not finite", f"'{key}' is {list(values)}")
    return numbers


def box_in_image(box: Box, image: Image) -> tuple[Box, str | None]:
    """A box xywh clipped to its image, and what that changed, if anything.

    Raises BadRecord for a box without area or wholly outside.
    """
    x, y, width, height = box
    if width <= 0 or height <= 0:
        raise BadRecord("box has no area", f"{box} (x, y, width, height)")
    check_overlap(box, image)
    right, bottom = x + width, y + height
    if x >= 0 and y >= 0 and right <= image["width"] and bottom <= image["height"]:
        return box, None
    x, y = max(x, 0), max(y, 0)
    box = [x, y, min(right, image["width"]) - x, min(bottom, image["height"]) - y]
    return box, "box clipped to its image"


def check_overlap(box: Box, image: Image) -> None:
    """Raises BadRecord for a box xywh wholly outside its image."""
    x, y, width, height = box
    beyond = x >= image["width"] or y >= image["height"]
    if beyond or x + max(width, 0) <= 0 or y + max(height, 0) <= 0:
        size = f"{image['width']} x {image['height']} pixels"
        raise BadRecord("box outside its image", f"{box} (x, y, width, height) in {size}")
