"""Annotations behind an index on disk, so that millions of regions open at once.

The release's COCO-style JSON is read and checked once and written again as lines of JSON beside
the arrays that say where each line starts. The files are memory-mapped: opening takes
milliseconds, and worker processes and ranks of one machine share the pages.
"""

import errno
import hashlib
import json
import logging
import mmap
import os
import shutil
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dynrefer.datasets.annotation_records import (
    BadRecord,
    BadRecords,
    Identity,
    check_images,
    group_by_image,
    region_row,
)
from dynrefer.vocabulary import read_json

logger = logging.getLogger(__name__)

LAYOUT = 1  # of the files of an index; a change makes older indexes unfit
POLICIES = ("strict", "skip")
LISTED_BAD_RECORDS = 5
LOGGED_EVERY = 500_000
_encode = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True)
class ImageRecord:
    """One image; ``width`` and ``height`` in pixels, ``path`` with the image root in front."""

    id: Identity
    file_name: str
    width: int
    height: int
    path: Path


@dataclass(frozen=True)
class RegionRecord:
    """One region; ``box`` is xyxy in pixels and may reach past the image's border.

    ``captions`` holds every reference, ``caption`` is the first of them ("" where there is none).
    """

    id: Identity
    image_id: Identity
    box: tuple[float, float, float, float]
    caption: str
    captions: tuple[str, ...]
    extra_info: dict[str, Any]


class AnnotationIndex:
    """Images and regions of one annotation file by position.

    Regions are grouped by image, images are in the order of the file. Made by ``open``. Pickling
    carries only paths; the copy maps the same files.
    """

    def __init__(self, directory: Path, source: Path, image_root: str | Path | None) -> None:
        self.directory, self.source, self._given_root = directory, source, image_root
        summary = json.loads((directory / "summary.json").read_text())
        self.image_root = _image_root(source, image_root, summary["image_root"])
        self.bad_record_counts: Counter[str] = Counter(summary["counts"])
        self.bad_records: list[str] = summary["messages"]
        self._images = _Lines(directory / "images.jsonl")
        self._regions = _Lines(directory / "regions.jsonl")
        self._region_starts = np.load(directory / "region_starts.npy", mmap_mode="r")
        self._image_of_region = np.load(directory / "image_of_region.npy", mmap_mode="r")

    @classmethod
    def open(
        cls,
        path: str | Path,
        image_root: str | Path | None = None,
        bad_records: str = "strict",
        require_caption: bool = False,
    ) -> "AnnotationIndex":
        """Opens the index of an annotation file, and makes it where there is none yet.

        It lies in ``<file>.index-<hash>`` beside the file, or in the user's cache directory where
        that folder cannot be written; a changed file gets a new one. Bad records raise ("strict")
        or are left out, counted and logged ("skip").

        Images lie in ``image_root``, else in the file's ``dataset.image_root``, which is looked for
        beside the file, then in the current directory; else beside the file. Whether an image is
        there shows when it is read.

        Raises FileNotFoundError for a missing file and ValueError for broken JSON, a missing
        section, bad records under "strict", or a file without a single good region.
        """
        if bad_records not in POLICIES:
            raise ValueError(f"bad_records is {bad_records!r}, must be 'strict' or 'skip'")
        source = Path(path)
        if not source.is_file():
            setting = "the configuration key 'build_info.annotations' usually sets it"
            raise FileNotFoundError(f"no annotation file at {source}; {setting}")
        places = _index_places(source, f"{bad_records}:{require_caption}")
        directory = next((place for place in places if place.is_dir()), None)
        if directory is None:
            directory = _make_index(places, source, bad_records, require_caption)
        index = cls(directory, source, image_root)
        if index.bad_records:
            bad = BadRecords(index.bad_record_counts, index.bad_records)
            logger.warning("%s: left out %s; the first: %s", source, bad, bad.messages[0])
        return index

    def __reduce__(self) -> tuple:
        return AnnotationIndex, (self.directory, self.source, self._given_root)

    def __len__(self) -> int:
        return len(self._regions)

    @property
    def num_images(self) -> int:
        """How many images the file lists."""
        return len(self._images)

    @property
    def region_counts(self) -> np.ndarray:
        """Number of regions of each image, int64 [num_images]."""
        return np.diff(self._region_starts)

    def region(self, i: int) -> RegionRecord:
        """The region at position ``i``, 0 <= i < len; IndexError otherwise."""
        identity, image_id, box, captions, extra_info = self._regions[i]
        caption = captions[0] if captions else ""
        return RegionRecord(identity, image_id, tuple(box), caption, tuple(captions), extra_info)

    def image(self, j: int) -> ImageRecord:
        """The image at position ``j``, 0 <= j < num_images; IndexError otherwise."""
        identity, file_name, width, height = self._images[j]
        return ImageRecord(identity, file_name, width, height, self.image_root / file_name)

    def regions_of_image(self, j: int) -> range:
        """Positions of an image's regions; empty for an image without regions."""
        _check_position(j, self.num_images)
        return range(int(self._region_starts[j]), int(self._region_starts[j + 1]))

    def image_of_region(self, i: int) -> int:
        """Position of the image that region ``i`` lies in."""
        _check_position(i, len(self))
        return int(self._image_of_region[i])


