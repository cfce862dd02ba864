"""Regions from a table: CSV with a header, or JSON lines; one region a row.

| column | |
|---|---|
| ``image`` | file name under the folder of images |
| ``x``, ``y``, ``width``, ``height`` | the box in pixels; or ``x1``, ``y1``, ``x2``, ``y2`` |
| ``caption`` | the reference |
| ``id`` | optional; where it is absent or blank, the number of the row or the next free one |

In JSON lines ``bbox`` may hold the four numbers of the box (x, y, width, height), ``captions`` a
list of references, and ``extra_info`` further labels, which are kept.
"""

import csv
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import PIL.Image
from PIL import PngImagePlugin

from dynrefer.datasets.annotations.fields import (
    BadRecord,
    captions_of,
    finite_numbers,
    identity_of,
    members_of,
    text_of,
)
from dynrefer.datasets.convert.reading import PlacedBox, box_of
from dynrefer.datasets.convert.visual_genome import AnnotationStep
from dynrefer.datasets.convert.writing import AnnotationWriter, Image, ImageFolder

# As training reads them (``dynrefer.processors.images``, which loads torch): with long comments.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 2**26
_BOX_COLUMNS = (("x", "y", "width", "height"), ("x1", "y1", "x2", "y2"))


def convert_table(
    source: str | Path, out: str | Path, images: ImageFolder, step: AnnotationStep = iter
) -> AnnotationWriter:
    """Converts a .csv or .jsonl file; image sizes are read from the images themselves.

    ``step`` may complete the annotations on their way, in order.
    """
    source = Path(source)
    read = {".csv": _csv, ".jsonl": _json_lines}.get(source.suffix.lower())
    if read is None:
        raise ValueError(f"{source}: must be a .csv or a .jsonl file")
    if not source.is_file():
        raise FileNotFoundError(f"no file at {source}")
    with AnnotationWriter(out, images, [source]) as writer:
        table, numbers = _Images(images), _FreeNumbers(read(source))
        for region in step(_regions(read(source), table, numbers, writer)):
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
            try:
                self._by_name[name] = self._read(name)
            except BadRecord as error:
                self._by_name[name] = error
        found = self._by_name[name]
        if isinstance(found, BadRecord):
            raise found
        return found

    def _read(self, name: str) -> Image:
        path = self._folder.root / self._folder.find(name)
        try:
            with PIL.Image.open(path) as image:
                width, height = image.size
        except Exception as error:  # PIL's readers raise of all kinds at broken files
            detail = f"{name}: {type(error).__name__}: {error}"
            raise BadRecord("image cannot be read", detail) from error
        number = len(self.by_id) + 1
        self.by_id[number] = {"id": number, "file_name": name, "width": width, "height": height}
        return self.by_id[number]


class _FreeNumbers:
    """Ids for the rows that have none: their numbers, unless another row has that as its own."""

    def __init__(self, rows: Iterable[Any]) -> None:
        ids = [row.get("id") if isinstance(row, dict) else None for row in rows]
        self._taken = {identity for identity in ids if isinstance(identity, (int, str))}
        beyond = itertools.count(len(ids) + 1)
        self._spare = (number for number in beyond if number not in self._taken)

    def of_row(self, number: int) -> int:
        return next(self._spare) if number in self._taken else number


def _regions(
    rows: Iterable[Any], images: _Images, numbers: _FreeNumbers, writer: AnnotationWriter
) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(rows, start=1):
        with writer.dropping(f"row {number}"):
            if isinstance(row, BadRecord):
                raise row
            image = images.find(text_of(row, "image"))
            box, change = _box(row, image)
            is_blank = row.get("id") in (None, "")
            identity = numbers.of_row(number) if is_blank else identity_of(row)
            region = {"id": identity, "image_id": image["id"], "bbox": box}
            captions, extra_info = captions_of(row), members_of(row.get("extra_info"), "extra_info")
            region["caption"] = captions[0] if captions else ""
            if len(captions) > 1:
                region["captions"] = captions
            writer.change(f"row {number}", change)
            yield {**region, "extra_info": extra_info}


def _box(row: dict[str, Any], image: Image) -> PlacedBox:
    if row.get("bbox") is not None:
        return box_of(row, image)
    columns = _BOX_COLUMNS["x1" in row]
    numbers = finite_numbers([row.get(column) for column in columns], ", ".join(columns), 4)
    return box_of({"bbox": numbers}, image, "xyxy" if "x1" in row else "xywh")


def _csv(source: Path) -> Iterator[dict[str, Any] | BadRecord]:
    with source.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(file, restkey="", strict=True)
        try:
            columns = reader.fieldnames or []
        except csv.Error as error:
            raise ValueError(f"{source}: is no CSV: {error}") from error
        box = any(all(column in columns for column in names) for names in _BOX_COLUMNS)
        if not {"image", "caption"} <= set(columns) or not box or len(set(columns)) < len(columns):
            raise ValueError(
                f"{source}: needs the columns image, caption and x, y, width, height (or x1, y1, "
                f"x2, y2), each once; has {', '.join(columns)}"
            )
        while True:
            try:
                yield _typed(next(reader))
            except StopIteration:
                return
            except csv.Error as error:
                yield BadRecord("broken row", str(error))


def _typed(row: dict[str, Any]) -> dict[str, Any] | BadRecord:
    """A row of texts with its numbers as numbers; an id is one where it is written as one."""
    if "" in row or None in row.values():
        return BadRecord("broken row", "has more or fewer cells than the header")
    typed: dict[str, Any] = {key: row[key] for key in ("image", "caption")}
    try:
        for column in {*row} & {*_BOX_COLUMNS[0], *_BOX_COLUMNS[1]}:
            number = float(row[column])
            typed[column] = int(number) if number.is_integer() else number
    except ValueError as error:
        return BadRecord("wrong type", str(error))
    identity = row.get("id", "").strip()
    is_number = identity.isdecimal() and str(int(identity)) == identity
    return typed | {"id": int(identity) if is_number else identity}


def _json_lines(source: Path) -> Iterator[Any]:
    with source.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        for line in filter(str.strip, file):
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as error:
                yield BadRecord("not JSON", str(error))
