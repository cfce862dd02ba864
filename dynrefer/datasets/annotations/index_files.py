"""The files of an annotation index: lines of JSON, and arrays that say where each line starts.

They are made in one go over the annotation file, record by record: memory holds the images, the
ids, and two numbers a region.
"""

import json
import logging
import os
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dynrefer.datasets.annotations.json_stream import iterate_items, read_members
from dynrefer.datasets.annotations.records import (
    BadRecord,
    BadRecords,
    Identity,
    check_images,
    known_annotations,
    region_row,
)
from dynrefer.progress import Progress

logger = logging.getLogger(__name__)

LISTED_BAD_RECORDS = 5
QUIET_SECONDS = 2  # a file that takes no longer shows no progress
_encode = json.JSONEncoder(separators=(",", ":")).encode


class Lines:
    """Lines of JSON in a file, read by number.

    The file is read and not mapped: mapped pages would count as memory of every worker, and in an
    epoch of shuffled regions these are all pages.
    """

    def __init__(self, path: Path) -> None:
        self._starts = np.load(_starts_path(path), mmap_mode="r")
        self._file = path.open("rb", buffering=0)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, number: int) -> Any:
        check_position(number, len(self))
        return json.loads(self.text(number).decode())  # given bytes, json first looks for UTF-16

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()

    def text(self, number: int) -> bytes:
        """A line as it stands in the file."""
        start, end = int(self._starts[number]), int(self._starts[number + 1])
        # A forked worker shares the file's position, so the place is part of the call.
        return os.pread(self._file.fileno(), end - start, start)

    @staticmethod
    def write(path: Path, records: Iterable[list]) -> None:
        """Writes records as lines, and where each starts."""
        _write_lines(path, (_encode(record).encode() + b"\n" for record in records))


def check_position(position: int, count: int) -> None:
    """Raises IndexError for a position outside 0 .. count - 1."""
    if not 0 <= position < count:
        raise IndexError(f"position {position} is outside 0..{count - 1}")


def write_index(directory: Path, source: Path, bad_records: str, require_caption: bool) -> None:
    """Writes the files of an index into an existing folder.

    Raises ValueError for broken JSON, a missing section, bad records under "strict", or a file
    without a single good region.
    """
    logger.info("indexing %s (%.1f MB), once", source, source.stat().st_size / 1e6)
    image_root = _recorded_image_root(source)
    bad = BadRecords()
    images = check_images(iterate_items(source, "images"), bad)
    Lines.write(directory / "images.jsonl", images.values())
    found = array("q")
    rows = _region_rows(source, images, require_caption, bad, found)
    Lines.write(directory / "ungrouped.jsonl", rows)
    if bad.counts and bad_records == "strict":
        listed = "".join(f"\n  {message}" for message in bad.messages[:LISTED_BAD_RECORDS])
        advice = "correct the file, or set 'bad_records: skip' to leave them out"
        raise ValueError(f"{source}: {bad}; {advice}. The first:{listed}")
    if not found:
        raise ValueError(f"{source}: holds no usable region; {bad}")
    image_of_region = np.array(found, dtype=np.int64)
    counts = np.bincount(image_of_region, minlength=len(images))
    np.save(directory / "region_starts.npy", np.concatenate([[0], np.cumsum(counts)]))
    np.save(directory / "image_of_region.npy", np.sort(image_of_region))
    _group(directory / "ungrouped.jsonl", directory / "regions.jsonl", image_of_region)
    summary = {"image_root": image_root, "counts": bad.counts, "messages": bad.messages}
    (directory / "summary.json").write_text(_encode(summary))


def _region_rows(
    source: Path,
    images: dict[Identity, list],
    require_caption: bool,
    bad: BadRecords,
    image_of_region: array,
) -> Iterator[list]:
    """Rows of the good regions in the order of the file; each adds its image's position."""
    positions = {identity: position for position, identity in enumerate(images)}
    annotations = Progress(
        iterate_items(source, "annotations"),
        desc=f"indexing {source.name}",
        unit=" regions",
        delay=QUIET_SECONDS,
    )
    for annotation in known_annotations(annotations, images, bad):
        image_id = annotation["image_id"]
        try:
            row = region_row(annotation, images[image_id], require_caption)
        except BadRecord as error:
            bad.add(f"annotation id {annotation['id']!r}", error)
            continue
        image_of_region.append(positions[image_id])
        yield row


def _group(ungrouped: Path, path: Path, image_of_region: np.ndarray) -> None:
    """Moves the lines of regions to ``path``, in the order of their images."""
    if (np.diff(image_of_region) >= 0).all():
        _starts_path(ungrouped).replace(_starts_path(path))
        ungrouped.replace(path)
        return
    lines = Lines(ungrouped)
    order = np.argsort(image_of_region, kind="stable")
    _write_lines(path, (lines.text(number) for number in order))
    for file in (ungrouped, _starts_path(ungrouped)):
        file.unlink()


def _write_lines(path: Path, lines: Iterable[bytes]) -> None:
    starts = array("q", [0])
    with path.open("wb") as file:
        for line in lines:
            starts.append(starts[-1] + file.write(line))
    np.save(_starts_path(path), np.array(starts, dtype=np.int64))


def _starts_path(path: Path) -> Path:
    return path.with_suffix(".starts.npy")


def _recorded_image_root(source: Path) -> str:
    """``dataset.image_root``; this reads the whole file, so what is broken shows before the work"""
    dataset = read_members(source, without=("images", "annotations")).get("dataset", {})
    image_root = dataset.get("image_root", "") if isinstance(dataset, dict) else None
    if not isinstance(image_root, str):
        raise ValueError(f"{source}: 'dataset' must be an object, its 'image_root' a folder's path")
    return image_root
