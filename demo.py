"""Describes regions of an image: caption, tags, class and attributes, and the views looked at.

python demo.py --image photo.jpg --box 40 30 200 180 [--box ...] [--mask mask.png ...] --out out.png
python demo.py --image photo.jpg --box 40 30 200 180 --control "red,dog" --json
python demo.py --image photo.jpg --box 40 30 200 180 --checkpoint output/shapes/checkpoints/last

Boxes are x1 y1 x2 y2 in pixels of the image as viewers show it. A mask is an image of that size,
transparent or black outside the region; masks.png:3 is the region of the value 3 in masks.png.
"""

import argparse
from pathlib import Path

from dynrefer.command_line import config_parser, entry_point

DEFAULT_CHECKPOINT = Path("output/shapes/checkpoints/last")


def demo_parser() -> argparse.ArgumentParser:
    """The arguments of the demo."""
    parser = config_parser(__doc__, required=False)
    parser.add_argument("--image", type=Path, required=True, help="image file")
    parser.add_argument(
        "--box",
        type=float,
        nargs=4,
        action="append",
        default=[],
        metavar=("X1", "Y1", "X2", "Y2"),
        help="a region as a box in pixels; may be repeated",
    )
    parser.add_argument(
        "--mask", type=Path, nargs="+", action="extend", default=[], help="regions as mask files"
    )
    parser.add_argument("--control", help='words that steer the captions, "red,dog"')
    parser.add_argument(
        "--checkpoint", type=Path, help=f"checkpoint folder (default: {DEFAULT_CHECKPOINT})"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--top", type=int, default=5, help="attributes shown (default: 5)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--out", type=Path, help="also draw the regions and their views here")
    return parser


if __name__ == "__main__":  # before the imports that take seconds
    arguments = demo_parser().parse_args()

import json
import os
import sys
from typing import Any

from dynrefer.config import load_config
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
            f"no checkpoint at {DEFAULT_CHECKPOINT}; `bash scripts/quickstart.sh` trains one, "
            "--checkpoint DIR names another"
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


if __name__ == "__main__":
    entry_point(main, arguments)
