"""Writing shards of a dataset: resumable, every file atomic, and the same bytes for the same input.

``dynrefer.datasets.shards.reading`` says what a shards folder holds, and reads it.
"""

import io
import json
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dynrefer.checksums import sha256_of
from dynrefer.datasets.annotations.index import AnnotationIndex
from dynrefer.datasets.images import summary_of, unreadable_images
from dynrefer.datasets.shards.reading import (
    ANNOTATIONS,
    IMAGE_TABLE,
    LAYOUT,
    MANIFEST,
    ShardedImages,
    name_number,
    read_manifest,
)
from dynrefer.files import part_of, write_atomically, write_text
from dynrefer.progress import Progress
from dynrefer.vocabulary import read_json

PLAN = "plan.json"
IMAGES_PER_SHARD = 1000


@dataclass(frozen=True)
class ShardCounts:
    """What a shards folder holds; ``written`` shards are new, the others were there already."""

    images: int
    regions: int
    shards: int
    bytes: int
    written: int


def write_shards(
    annotations: str | Path,
    folder: str | Path,
    image_root: str | Path | None = None,
    images_per_shard: int = IMAGES_PER_SHARD,
    bad_records: str = "strict",
    progress: bool = True,
) -> ShardCounts:
    """Writes the shards of an annotation file and its images into a folder.

    Images are in the order of the file, those without regions left out; a copy of the file goes
    into the folder. ``image_root`` and ``bad_records`` are as for ``AnnotationIndex.open``. Stopped
    at any point, the same call goes on after the last whole shard; on a finished folder it does
    nothing.

    Raises FileNotFoundError where the file is missing, and ValueError for bad records, or images
    that are missing or none, under "strict" (the first are named, with a count), and for a folder
    with shards of other contents.
    """
    if images_per_shard < 1:
        raise ValueError(f"images_per_shard is {images_per_shard}, must be at least 1")
    source, folder = Path(annotations), Path(folder)
    root = None if image_root is None else Path(image_root)
    index = AnnotationIndex.open(source, root, bad_records)
    images = np.flatnonzero(index.region_counts).tolist()
    _check_plan(source, folder, images_per_shard, bad_records)
    if (folder / MANIFEST).is_file():
        return _counts(folder, written=0)
    faults = unreadable_images(index, images)
    if faults and bad_records == "strict":
        raise ValueError(f"{source}: {summary_of(faults, len(images))}")
    images = [image for image in images if image not in faults]
    shards, table, written = [], [], 0
    with Progress(total=len(images), desc=folder.name, unit=" images", disable=not progress) as bar:
        for first in range(0, len(images), images_per_shard):
            part = images[first : first + images_per_shard]
            path = folder / f"shard-{len(shards):06d}.tar"
            places = _places(path, index, part)
            if places is None:
                _write_shard(path, index, part)
                places = _places(path, index, part)
                written += 1
            table += [[name, len(shards), *place] for name, *place in places]
            regions = sum(len(index.regions_of_image(image)) for image in part)
            shards.append(_facts(path) | {"images": len(part), "regions": regions})
            bar.update(len(part))
    _write_table(folder / IMAGE_TABLE, np.array(table, dtype=np.int64), index, images)
    if not (folder / ANNOTATIONS).is_file():
        write_atomically(folder / ANNOTATIONS, lambda part: shutil.copyfile(source, part))
    manifest = {
        "layout": LAYOUT,
        "images": len(images),
        "regions": sum(shard["regions"] for shard in shards),
        "annotations": _facts(folder / ANNOTATIONS),
        "image_table": {"name": IMAGE_TABLE, "sha256": sha256_of(folder / IMAGE_TABLE)},
        "shards": shards,
    }
    write_text(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    return _counts(folder, written)


def _check_plan(source: Path, folder: Path, images_per_shard: int, bad_records: str) -> None:
    """Writes what the shards are made of, before the first; a folder made of other things raises"""
    plan = {
        "layout": LAYOUT,
        "annotations_sha256": sha256_of(source),
        "images_per_shard": images_per_shard,
        "bad_records": bad_records,
    }
    path = folder / PLAN
    if path.is_file():
        found = read_json(path, "--out")
        others = [key for key in plan if not isinstance(found, dict) or found.get(key) != plan[key]]
        if others:
            raise ValueError(
                f"{folder} holds shards with another {', '.join(others)} ({PLAN}); choose another "
                "folder, or delete this one"
            )
        return
    if folder.is_dir() and {file.name for file in folder.iterdir()} - {part_of(path).name}:
        raise ValueError(f"{folder} holds other files and no {PLAN}; choose an empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(plan, indent=1) + "\n")


def _write_shard(path: Path, index: AnnotationIndex, images: list[int]) -> None:
    def write(part: Path) -> None:
        with tarfile.open(part, "w", format=tarfile.USTAR_FORMAT) as tar:
            for image in images:
                contents = index.image(image).path.read_bytes(), _description(index, image)
                for name, content in zip(_member_names(index, image), contents, strict=True):
                    member = tarfile.TarInfo(name)  # without times and owners
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))

    write_atomically(path, write)


def _places(path: Path, index: AnnotationIndex, images: list[int]) -> list[list[int]] | None:
    """[name's number, start, bytes] of each image's file in a shard; None for no whole shard."""
    if not path.is_file():
        return None
    try:
        with tarfile.open(path, "r:") as tar:
            members = tar.getmembers()
    except tarfile.TarError:
        return None
    expected = [name for image in images for name in _member_names(index, image)]
    if [member.name for member in members] != expected:
        return None
    files = members[::2]
    return [
        [name_number(index.image(image).file_name), file.offset_data, file.size]
        for image, file in zip(images, files, strict=True)
    ]


def _member_names(index: AnnotationIndex, image: int) -> tuple[str, str]:
    """An image's two files in a shard: webdataset takes what stands before the dot as the key."""
    suffix = Path(index.image(image).file_name).suffix.lower() or ".image"
    return f"{image:09d}{suffix}", f"{image:09d}.json"


def _description(index: AnnotationIndex, image: int) -> bytes:
    record = index.image(image)
    content = {key: getattr(record, key) for key in ("id", "file_name", "width", "height")}
    content["regions"] = [
        {key: getattr(index.region(i), key) for key in ("id", "box", "captions", "extra_info")}
        for i in index.regions_of_image(image)
    ]
    return json.dumps(content, separators=(",", ":")).encode()


def _write_table(path: Path, table: np.ndarray, index: AnnotationIndex, images: list[int]) -> None:
    """Writes rows [name's number, shard, start, bytes] by number; of equal names the first."""
    _, first, row_of = np.unique(table[:, 0], return_index=True, return_inverse=True)
    for row in np.flatnonzero(first[row_of] != np.arange(len(table))):
        pair = images[first[row_of[row]]], images[row]
        names = {index.image(image).file_name for image in pair}
        if len(names) > 1:
            raise ValueError(f"{index.source}: rename one of {names}; their hashes are equal")

    def write(part: Path) -> None:
        with part.open("wb") as file:  # to a path, np.save would add a suffix
            np.save(file, table[first])

    write_atomically(path, write)


def _facts(path: Path) -> dict[str, Any]:
    return {"name": path.name, "bytes": path.stat().st_size}


def _counts(folder: Path, written: int) -> ShardCounts:
    """The counts of a finished folder, whose files are checked."""
    ShardedImages(folder)
    manifest = read_manifest(folder)
    size = sum(shard["bytes"] for shard in manifest["shards"])
    counts = manifest["images"], manifest["regions"], len(manifest["shards"])
    return ShardCounts(*counts, size, written)
