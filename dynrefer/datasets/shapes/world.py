"""The shapes world: pictures of textured figures in relations, in the real annotation format.

It needs no download and it needs several views: a texture can be read only close up, a relation
only from afar. Every image follows from (seed, split, number) alone.

    python -m dynrefer.datasets.shapes --out data/shapes --images 1000 --seed 0
"""

import argparse
import functools
import glob
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dynrefer.datasets.shapes.scenes import annotation_of, render_scene
from dynrefer.datasets.shapes.vocabularies import write_vocabularies
from dynrefer.datasets.shapes.words import CLASSES
from dynrefer.files import put_in_place
from dynrefer.progress import Progress
from dynrefer.workers import worker_pool

VERSION = 6
SPLITS = ("train", "val", "test")
MAX_IMAGES = 1_000_000  # of a split: image ids leave room for no more
IMAGES_A_PROCESS = 100  # fewer are not worth another process
JPEG_OPTIONS = [cv2.IMWRITE_JPEG_QUALITY, 95]
Written = tuple[dict[str, Any], list[dict[str, Any]]]  # an image record and its annotations


def _write_image(split: str, folder: Path, seed: int, number: int) -> Written:
    """Writes one image file; returns its record and the annotations of its regions."""
    split_index = SPLITS.index(split)
    rng = np.random.default_rng([seed, split_index, number])
    image, regions = render_scene(rng)
    image_id = split_index * MAX_IMAGES + number + 1
    name = f"{image_id:07d}.jpg"
    _, data = cv2.imencode(".jpg", image[..., ::-1], JPEG_OPTIONS)
    (folder / name).write_bytes(data.tobytes())
    height, width = image.shape[:2]
    record = {"id": image_id, "file_name": name, "width": width, "height": height}
    return record, [annotation_of(regions, k, image_id, split, rng) for k in range(len(regions))]


def _each(write: Callable[[int], Written], count: int) -> Iterator[Written]:
    """``write`` of 0 to count - 1 in order, by as many processes as pay."""
    processes = min(os.cpu_count() or 1, 1 + count // IMAGES_A_PROCESS)
    if processes == 1:
        yield from map(write, range(count))
    else:  # every image follows from its number alone: the processes need not talk to each other
        with worker_pool(processes, cv2.setNumThreads, (1,)) as pool:
            yield from pool.map(write, range(count), chunksize=16)


def _write_split(folder: Path, split: str, count: int, seed: int, progress: bool) -> int:
    """Writes the images and annotations of one split; returns the number of regions."""
    image_folder = folder / "images" / split
    image_folder.mkdir(parents=True)
    write = functools.partial(_write_image, split, image_folder, seed)
    each = _each(write, count)
    written = list(Progress(each, f"shapes {split}", count, unit="image", disable=not progress))
    annotations = [annotation for _, regions in written for annotation in regions]
    document = {
        "dataset": {"name": f"shapes {split}", "image_root": f"images/{split}"},
        "images": [record for record, _ in written],
        "annotations": annotations,
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(CLASSES)],
    }
    _write_json(folder / f"{split}.json", document)
    if split != "train":
        keys = ("id", "image_id", "category_id", "bbox", "segmentation", "area", "iscrowd")
        document["annotations"] = [{key: a[key] for key in keys} for a in annotations]
        _write_json(folder / f"instances_{split}.json", document)
    return len(annotations)


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, separators=(",", ":")) + "\n")


