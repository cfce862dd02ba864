"""The files of an annotation index: lines of JSON, and arrays that say where each line starts.

They are made in one go over the annotation file, record by record: memory holds the images, the
ids, and two numbers a region.
"""

import json
import logging
import os
from array import array
from collections.abc import Iterable, Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from dynrefer.datasets.annotations.fields import (
    BadRecord,
    Cases,
    Identity,
    identity_of,
    labelled,
    printable,
)
from dynrefer.datasets.annotations.json_stream import iterate_items, read_members
from dynrefer.datasets.annotations.records import check_images, recorded_folder, region_row
from dynrefer.progress import Progress

logger = logging.getLogger(__name__)

QUIET_SECONDS = 2  # a file that takes no longer shows no progress
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


class Lines:
    """Lines of JSON in a file, read by number.

    The file is read and not mapped: mapped pages would count as memory of every worker, and in an
    epoch of shuffled regions these are all pages. Raises ValueError where the file is not as long
    as its starts say.
    """

    def __init__(self, path: Path) -> None:
        self._starts = np.load(_starts_path(path), mmap_mode="r")
        self._file = path.open("rb", buffering=0)
        if self._starts[-1] != os.fstat(self._file.fileno()).st_size:
            raise ValueError(f"{path.name} has not the length that its starts say")

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, number: int) -> Any:
        check_position(number, len(self))
        try:
            return json.loads(self.text(number).decode())  # of bytes json first looks for UTF-16
        except ValueError as error:
            where = f"{self._file.name}: line {number + 1} is damaged"
            raise ValueError(f"{where}; delete {Path(self._file.name).parent}") from error

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()

    def text(self, number: int) -> bytes:
        """A line as it stands in the file."""
        start, end = int(self._starts[number]), int(self._starts[number + 1])
        # A forked worker shares the file's position, so the place is part of the call.
        return os.pread(self._file.fileno(), end - start, start)

    @staticmethod
    def write(path: Path, lines: Iterable[bytes]) -> None:
        """Writes lines, and where each starts."""
        starts = array("q", [0])
        with path.open("wb") as file:
            for line in lines:
                starts.append(starts[-1] + file.write(line))
        np.save(_starts_path(path), np.array(starts, dtype=np.int64))


def check_position(position: int, count: int) -> None:
    """Raises IndexError for a position outside 0 .. count - 1."""
    if not 0 <= position < count:
        raise IndexError(f"position {position} is outside 0..{count - 1}")


def write_index(
    directory: Path, source: Path, image_root: str | Path | None, strict: bool, captions: bool
) -> None:
    """Writes the files of an index into an existing folder.

    Images must lie under ``image_root``, "" for any place, None for the folder that the file
    records. ``captions`` says whether regions without one are bad records.

    Raises ValueError for broken JSON, a missing section, bad records where ``strict``, or a file
    without a single good region.
    """
    logger.info("indexing %s (%.1f MB), once", source, source.stat().st_size / 1e6)
    recorded = _recorded_image_root(source)
    root = recorded_folder(source, recorded) if image_root is None else image_root
    bad = Cases()
    images = check_images(iterate_items(source, "images"), bad, root)
    Lines.write(directory / "images.jsonl", map(_line, images.values()))
    regions = _Regions(source, images, captions)
    Lines.write(directory / "ungrouped.jsonl", regions.lines(bad))
    if bad.counts and strict:
        listed = "".join(f"\n  {case}" for cases in bad.named.values() for case in cases)
        advice = "correct the file, or set 'bad_records: skip' to leave them out"
        raise ValueError(f"{source}: {bad}; {advice}. The first:{listed}")
    if not regions.image_of_region:
        raise ValueError(f"{source}: holds no usable region; {bad}")
    image_of_region = np.array(regions.image_of_region, dtype=np.int64)
    counts = np.bincount(image_of_region, minlength=len(images))
    np.save(directory / "region_starts.npy", np.concatenate([[0], np.cumsum(counts)]))
    np.save(directory / "image_of_region.npy", np.sort(image_of_region))
    _group(directory / "ungrouped.jsonl", directory / "regions.jsonl", image_of_region)
    summary = {"image_root": recorded, "largest_tag": regions.largest_tag} | vars(bad)
    (directory / "summary.json").write_text(_encode(summary), encoding="utf-8")


def _line(row: list) -> bytes:
    try:
        return _encode(row).encode() + b"\n"
    except UnicodeEncodeError as error:
        text = error.object[max(error.start - 40, 0) : error.end]
        raise BadRecord("text is not UTF-8", f"... {text}") from error


class _Regions:
    """The good regions of a file, and what is known of them once their lines were read."""

    def __init__(self, source: Path, images: dict[Identity, list], captions: bool) -> None:
        self._source, self._images, self._captions = source, images, captions
        self.image_of_region = array("q")
        self.largest_tag: tuple[int, Identity | None] = (-1, None)  # and the region that has it

    def lines(self, bad: Cases) -> Iterator[bytes]:
        """Their lines in the order of the file; the others are counted as bad."""
        positions = {identity: position for position, identity in enumerate(self._images)}
        ids: set[Identity] = set()
        records, name = iterate_items(self._source, "annotations"), f"indexing {self._source.name}"
        records = Progress(records, desc=name, unit=" regions", delay=QUIET_SECONDS)
        for label, record in labelled("annotation", records):
            try:
                identity, image = identity_of(record), identity_of(record, "image_id")
                if identity in ids:
                    raise BadRecord("duplicate id", "another annotation has it")
                if image not in positions:
                    raise BadRecord("unknown image id", f"{image!r} is not among the good 'images'")
                ids.add(identity)
                row = region_row(record, self._images[image], self._captions)
                line = _line(row)
            except BadRecord as error:
                bad.add_bad(label, error)
                continue
            tags = row[-1].get("parser_result", {})
            for tag in (*tags.get("tag_set1", ()), *tags.get("tag_set2", ())):
                self.largest_tag = max(self.largest_tag, (tag, identity), key=itemgetter(0))
            self.image_of_region.append(positions[image])
            yield line


def _group(ungrouped: Path, path: Path, image_of_region: np.ndarray) -> None:
    """Moves the lines of regions to ``path``, in the order of their images."""
    if (np.diff(image_of_region) >= 0).all():
        _starts_path(ungrouped).replace(_starts_path(path))
        ungrouped.replace(path)
        return
    lines = Lines(ungrouped)
    order = np.argsort(image_of_region, kind="stable")
    Lines.write(path, (lines.text(number) for number in order))
    for file in (ungrouped, _starts_path(ungrouped)):
        file.unlink()


def _starts_path(path: Path) -> Path:
    return path.with_suffix(".starts.npy")


def _recorded_image_root(source: Path) -> str:
    """``dataset.image_root``; this reads the whole file, so what is broken shows before the work"""
    dataset = read_members(source, without=("images", "annotations")).get("dataset") or {}
    image_root = dataset.get("image_root") or "" if isinstance(dataset, dict) else None
    if not isinstance(image_root, str) or printable(image_root) != image_root:
        raise ValueError(f"{source}: 'dataset' must be an object, its 'image_root' a folder's path")
    return image_root