class _Lines:
    """Lines of JSON in a memory-mapped file, read by number."""

    def __init__(self, path: Path) -> None:
        self._starts = np.load(_starts_path(path), mmap_mode="r")
        with path.open("rb") as file:
            self._content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, number: int) -> Any:
        _check_position(number, len(self))
        return json.loads(self._content[self._starts[number] : self._starts[number + 1]])

    @staticmethod
    def write(path: Path, records: Iterable[list]) -> None:
        starts = array("q", [0])
        with path.open("wb") as file:
            for record in records:
                starts.append(starts[-1] + file.write(_encode(record).encode() + b"\n"))
        np.save(_starts_path(path), np.array(starts, dtype=np.int64))


def _check_position(position: int, count: int) -> None:
    if not 0 <= position < count:
        raise IndexError(f"position {position} is outside 0..{count - 1}")


def _starts_path(path: Path) -> Path:
    return path.with_suffix(".starts.npy")


def _image_root(source: Path, given: str | Path | None, recorded: str) -> Path:
    if given is not None:
        return Path(given)
    beside_source = source.parent / recorded
    return beside_source if beside_source.is_dir() else Path(recorded)


def _recorded_image_root(content: dict[str, Any], source: Path) -> str:
    dataset = content.get("dataset", {})
    image_root = dataset.get("image_root", "") if isinstance(dataset, dict) else None
    if not isinstance(image_root, str):
        raise ValueError(f"{source}: 'dataset' must be an object, its 'image_root' a folder's path")
    return image_root


def _index_places(source: Path, policy: str) -> tuple[Path, Path]:
    """Where an index may lie: beside the file, else in the user's cache directory."""
    status = source.stat()
    key = f"{LAYOUT}:{status.st_size}:{status.st_mtime_ns}:{policy}"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dynrefer"
    beside = source.with_name(_index_name(source, key))
    return beside, cache / _index_name(source, f"{key}:{source.resolve()}")


def _index_name(source: Path, key: str) -> str:
    return f"{source.name}.index-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def _make_index(
    places: tuple[Path, Path], source: Path, bad_records: str, require_caption: bool
) -> Path:
    """Writes the index under a temporary name, then renames it; returns where it lies."""
    place, in_cache = places
    try:
        temporary = tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        logger.info("%s cannot be written, so the index goes to %s", place.parent, in_cache)
        place = in_cache
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent)
    # The folder of mkdtemp is closed to other users; one made inside it has ordinary permissions.
    building = Path(temporary) / "index"
    try:
        building.mkdir()
        _write_index(building, source, bad_records, require_caption)
        try:
            building.rename(place)
        except OSError:
            if not place.is_dir():
                raise
            logger.info("another process made %s at the same time", place)
    finally:
        shutil.rmtree(temporary)
    return place


def _write_index(building: Path, source: Path, bad_records: str, require_caption: bool) -> None:
    logger.info("indexing %s (%.1f MB), once", source, source.stat().st_size / 1e6)
    content = read_json(source, "build_info.annotations")
    bad = BadRecords()
    images = check_images(_section(content, "images", source), bad)
    groups = group_by_image(_section(content, "annotations", source), images, bad)
    image_root = _recorded_image_root(content, source)
    region_starts, image_of_region = array("q", [0]), array("q")

    def region_rows() -> Iterator[list]:
        for position, image in enumerate(images.values()):
            for annotation in groups.get(image[0], ()):
                try:
                    row = region_row(annotation, image, require_caption)
                except BadRecord as error:
                    bad.add(f"annotation id {annotation['id']!r}", error)
                    continue
                image_of_region.append(position)
                if len(image_of_region) % LOGGED_EVERY == 0:
                    logger.info("%s: %d regions indexed", source, len(image_of_region))
                yield row
            region_starts.append(len(image_of_region))

    _Lines.write(building / "images.jsonl", images.values())
    _Lines.write(building / "regions.jsonl", region_rows())
    if bad.counts and bad_records == "strict":
        listed = "".join(f"\n  {message}" for message in bad.messages[:LISTED_BAD_RECORDS])
        advice = "correct the file, or set 'bad_records: skip' to leave them out"
        raise ValueError(f"{source}: {bad}; {advice}. The first:{listed}")
    if not image_of_region:
        raise ValueError(f"{source}: holds no usable region; {bad}")
    np.save(building / "region_starts.npy", np.array(region_starts, dtype=np.int64))
    np.save(building / "image_of_region.npy", np.array(image_of_region, dtype=np.int64))
    summary = {"image_root": image_root, "counts": bad.counts, "messages": bad.messages}
    (building / "summary.json").write_text(_encode(summary))


def _section(content: Any, key: str, source: Path) -> list[Any]:
    if not isinstance(content, dict) or not isinstance(content.get(key), list):
        raise ValueError(f"{source}: needs an object with the lists 'images' and 'annotations'")
    return content[key]
