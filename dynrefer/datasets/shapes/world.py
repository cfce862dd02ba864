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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dynrefer.datasets.shapes import language
from dynrefer.datasets.shapes.layout import relate, sample_layout
from dynrefer.datasets.shapes.rendering import Figure, background, draw, visible_part
from dynrefer.files import put_in_place
from dynrefer.progress import Progress
from dynrefer.workers import worker_pool

VERSION = 5
SPLITS = ("train", "val", "test")
MAX_IMAGES = 1_000_000  # of a split: image ids leave room for no more
IMAGE_SIDES = (288, 353)  # px, width and height are drawn from this range
UNLABELLED_SHARE = 0.1  # of the attribute labels
IMAGES_A_PROCESS = 100  # fewer are not worth another process
JPEG_OPTIONS = [cv2.IMWRITE_JPEG_QUALITY, 95]
Written = tuple[dict[str, Any], list[dict[str, Any]]]  # an image record and its annotations


@dataclass(frozen=True)
class Region:
    """A figure as it can be seen in its image.

    ``box`` float64 [4] (xyxy, pixels) is the tight box of ``polygon``, the outline of the
    visible part (COCO's flat x, y list); ``area`` is that part's area in square pixels.
    ``relation`` and ``other`` (index of a region) are None where no relation is clear.
    """

    figure: Figure
    box: np.ndarray
    polygon: list[float]
    area: float
    relation: str | None = None
    other: int | None = None


def render_scene(rng: np.random.Generator) -> tuple[np.ndarray, list[Region]]:
    """Draws one image (uint8 [H, W, 3], RGB) and returns it with its regions.

    The regions come in drawing order: a later one stands in front of an earlier one.
    """
    width, height = (int(side) for side in rng.integers(*IMAGE_SIDES, size=2))
    figures = sample_layout(rng, width, height)
    image = draw(figures, background(rng, width, height))
    seen = [visible_part(figures, i, width, height) for i in range(len(figures))]
    relations = relate(np.array([box for box, _, _ in seen]))
    regions = []
    for figure, (box, polygon, area), pair in zip(figures, seen, relations, strict=True):
        name, other = pair or (None, None)
        regions.append(Region(figure, box, polygon, area, name, other))
    return image, regions


def captions_of(regions: list[Region], index: int) -> list[str]:
    """All reference captions of a region, the canonical one first."""
    return [_caption(template, regions, index) for template in language.TEMPLATES]


def _caption(template: str, regions: list[Region], index: int) -> str:
    region, figure = regions[index], regions[index].figure
    looks = (figure.size, figure.texture, figure.colour, figure.name)
    other = None if region.other is None else regions[region.other].figure
    return language.caption(template, *looks, region.relation, other and (other.colour, other.name))


def _attribute_vector(region: Region, single: bool, rng: np.random.Generator) -> list[int]:
    """1 true, 0 false, -1 unlabelled for each attribute.

    A share of the labels is left out at random, and all relations where none is clear (in an
    image with a ``single`` figure they are all false).
    """
    figure = region.figure
    true = {figure.colour, figure.texture, figure.size, region.relation}
    unclear = region.relation is None and not single
    unknown = language.RELATIONS if unclear else ()
    return [
        -1 if rng.random() < UNLABELLED_SHARE or value in unknown else int(value in true)
        for value in language.attribute_values()
    ]


def _annotation(
    regions: list[Region], index: int, image_id: int, split: str, rng: np.random.Generator
) -> dict[str, Any]:
    region, figure = regions[index], regions[index].figure
    other = None if region.other is None else regions[region.other].figure
    subject_tags = (figure.name, figure.colour, figure.texture, figure.size)
    other_tags = () if other is None else (other.name, other.colour)
    # drawn in every split, so that a caption never shifts the labels behind it
    drawn = int(rng.choice(len(language.TRAIN_TEMPLATES), p=language.TRAIN_TEMPLATE_SHARES))
    captions = captions_of(regions, index)
    training_caption = _caption(language.TRAIN_TEMPLATES[drawn], regions, index)
    box = region.box
    annotation = {
        "id": image_id * 10 + index,
        "image_id": image_id,
        "bbox": [round(float(v), 2) for v in (box[0], box[1], box[2] - box[0], box[3] - box[1])],
        "segmentation": [region.polygon],
        "area": round(region.area, 2),
        "iscrowd": 0,
        "category_id": language.CLASSES.index(figure.name) + 1,
        "caption": captions[0] if split == "test" else training_caption,
        "extra_info": {
            "parser_result": {
                "tag_set1": sorted(language.TAGS.index(tag) for tag in subject_tags),
                "tag_set2": sorted(language.TAGS.index(tag) for tag in other_tags),
            },
            "ovad_result": {"att_vec": _attribute_vector(region, len(regions) == 1, rng)},
            "coco_result": {"category": figure.name},
        },
    }
    if split == "test":
        annotation["captions"] = captions
    return annotation


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
    return record, [_annotation(regions, k, image_id, split, rng) for k in range(len(regions))]


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
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(language.CLASSES)],
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
        language.write_vocabularies(partial)
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
