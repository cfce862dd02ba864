"""Shards: a dataset as a few large tar files, read by place and so in any order.

A shards folder (made by ``dynrefer.datasets.shards.writing``) holds

- ``shard-000000.tar`` ...: for each image its file as it is and a JSON of its regions, under one
  key, as webdataset reads them;
- ``annotations.json``: the annotation file, byte by byte;
- ``images.npy``: where the file of each image lies;
- ``manifest.json``: what must be there.

Regions have the positions that they have in the annotation file, and images their bytes. So the
samples, their split over processes and workers, and resuming are those of training from files.
"""

import hashlib
import io
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dynrefer.checksums import sha256_of
from dynrefer.datasets.annotations.index import AnnotationIndex
from dynrefer.vocabulary import read_json

LAYOUT = 1  # of the files of a folder
ANNOTATIONS, IMAGE_TABLE, MANIFEST = "annotations.json", "images.npy", "manifest.json"
OPEN_SHARDS = 128  # files a process holds open at a time
SETTING = "build_info.shards"


class ShardedImages:
    """The images of a shards folder by file name, in the place of a folder of images.

    Raises FileNotFoundError where the folder, its manifest or a shard is missing, and ValueError
    where a file is not as the manifest says. Pickling carries only the path.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        manifest = read_manifest(self.folder)
        self._shards = [self.folder / shard["name"] for shard in manifest["shards"]]
        sizes = {shard["name"]: shard["bytes"] for shard in manifest["shards"]}
        sizes[ANNOTATIONS] = manifest["annotations"]["bytes"]
        for name, size in sizes.items():
            _check_size(self.folder / name, size)
        table = self.folder / IMAGE_TABLE
        if not table.is_file() or sha256_of(table) != manifest["image_table"]["sha256"]:
            raise ValueError(f"{table}: missing, or not the table that {MANIFEST} was written with")
        self._table = np.load(table, mmap_mode="r")  # int64 [N, 4]: name, shard, start, bytes
        self._opened = lru_cache(OPEN_SHARDS)(lambda number: self._shards[number].open("rb", 0))

    def __reduce__(self) -> tuple:
        return ShardedImages, (self.folder,)

    def __truediv__(self, file_name: str) -> "ShardedImage":
        return ShardedImage(self, file_name)

    def read(self, file_name: str) -> bytes:
        """The file of an image, by the file name of its record.

        Raises FileNotFoundError for an image that is not in the shards, ValueError for a shard that
        ends too early.
        """
        number = name_number(file_name)
        row = int(np.searchsorted(self._table[:, 0], number))
        if row == len(self._table) or self._table[row, 0] != number:
            raise FileNotFoundError(f"image {file_name} is not in the shards of {self.folder}")
        _, shard, start, size = self._table[row].tolist()
        # Workers made by forking share a file's position, so the place is part of the call.
        content = os.pread(self._opened(shard).fileno(), size, start)
        if len(content) != size:
            raise ValueError(f"{self._shards[shard]}: ends within image {file_name}; copy it again")
        return content


@dataclass(frozen=True)
class ShardedImage:
    """One image of a shards folder, in the place of its path."""

    shards: ShardedImages
    file_name: str

    def open(self, mode: str = "rb") -> BinaryIO:
        """The image file as a file in memory; only for reading."""
        return io.BytesIO(self.shards.read(self.file_name))

    def __str__(self) -> str:
        return f"{self.shards.folder}:{self.file_name}"


def open_shards(
    folder: str | Path, bad_records: str = "strict", require_caption: bool = False
) -> AnnotationIndex:
    """The regions of a shards folder, as ``AnnotationIndex.open`` gives them, with its images.

    Raises what ``ShardedImages`` and ``AnnotationIndex.open`` raise.
    """
    images = ShardedImages(folder)
    path = images.folder / ANNOTATIONS
    return AnnotationIndex.open(path, images, bad_records, require_caption)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The checked manifest of a shards folder.

    Raises FileNotFoundError where it is missing, and ValueError for one that is broken, of another
    layout or without a key.
    """
    path = folder / MANIFEST
    if folder.suffix == ".tar":
        raise ValueError(f"{SETTING}: {folder} is a tar file; name the folder that it lies in")
    if folder.is_dir() and not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no {MANIFEST}, which scripts/make_shards.py writes last; run it again"
        )
    manifest = read_json(path, SETTING)
    try:
        if manifest["layout"] != LAYOUT:
            raise ValueError(f"{path}: 'layout' is {manifest['layout']!r}, must be {LAYOUT}")
        sizes = [
            manifest["annotations"]["bytes"],
            *(shard["bytes"] for shard in manifest["shards"]),
        ]
        names = [shard["name"] for shard in manifest["shards"]]
        known = manifest["image_table"]["sha256"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: is no manifest of shards: {error!r}") from error
    if not all(isinstance(size, int) for size in sizes) or not isinstance(known, str):
        raise ValueError(f"{path}: 'bytes' must be whole numbers and 'sha256' a text")
    if not names or any(Path(str(name)).name != name for name in names):
        raise ValueError(f"{path}: 'shards' must name files of this folder, names {names[:3]}")
    return manifest


def name_number(file_name: str) -> int:
    """64 bits that stand for a file name in the table of images."""
    digest = hashlib.blake2b(file_name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def _check_size(path: Path, size: int) -> None:
    try:
        found = path.stat().st_size
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} is missing; {MANIFEST} beside it names it") from error
    if found != size:
        raise ValueError(f"{path}: has {found} bytes, {MANIFEST} says {size}; copy it again")
