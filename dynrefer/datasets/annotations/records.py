"""The records in the release's COCO-style JSON, and the rows an index keeps of them.

Rows are plain lists, as they are written to disk: an image is [id, file name, width, height], a
region is [id, image id, box xyxy, captions, extra_info].
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from dynrefer.datasets.annotations.fields import (
    BadRecord,
    Cases,
    Identity,
    captions_of,
    finite_numbers,
    identity_of,
    labelled,
    members_of,
    size_of,
    text_of,
    value_of,
)
from dynrefer.run_lengths import run_lengths

# Pixels of an image's longer side up to which boxes within the first pixel may be meant so.
_SMALL = 15


def recorded_folder(source: Path, image_root: str) -> Path:
    """The folder that an annotation file records: beside it if there, else by the current one."""
    beside_source = source.parent / image_root
    return beside_source if beside_source.is_dir() else Path(image_root)


def lies_under(root: str | Path, file_name: str) -> bool:
    """Whether a file name is one of a folder, by its words alone: ".." and "/" may lead out."""
    folder = os.path.abspath(root)
    path = os.path.abspath(os.path.join(folder, file_name))
    return os.path.commonpath([folder, path]) == folder != path


def check_images(
    records: Iterable[Any], bad: Cases, root: str | Path | None = None
) -> dict[Identity, list]:
    """Rows of the usable images by id, in the order of the file; no name may leave ``root``."""
    rows: dict[Identity, list] = {}
    for label, record in labelled("image", records):
        try:
            row = [identity_of(record), text_of(record, "file_name"), *size_of(record)]
            if row[0] in rows:
                raise BadRecord("duplicate id", "another image has it")
            if root and not lies_under(root, row[1]):
                raise BadRecord("file outside the image root", f"{row[1]!r} in {root}")
            rows[row[0]] = row
        except BadRecord as error:
            bad.add_bad(label, error)
    return rows


def region_row(annotation: dict[str, Any], image: list, require_caption: bool) -> list:
    """Row of a region; BadRecord for a box, a caption or extra information that cannot be used.

    The box comes from ``segmentation`` where there is one (polygons or RLE), else from ``bbox``.
    """
    width, height = image[2], image[3]
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, dict):
        box = _mask_box(segmentation, width, height)
    elif segmentation is None or segmentation in ([], [[]]):
        box = _plain_box(annotation)
    else:
        box = _widened(_polygon_box(segmentation))
    if box[2] <= 0 or box[3] <= 0 or box[0] >= width or box[1] >= height:
        raise BadRecord("box outside the image", f"xyxy {box} in {width} x {height} pixels")
    if max(box) <= 1 and max(width, height) > _SMALL and any(number % 1 for number in box):
        raise BadRecord("box in shares of the image", f"xyxy {box}, must be in pixels")
    captions = captions_of(annotation)
    if require_caption and not captions:
        raise BadRecord("empty caption", f"'caption' is {annotation.get('caption', '')!r}")
    return [annotation["id"], image[0], box, captions, _extra_info(annotation)]


def _plain_box(annotation: dict[str, Any]) -> list[float]:
    x, y, width, height = finite_numbers(value_of(annotation, "bbox", list), "bbox", 4)
    if width <= 0 or height <= 0:
        raise BadRecord("box has no area", f"'bbox' is {annotation['bbox']} (x, y, width, height)")
    return [x, y, x + width, y + height]


def _polygon_box(polygons: Any) -> list[float]:
    """The box around polygons, or around one that stands alone."""
    if isinstance(polygons, list) and len(polygons) >= 6 and not isinstance(polygons[0], list):
        polygons = [polygons]
    if not isinstance(polygons, list) or not all(isinstance(part, list) for part in polygons):
        raise BadRecord("wrong type", "'segmentation' must be a list of polygons, or RLE")
    values = finite_numbers([value for part in polygons for value in part], "segmentation")
    if not values or any(len(part) % 2 for part in polygons):
        raise BadRecord("wrong type", "'segmentation' has a polygon that is not pairs of x and y")
    xs, ys = values[0::2], values[1::2]
    return [min(xs), min(ys), max(xs), max(ys)]


def _mask_box(mask: dict[str, Any], width: int, height: int) -> list[float]:
    """First and last column and row with a pixel, as published, but at least one pixel apart."""
    counts = value_of(mask, "counts", (list, str))
    if mask.get("size") != [height, width]:
        wanted = f"the image's [{height}, {width}]"
        raise BadRecord("wrong type", f"mask 'size' is {mask.get('size')}, must be {wanted}")
    try:
        runs = run_lengths(counts) if isinstance(counts, str) else _whole_numbers(mask, "counts")
    except ValueError as error:
        raise BadRecord("wrong type", f"mask 'counts': {error}") from error
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


def _widened(box: list[float]) -> list[float]:
    """A box at most a pixel wide or high is made one pixel, its far edge kept, as published."""
    x1, y1, x2, y2 = box
    if x1 >= x2 - 1:
        x1, x2 = (x2 - 1, x2) if x2 > 0 else (x1, x1 + 1)
    if y1 >= y2 - 1:
        y1, y2 = (y2 - 1, y2) if y2 > 0 else (y1, y1 + 1)
    return [x1, y1, x2, y2]


def _whole_numbers(record: dict[str, Any], key: str) -> list[int]:
    values = value_of(record, key, list)
    for value in values:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or value % 1 or value < 0:
            raise BadRecord("wrong type", f"'{key}' holds {value!r}, must be whole numbers from 0")
    return list(map(int, values))


def _extra_info(annotation: dict[str, Any]) -> dict[str, Any]:
    """The labels of a region that are not null.

    Tags and attributes are checked here; by tasks what depends on a vocabulary.
    """
    extra_info = members_of(annotation.get("extra_info"), "extra_info")
    if "parser_result" in extra_info:
        parsed = members_of(extra_info["parser_result"], "parser_result")
        sets = [key for key in ("tag_set1", "tag_set2") if key in parsed]
        tags = {key: _whole_numbers(parsed, key) for key in sets}
        extra_info["parser_result"] = parsed | tags
    if isinstance(judged := extra_info.get("ovad_result"), dict):
        _check_attributes(judged.get("att_vec"))
    return extra_info


def _check_attributes(labels: Any) -> None:
    if not isinstance(labels, list | None):
        raise BadRecord("wrong label", f"'att_vec' is {labels!r}, must be a list of 1, 0, -1")
    for position, label in enumerate(labels or ()):
        if isinstance(label, bool) or label not in (1, 0, -1):
            where = f"'att_vec' holds {label!r} at position {position}"
            raise BadRecord("wrong label", f"{where}, must be 1, 0 or -1")
