"""The arguments of the commands; nothing here takes long to import."""

import argparse
import inspect
from collections.abc import Callable
from pathlib import Path

from dynrefer.command_line import DEFAULT_CHECKPOINT, at_least, config_parser, plain_parser


def train() -> argparse.ArgumentParser:
    """Trains a model from a configuration; alone or under torchrun.

    python train.py --cfg-path configs/train/shapes.yaml [--options run.max_epoch=3 ...]
    torchrun --standalone --nproc_per_node=2 train.py --cfg-path configs/train/shapes.yaml
    dynrefer train --cfg-path configs/train/shapes.yaml
    """
    return config_parser(_usage(train))


def evaluate() -> argparse.ArgumentParser:
    """Evaluates a checkpoint, or scores a result file without a model.

    python evaluate.py --checkpoint output/shapes/checkpoints/last [--split test]
    python evaluate.py --cfg-path configs/train/shapes.yaml --options run.load_ckpt_path=CHECKPOINT
    python evaluate.py --cfg-path configs/train/shapes.yaml --split test --res-path RESULTS.jsonl
    """
    parser = config_parser(_usage(evaluate), required=False)
    parser.add_argument(
        "--checkpoint", type=Path, help="checkpoint folder; its own configuration is the default"
    )
    parser.add_argument("--res-path", type=Path, help="result file to score; no model is built")
    parser.add_argument("--split", help="default: run.valid_splits, or run.test_splits")
    return parser


def demo() -> argparse.ArgumentParser:
    """Describes regions of images: caption, tags, class and attributes, and the views looked at.

    python demo.py --image photo.jpg --box 40 30 200 180 [--box ...] [--mask mask.png ...]
    python demo.py --image photo.jpg --box 40 30 200 180 --control "red,dog" --json --out out.png
    python demo.py --images photos --regions regions.jsonl --json

    Boxes are x1 y1 x2 y2 in pixels of the image as viewers show it. A mask is an image of that
    size, transparent or black outside the region; masks.png:3 is the region of the value 3 in
    masks.png. A line of regions.jsonl is one that `dynrefer caption` takes.
    """
    parser = config_parser(_usage(demo), required=False)
    parser.add_argument("--image", type=Path, help="image file")
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
    parser.add_argument("--images", type=Path, help="folder of images, instead of --image")
    parser.add_argument("--regions", type=Path, help="regions of --images, JSON lines")
    parser.add_argument("--control", help='words that steer the captions, "red,dog"')
    parser.add_argument(
        "--checkpoint", type=Path, help=f"checkpoint folder (default: {DEFAULT_CHECKPOINT})"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--top", type=int, default=5, help="attributes shown (default: 5)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--out", type=Path, help="also draw the regions and their views here")
    return parser


def caption() -> argparse.ArgumentParser:
    """Describes the regions of many images; alone or under torchrun.

    dynrefer caption --checkpoint output/shapes/checkpoints/last --images photos \\
        --regions regions.jsonl --out captions.jsonl
    torchrun --standalone --nproc_per_node=2 -m dynrefer caption --checkpoint ...

    A line of regions.jsonl is {"id": 7, "image": "a.jpg", "box": [x1, y1, x2, y2]}, or has "boxes"
    (a list of them) or "mask" (COCO's run lengths, polygons, or a PNG beside regions.jsonl), and
    may have "controls", words that steer the caption. Regions of an annotation file (.json) are
    taken too. A line of captions.jsonl is a region, in the same order. A command that was ended
    goes on where it was when it is called again.
    """
    parser = plain_parser(_usage(caption))
    parser.add_argument("--checkpoint", type=Path, default=DEFAULT_CHECKPOINT, help="folder")
    parser.add_argument("--images", type=Path, required=True, help="folder of images or shards")
    parser.add_argument("--regions", type=Path, required=True, help=".jsonl, or annotations .json")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, one a region")
    parser.add_argument(
        "--decoders", nargs="+", default=["caption"], help="caption tags attributes classes"
    )
    parser.add_argument("--top", type=at_least(1), default=5, help="attributes and classes (5)")
    parser.add_argument("--batch-size", type=at_least(1), help="regions; default: run.split_size")
    parser.add_argument("--threads", type=at_least(0), help="that open images")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--options", nargs="+", default=[], metavar="KEY=VALUE", help="overrides, a.b=c"
    )
    return parser


def quickstart() -> argparse.ArgumentParser:
    """From nothing to a trained DynRefer, in the working directory; minutes on two CPU cores.

    Renders the shapes world (data/shapes), pretrains an encoder, trains DynRefer and a model that
    sees the region alone, evaluates both, prints the table beside chance, draws a picture. A stage
    that is done already is not done again.
    """
    parser = plain_parser(_usage(quickstart))
    parser.add_argument(
        "--fresh", action="store_true", help="trains again: deletes what earlier calls trained"
    )
    return parser


def _usage(command: Callable[[], argparse.ArgumentParser]) -> str:
    return inspect.cleandoc(command.__doc__ or "")
