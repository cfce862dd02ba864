"""Annotations behind an index on disk, so that millions of regions open at once.

The release's COCO-style JSON is read and checked once and written again as lines of JSON beside
the arrays that say where each line starts (``dynrefer.datasets.annotations.index_files``). Opening
takes milliseconds; a worker process holds no record, and the arrays are mapped and shared.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from dynrefer.datasets.annotations.fields import Cases, Identity
from dynrefer.datasets.annotations.index_files import Lines, check_position, write_index
from dynrefer.datasets.annotations.records import recorded_folder
from dynrefer.files import put_in_place

if TYPE_CHECKING:  # its package loads torch, which what only converts need not do
    from dynrefer.processors.images import ImageFile

logger = logging.getLogger(__name__)

LAYOUT = 3  # of the files of an index; a change makes older indexes unfit
POLICIES = ("strict", "skip")


@dataclass(frozen=True)
class ImageRecord:
    """One image; ``width`` and ``height`` in pixels, ``path`` is where to read it."""

    id: Identity
    file_name: str
    width: int
    height: int
    path: "ImageFile"


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


class ImageRoot(Protocol):
    """Where the images of an annotation file lie: a folder's path, or shards."""

    def __truediv__(self, file_name: str) -> "ImageFile": ...


class AnnotationIndex:
    """Images and regions of one annotation file by position.

    Regions are grouped by image, images are in the order of the file. ``bad_records`` says what was
    left out; ``largest_tag`` is -1 where no region has a tag. Made by ``open``. Pickling carries
    only paths; the copy opens the same files.
    """

    def __init__(self, directory: Path, source: Path, image_root: str | ImageRoot | None) -> None:
        self.directory, self.source, self._given_root = directory, source, image_root
        summary = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
        given = Path(image_root) if isinstance(image_root, str) else image_root
        self.image_root = given or recorded_folder(source, summary["image_root"])
        self.bad_records = Cases(Counter(summary["counts"]), summary["named"])
        self.largest_tag, self.region_of_largest_tag = summary["largest_tag"]
        self._images = Lines(directory / "images.jsonl")
        self._regions = Lines(directory / "regions.jsonl")
        self._region_starts = np.load(directory / "region_starts.npy", mmap_mode="r")
        self._image_of_region = np.load(directory / "image_of_region.npy", mmap_mode="r")
        counts = len(self._region_starts), len(self._image_of_region), self._region_starts[-1]
        if counts != (len(self._images) + 1, len(self._regions), len(self._regions)):
            raise ValueError("its files are of different lengths")

    @classmethod
    def open(
        cls,
        path: str | Path,
        image_root: str | ImageRoot | None = None,
        bad_records: str = "strict",
        require_caption: bool = False,
    ) -> "AnnotationIndex":
        """Opens the index of an annotation file, and makes it where there is none yet.

        It lies in ``<file>.index-<hash>`` beside the file, or in the user's cache directory where
        that folder cannot be written; a changed file gets a new one, and so does one whose index is
        damaged. Bad records raise ("strict") or are left out, counted and logged ("skip").

        Images lie in ``image_root`` (a folder, or ``ShardedImages``), else in the file's
        ``dataset.image_root``, which is looked for beside the file, then in the current directory;
        else beside the file. Whether an image is there shows when it is read; a name that leads out
        of the folder is a bad record.

        Raises FileNotFoundError for a missing file and ValueError for broken JSON, a missing
        section, bad records under "strict", or a file without a single good region.
        """
        if bad_records not in POLICIES:
            raise ValueError(f"bad_records is {bad_records!r}, must be 'strict' or 'skip'")
        source = Path(path)
        if not source.is_file():
            setting = "the configuration key 'build_info.annotations' usually sets it"
            raise FileNotFoundError(f"no annotation file at {source}; {setting}")
        if image_root is None or isinstance(image_root, str | Path):
            root = image_root and str(Path(image_root))
        else:
            root = ""  # shards hold no other files
        places = _index_places(source, f"{bad_records}:{require_caption}:{root}")
        index = None
        for place in places:
            try:
                if index is None and place.is_dir():
                    index = cls(place, source, image_root)
            except (ValueError, KeyError, IndexError, EOFError, OSError) as error:
                logger.warning("%s is damaged (%s) and is made again", place, error)
                shutil.rmtree(place, ignore_errors=True)
        if index is None:
            options = root, bad_records == "strict", require_caption
            index = cls(_make_index(places, source, *options), source, image_root)
        if index.bad_records.counts:
            first = next(iter(index.bad_records.named.values()))[0]
            logger.warning("%s: left out %s; the first: %s", source, index.bad_records, first)
        return index

    def __reduce__(self) -> tuple:
        return AnnotationIndex, (self.directory, self.source, self._given_root)

    def __len__(self) -> int:
        return len(self._regions)

    @property
    def root_is_given(self) -> bool:
        """Whether the images' place was given to ``open``, and not taken from the file."""
        return self._given_root is not None

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
        check_position(j, self.num_images)
        return range(int(self._region_starts[j]), int(self._region_starts[j + 1]))

    def image_of_region(self, i: int) -> int:
        """Position of the image that region ``i`` lies in."""
        check_position(i, len(self))
        return int(self._image_of_region[i])


def _index_places(source: Path, policy: str) -> tuple[Path, Path]:
    """Where an index may lie: beside the file, else in the user's cache directory."""
    status = source.stat()
    key = f"{LAYOUT}:{status.st_size}:{status.st_mtime_ns}:{policy}"
    home = Path(os.path.expanduser("~"))  # stays "~" for a user without one
    own = home / ".cache" if home.is_absolute() else Path(tempfile.gettempdir())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or own) / "dynrefer"
    keys = key, f"{key}:{source.resolve()}"
    digests = [hashlib.sha256(text.encode()).hexdigest()[:16] for text in keys]
    beside, cached = (f"{source.name}.index-{digest}" for digest in digests)
    return source.with_name(beside), cache / cached


def _make_index(places: tuple[Path, Path], source: Path, *options: Any) -> Path:
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
        write_index(building, source, *options)
        try:
            put_in_place(building, place)
        except OSError:
            if not place.is_dir():
                raise
            logger.info("another process made %s at the same time", place)
    finally:
        shutil.rmtree(temporary)
    return place
