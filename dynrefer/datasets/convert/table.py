"""Regions from a table: CSV with a header, or JSON lines; one region a row.

| column | |
|---|---|
| ``image`` | file name under the folder of images |
| ``x``, ``y``, ``width``, ``height`` | the box in pixels; or ``x1``, ``y1``, ``x2``, ``y2`` |
| ``caption`` | the reference |
| ``id`` | optional; else the number of the row, from 1 |

In JSON lines ``bbox`` may hold the four numbers of the box (x, y, width, height), ``captions`` a
list of references, and ``extra_info`` further labels, which are kept.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import PIL.Image

from dynrefer.datasets.annotations.records import BadRecord
from dynrefer.datasets.convert.source_records import (
    Box,
    Image,
    box_in_image,
    box_of,
    checked_text,
    finite_numbers,
    identity_of,
    text_of,
    value_of,
)
from dynrefer.datasets.convert.visual_genome import AnnotationStep
from dynrefer.datasets.convert.writing import AnnotationWriter, ImageFolder

_BOX_COLUMNS = (("x", "y", "width", "height"), ("x1", "y1", "x2", "y2"))


def convert_table(
    source: str | Path, out: str | Path, images: ImageFolder, step: AnnotationStep = iter
) -> AnnotationWriter:
    """Converts a .csv or .jsonl file; image sizes are read from the images themselves.

    ``step`` may complete the annotations on their way, in order. Returns the finished writer.

    Raises FileNotFoundError for a missing file, and ValueError naming the file for one of another
    kind or without the needed columns.
    """
    source = Path(source)
    readers: dict[str, Callable[[Path], Iterator[Any]]] = {".csv": _csv, ".jsonl": _json_lines}
    if source.suffix not in readers:
        raise ValueError(f"{source}: must be a .csv or a .jsonl file")
    if not source.is_file():
        raise FileNotFoundError(f"no file at {source}")
    with AnnotationWriter(out, images) as writer:
        table = _Images(images)
        rows = readers[source.suffix](source)
        for region in step(_regions(rows, table, writer)):
            writer.add(table.by_id[region["image_id"]], region)
    return writer


class _Images:
    """Images by file name, numbered from 1 as they come up; a bad one is looked at once."""

    def __init__(self, folder: ImageFolder) -> None:
        self._folder = folder
        self._by_name: dict[str, Image | BadRecord] = {}
        self.by_id: dict[int, Image] = {}

    def find(self, name: str) -> Image:
        if name not in self._by_name:
            self._by_name[name] = self._read(name)
        found = self._by_name[name]
        if isinstance(found, BadRecord):
            raise found
        return found

    def _read(self, name: str) -> Image | BadRecord:
        try:
            path = self._folder.root / self._folder.find(name)
            with PIL.Image.open(path) as image:
                width, height = image.size
        except BadRecord as error:
            return error
        except (OSError, PIL.Image.DecompressionBombError) as error:
            return BadRecord("image cannot be read", f"{name}: {error}")
        number = len(self.by_id) + 1
        record = {"id": number, "file_name": name, "width": width, "height": height}
        self.by_id[number] = record
        return record


def _regions(
    rows: Iterable[Any], images: _Images, writer: AnnotationWriter
) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(rows, start=1):
        label = f"row {number}"
        try:
            if isinstance(row, BadRecord):
                raise row
            image = images.find(text_of(row, "image"))
            box, change = box_in_image(_box(row), image)
            identity = identity_of(row) if "id" in row else number
            region = {"id": identity, "image_id": image["id"], "bbox": box, **_texts(row)}
            region["extra_info"] = value_of(row, "extra_info", dict) if "extra_info" in row else {}
        except BadRecord as error:
            writer.drop(label, error)
            continue
        if change:
            writer.change(label, change)
        yield region


def _box(row: dict[str, Any]) -> Box:
    if "bbox" in row:
        return box_of(row)
    corners = "x1" in row
    columns = _BOX_COLUMNS[corners]
    numbers = finite_numbers([row.get(column) for column in columns], ", ".join(columns), 4)
    return box_of({"bbox": numbers}, box_format="xyxy" if corners else "xywh")


def _texts(row: dict[str, Any]) -> dict[str, Any]:
    if "captions" not in row:
        return {"caption": text_of(row, "caption")}
    captions = value_of(row, "captions", list)
    if not captions or not all(isinstance(caption, str) for caption in captions):
        raise BadRecord("wrong type", f"'captions' is {captions!r}, must be a list of texts")
    captions = [checked_text(caption, "captions") for caption in captions]
    return {"caption": captions[0], "captions": captions}


def _csv(source: Path) -> Iterator[dict[str, Any] | BadRecord]:
    with source.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(file, restkey="", strict=True)
        try:
            columns = reader.fieldnames or []
        except csv.Error as error:
            raise ValueError(f"{source}: is no CSV: {error}") from error
        box = any(all(column in columns for column in names) for names in _BOX_COLUMNS)
        if not {"image", "caption"} <= set(columns) or not box:
            raise ValueError(
                f"{source}: needs the columns image, caption and x, y, width, height (or x1, y1, "
                f"x2, y2); has {', '.join(columns)}"
            )
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield BadRecord("broken row", str(error))
                continue
            yield _typed(row)


def _typed(row: dict[str, Any]) -> dict[str, Any] | BadRecord:
    """A row of texts with its numbers as numbers."""
    if "" in row or None in row.values():
        return BadRecord("broken row", "has more or fewer cells than the header")
    try:
        numbers = {
            column: float(row[column])
            for columns in _BOX_COLUMNS
            for column in columns
            if column in row
        }
    except ValueError as error:
        return BadRecord("wrong type", str(error))
    whole = {column: int(n) if n.is_integer() else n for column, n in numbers.items()}
    identity = {"id": int(row["id"])} if row.get("id", "").isdecimal() else {}
    return {**row, **whole, **identity}


def _json_lines(source: Path) -> Iterator[Any]:
    with source.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        for line in file:
            if not line.strip():
                continue
            try:
                yield json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                yield BadRecord("not JSON", str(error))
