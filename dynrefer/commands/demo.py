"""Describes regions of images for people: as text, JSON and pictures."""

import argparse
import json
import os
import sys
from dataclasses import replace
from typing import Any

from dynrefer.captioning import RegionCaptioner
from dynrefer.captioning.regions import images_at, of_one_image, read_regions
from dynrefer.command_line import DEFAULT_CHECKPOINT
from dynrefer.config import load_config
from dynrefer.config.schema import DECODERS
from dynrefer.pictures import (
    check_picture_path,
    draw_regions,
    page_paths,
    save_picture,
)
from dynrefer.predictor import RegionPredictor, as_image, regions_of
from dynrefer.processors.masks import as_mask, open_mask


def main(arguments: argparse.Namespace) -> None:
    """Predicts and prints; what is wrong with the arguments is said before the model is built."""
    if arguments.top < 0:
        raise ValueError(f"--top {arguments.top}; valid is 0 or more")
    if arguments.images is not None:
        _describe_many(arguments)
        return
    if arguments.image is None:
        raise ValueError("no image is given; give --image FILE, or --images DIR --regions FILE")
    image = as_image(arguments.image)
    if not (arguments.box or arguments.mask):
        raise ValueError("no region is given; give --box X1 Y1 X2 Y2 or --mask FILE")
    masks = [as_mask(open_mask(path), image.size, f"mask file {path}") for path in arguments.mask]
    boxes, shapes = regions_of(image.size, arguments.box, masks)
    if arguments.out:
        check_picture_path(arguments.out, len(boxes))
        given = {path.resolve() for path in (arguments.image, *arguments.mask)}
        if given & {path.resolve() for path in page_paths(arguments.out, len(boxes))}:
            raise ValueError(f"--out {arguments.out} would write over an image that is read")

    predictor = load_predictor(arguments)
    words = (arguments.control or "").split(",")
    results = predictor.predict(image, arguments.box, masks, [words] * len(boxes))
    names = predictor.model.vocabularies.attributes.names
    described = [result.to_dict(arguments.top) for result in results]
    text = "\n\n".join(map(as_text, described))
    _print(json.dumps(described, indent=2, ensure_ascii=False) if arguments.json else text)
    if arguments.out:
        predictions = [result.prediction for result in results]
        pages = draw_regions(image, predictions, boxes, names, masks=shapes, top=arguments.top)
        save_picture(arguments.out, pages)


def _describe_many(arguments: argparse.Namespace) -> None:
    """Describes the regions of a file, image by image as they come; bad ones say so."""
    given = [name for name in ("image", "box", "mask", "out") if getattr(arguments, name)]
    if given or arguments.regions is None:
        problem = f"--{given[0]} goes with --image" if given else "--images needs --regions FILE"
        raise ValueError(f"{problem}; many images are described by --images DIR --regions FILE")
    groups = of_one_image(read_regions(arguments.regions, images_at(arguments.images)))
    words = tuple((arguments.control or "").split(","))
    captioner = RegionCaptioner(
        load_predictor(arguments), arguments.images, decoders=DECODERS, top=arguments.top
    )
    groups = ([replace(r, controls=(*words, *r.controls)) for r in group] for group in groups)
    bad = 0
    for lines in captioner.describe(groups):
        for line in lines:
            bad += "error" in line
            _print(json.dumps(line, ensure_ascii=False) if arguments.json else _told(line))
    if bad:
        print(f"{bad} regions could not be used", file=sys.stderr)


def _told(line: dict[str, Any]) -> str:
    if "error" in line:
        return f"region {line['id']}    {line['error']}\n"
    return f"{line['image']}\n{as_text(line)}\n"


def _print(text: str) -> None:
    """Prints the results; where nobody reads on (``| head``), the picture is drawn all the same."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def load_predictor(arguments: argparse.Namespace) -> RegionPredictor:
    """The model of --cfg-path, with the weights of --checkpoint if given, or of a checkpoint."""
    if arguments.cfg_path:
        config = load_config(arguments.cfg_path, arguments.options)
        if arguments.checkpoint:
            config.run.load_ckpt_path = str(arguments.checkpoint)
        return RegionPredictor.from_config(config, arguments.device)
    if arguments.checkpoint is None and not DEFAULT_CHECKPOINT.is_dir():
        raise FileNotFoundError(
            f"no checkpoint at {DEFAULT_CHECKPOINT}; `dynrefer quickstart` (in a checkout "
            "`bash scripts/quickstart.sh`) trains one in minutes, --checkpoint DIR names another"
        )
    checkpoint = arguments.checkpoint or DEFAULT_CHECKPOINT
    return RegionPredictor.from_checkpoint(checkpoint, arguments.device, arguments.options)


def as_text(region: dict[str, Any]) -> str:
    """A described region as an aligned block of lines."""
    attributes = [f"{item['name']} ({item['score']:.2f})" for item in region["attributes"]]
    lines = [
        f"region {region['id']}    box {' '.join(f'{value:g}' for value in region['box'])}",
        f"  caption     {region['caption'] or '(empty)'} ({region['score']:.2f})",
        f"  tags        {', '.join(region['tags']) or '(none)'}",
        f"  class       {region['class']} ({region['class_score']:.2f})",
        f"  attributes  {', '.join(attributes) or '(none)'}",
        f"  views       t = {', '.join(format(view['ratio'], 'g') for view in region['views'])}",
    ]
    return "\n".join(lines)