def make_shapes(
    out: Path,
    train_images: int,
    val_images: int = 100,
    test_images: int = 150,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, int]:
    """Writes a shapes world to ``out``; returns ``train_images``, ``train_regions`` and so on.

    The world appears under its name only when it is complete. A complete world of the same
    parameters is left as it is; ``overwrite`` replaces a shapes world of other parameters. Raises
    ValueError where a count or the seed is negative, no image is asked for, or too many, and
    FileExistsError where ``out`` holds something else.
    """
    images = dict(zip(SPLITS, (train_images, val_images, test_images), strict=True))
    _check_parameters(images, seed)
    parameters = {"world": "shapes", "version": VERSION, "seed": seed, "images": images}
    out = Path(out).resolve()
    _remove_leftovers(out)
    found = _found_world(out)
    if found is not None and all(found.get(key) == value for key, value in parameters.items()):
        if progress:
            print(f"{out} holds this shapes world already")
        return _counts(found)
    if found is not None and not overwrite:
        different = ", ".join(f"{k} {found.get(k)}" for k in parameters if k != "world")
        raise FileExistsError(
            f"{out} holds a shapes world of other parameters ({different}); "
            "choose another folder or pass --overwrite (overwrite=True)"
        )
    partial, retired = (
        out.with_name(f".{out.name}.{os.getpid()}.{state}") for state in ("partial", "retired")
    )
    try:
        partial.mkdir(parents=True)
        regions = {s: _write_split(partial, s, n, seed, progress) for s, n in images.items()}
        write_vocabularies(partial)
        world = {**parameters, "regions": regions}
        (partial / "world.json").write_text(json.dumps(world, indent=2) + "\n")
        if out.exists():
            os.replace(out, retired)
        put_in_place(partial, out)
        shutil.rmtree(retired, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return _counts(world)


def _remove_leftovers(out: Path) -> None:
    """Removes what calls left behind that were killed, and so are no processes any more."""
    for path in out.parent.glob(f".{glob.escape(out.name)}.*.*"):
        process, _, state = path.name.removeprefix(f".{out.name}.").partition(".")
        if state not in ("partial", "retired") or not process.isdecimal():
            continue
        try:
            os.kill(int(process), 0)
        except ProcessLookupError:
            if state == "retired" and not out.exists():
                os.replace(path, out)  # killed between its two renames
            shutil.rmtree(path, ignore_errors=True)
        except PermissionError:
            continue  # somebody else's, and alive


def _check_parameters(images: dict[str, int], seed: int) -> None:
    for split, count in images.items():
        if not 0 <= count < MAX_IMAGES:
            raise ValueError(f"{split} images: {count} is not from 0 to {MAX_IMAGES - 1}")
    if not any(images.values()):
        raise ValueError("no image asked for: train, val and test images are all 0")
    if seed < 0:
        raise ValueError(f"seed: {seed} is negative; valid are 0, 1, 2, ...")


def _found_world(out: Path) -> dict[str, Any] | None:
    """The description of the world at ``out``, None where nothing is there yet."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    description = out / "world.json"
    if not description.is_file():
        raise FileExistsError(f"{out} is there and holds no shapes world; choose another folder")
    try:
        world = json.loads(description.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{description} is not valid JSON: {error}") from error
    if not isinstance(world, dict) or world.get("world") != "shapes":
        raise FileExistsError(f"{description} does not describe a shapes world")
    return world


def _counts(world: dict[str, Any]) -> dict[str, int]:
    return {f"{s}_{kind}": world[kind][s] for s in SPLITS for kind in ("images", "regions")}


def main(arguments: list[str] | None = None) -> None:
    """Command line: ``python -m dynrefer.datasets.shapes --out DIR --images N --seed S``."""
    parser = argparse.ArgumentParser(prog="python -m dynrefer.datasets.shapes")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--images", type=int, default=1000, help="training images")
    parser.add_argument("--val", type=int, default=100, help="validation images")
    parser.add_argument("--test", type=int, default=150, help="test images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overwrite", action="store_true", help="replace another shapes world")
    given = parser.parse_args(arguments)
    images = (given.images, given.val, given.test)
    try:
        counts = make_shapes(given.out, *images, given.seed, given.overwrite)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    parts = [
        f"{split} {counts[f'{split}_images']} images with {counts[f'{split}_regions']} regions"
        for split in SPLITS
    ]
    print(f"{given.out}: {', '.join(parts)}")
