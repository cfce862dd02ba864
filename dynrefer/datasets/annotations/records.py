"""Checks of the records in the release's COCO-style JSON, and the rows an index keeps of them.

Rows are plain lists, as they are written to disk: an image is [id, file name, width, height], a
region is [id, image id, box xyxy, captions, extra_info].
"""

import math
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

KEPT_MESSAGES = 20
DETAIL_LENGTH = 200  # a polygon can have thousands of numbers

Identity = int | str


class BadRecord(Exception):
    """A record that cannot be used: a reason to count by, and the value at fault."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail[:DETAIL_LENGTH]}")
        self.reason = reason


@dataclass
class BadRecords:
    """How many records are bad for which reason, and the first messages in full."""

    counts: Counter[str] = field(default_factory=Counter)
    messages: list[str] = field(default_factory=list)

    def add(self, record: str, error: BadRecord) -> None:
        """Counts a bad record under its reason, and keeps the first messages."""
        self.counts[error.reason] += 1
        if len(self.messages) < KEPT_MESSAGES:
            self.messages.append(f"{record}: {error}")

    def __str__(self) -> str:
        counts = ", ".join(f"{count} x {reason}" for reason, count in self.counts.items())
        return f"{self.counts.total()} bad records ({counts})"


def recorded_folder(source: Path, image_root: str) -> Path:
    """The folder that an annotation file records: beside it if there, else by the current one."""
    beside_source = source.parent / image_root
    return beside_source if beside_source.is_dir() else Path(image_root)


def check_images(records: Iterable[Any], bad: BadRecords) -> dict[Identity, list]:
    """Rows of the usable images by id, in the order of the file."""
    rows: dict[Identity, list] = {}
    for position, record in enumerate(records):
        try:
            row = [_value(record, key, kind) for key, kind in _IMAGE_KEYS.items()]
            if row[0] in rows:
                raise BadRecord("duplicate id", "another image has it")
            if row[2] < 1 or row[3] < 1:
                raise BadRecord("image has no area", f"{row[2]} x {row[3]} pixels")
            rows[row[0]] = row
        except BadRecord as error:
            bad.add(_label("image", record, position), error)
    return rows


def known_annotations(
    annotations: Iterable[Any], images: Container[Identity], bad: BadRecords
) -> Iterator[dict]:
    """Annotations with a new id and a known image, one by one in the order given."""
    ids: set[Identity] = set()
    for position, annotation in enumerate(annotations):
        try:
            identity = _value(annotation, "id", (int, str))
            image_id = _value(annotation, "image_id", (int, str))
            if identity in ids:
                raise BadRecord("duplicate id", "another annotation has it")
            if image_id not in images:
                raise BadRecord("unknown image id", f"{image_id!r} is not among the good 'images'")
        except BadRecord as error:
            bad.add(_label("annotation", annotation, position), error)
            continue
        ids.add(identity)
        yield annotation


def region_row(annotation: dict[str, Any], image: list, require_caption: bool) -> list:
    """Row of a region; BadRecord for a box, a caption or extra information that cannot be used.

    The box comes from ``segmentation`` where there is one (polygons or RLE), else from ``bbox``.
    """
    identity, image_id, width, height = annotation["id"], image[0], image[2], image[3]
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, dict):
        box = _mask_box(segmentation, width, height)
    elif segmentation:
        box = _widened(_polygon_box(segmentation))
    else:
        box = _plain_box(annotation)
    if box[2] <= 0 or box[3] <= 0 or box[0] >= width or box[1] >= height:
        raise BadRecord("box outside the image", f"xyxy {box} in {width} x {height} pixels")
    captions = _captions(annotation, require_caption)
    return [identity, image_id, box, captions, _extra_info(annotation)]


_IMAGE_KEYS = {"id": (int, str), "file_name": str, "width": int, "height": int}


def _value(record: Any, key: str, kind: type | tuple[type, ...]) -> Any:
    if not isinstance(record, dict) or key not in record:
        raise BadRecord("missing key", f"'{key}'")
    if not isinstance(record[key], kind):
        raise BadRecord("wrong type", f"'{key}' is {record[key]!r}")
    return record[key]


def _label(section: str, record: Any, position: int) -> str:
    known = isinstance(record, dict) and "id" in record
    return f"{section} id {record['id']!r}" if known else f"{section} at position {position}"


def _numbers(values: Any, key: str) -> list[float]:
    if not isinstance(values, list) or not all(isinstance(v, (int, float)) for v in values):
        raise BadRecord("wrong type", f"'{key}' holds {values!r}, must be a list of numbers")
    if not all(map(math.isfinite, values)):
        raise BadRecord("box is not finite", f"'{key}' is {values}")
    return values


def _plain_box(annotation: dict[str, Any]) -> list[float]:
    values = _numbers(_value(annotation, "bbox", list), "bbox")
    if len(values) != 4:
        raise BadRecord("wrong type", f"'bbox' is {values}, must be [x, y, width, height]")
    x, y, width, height = values
    if width <= 0 or height <= 0:
        raise BadRecord("box has no area", f"'bbox' is {values} (x, y, width, height)")
    return [x, y, x + width, y + height]


def _polygon_box(polygons: Any) -> list[float]:
    if not isinstance(polygons, list) or not all(isinstance(part, list) for part in polygons):
        raise BadRecord("wrong type", "'segmentation' must be a list of polygons, or RLE")
    values = _numbers([value for part in polygons for value in part], "segmentation")
    if not values or any(len(part) % 2 for part in polygons):
        raise BadRecord("wrong type", "'segmentation' has a polygon that is not pairs of x and y")
    xs, ys = values[0::2], values[1::2]
    return [min(xs), min(ys), max(xs), max(ys)]


def _mask_box(mask: dict[str, Any], width: int, height: int) -> list[float]:
    """First and last column and row with a pixel, as published, but at least one pixel apart."""
    counts = _value(mask, "counts", (list, str))
    if mask.get("size") != [height, width]:
        wanted = f"the image's [{height}, {width}]"
        raise BadRecord("wrong type", f"mask 'size' is {mask.get('size')}, must be {wanted}")
    runs = _run_lengths(counts) if isinstance(counts, str) else _numbers(counts, "counts")
    if min(runs, default=-1) < 0 or sum(runs) != width * height:
        raise BadRecord("wrong type", f"mask 'counts' must add up to {width * height} pixels")
    # Runs go down the columns, without and with the region in turn.
    ends = np.cumsum(np.array(runs, dtype=np.int64))
    first, last = ends[:-1:2], ends[1::2] - 1
    first, last = first[last >= first], last[last >= first]
    if not len(first):
        raise BadRecord("box has no area", "the mask has no pixel")
    x1, x2 = int(first[0]) // height, int(last[-1]) // height
    one_column = first // height == last // height
    y1 = int(np.where(one_column, first % height, 0).min())
    y2 = int(np.where(one_column, last % height, height - 1).max())
    return [x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)]


def _run_lengths(text: str) -> list[int]:
    """Run lengths in COCO's text form: five bits a character, lowest first, then differences."""
    runs: list[int] = []
    value = shift = 0
    for code in text.encode():
        bits = code - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:  # the sign
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    return runs


def _widened(box: list[float]) -> list[float]:
    """A box at most a pixel wide or high is made one pixel, its far edge kept, as published."""
    x1, y1, x2, y2 = box
    if x1 >= x2 - 1:
        x1, x2 = (x2 - 1, x2) if x2 > 0 else (x1, x1 + 1)
    if y1 >= y2 - 1:
        y1, y2 = (y2 - 1, y2) if y2 > 0 else (y1, y1 + 1)
    return [x1, y1, x2, y2]


def _captions(annotation: dict[str, Any], required: bool) -> list[str]:
    """All references of a region, ``caption`` first; a text without a word is no reference."""
    caption, others = annotation.get("caption", ""), annotation.get("captions", [])
    if not isinstance(others, list) or not all(isinstance(t, str) for t in [caption, *others]):
        raise BadRecord("wrong type", "'caption' must be a text and 'captions' a list of texts")
    texts = [caption, *others]
    if caption in others:
        texts.pop(1 + others.index(caption))
    references = [text for text in texts if any(map(str.isalnum, text))]
    if required and not references:
        raise BadRecord("empty caption", f"'caption' is {caption!r}")
    return references


def _extra_info(annotation: dict[str, Any]) -> dict[str, Any]:
    extra_info = annotation.get("extra_info", {})
    parsed = extra_info.get("parser_result", {}) if isinstance(extra_info, dict) else None
    if not isinstance(parsed, dict):
        raise BadRecord("wrong type", "'extra_info' and its 'parser_result' must be objects")
    for key in ("tag_set1", "tag_set2"):
        tags = parsed.get(key, [])
        if not isinstance(tags, list) or not all(isinstance(tag, int) for tag in tags):
            raise BadRecord("wrong type", f"'{key}' is {tags!r}, must be a list of tag indices")
    return extra_info
