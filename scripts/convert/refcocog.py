"""RefCOCOg (umd) to annotation files.

python scripts/convert/refcocog.py --refs "data/refcocog/refs(umd).p" \\
    --instances data/refcocog/instances.json --images data/coco/train2014
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

from dynrefer.datasets.convert.command import (
    add_tag_arguments,
    converter_parser,
    image_folder,
    run_converter,
    tag_step,
)
from dynrefer.datasets.convert.refcocog import GROUPINGS, SPLITS, convert_refcocog
from dynrefer.datasets.convert.writing import AnnotationWriter


def convert(arguments: argparse.Namespace) -> Iterable[AnnotationWriter]:
    """Converts the wanted splits."""
    outs = {split: arguments.out / f"refcocog_{split}.json" for split in arguments.splits}
    images, step = image_folder(arguments), tag_step(arguments)
    return convert_refcocog(
        arguments.refs, arguments.instances, outs, images, arguments.by, step
    ).values()


def parser() -> argparse.ArgumentParser:
    """The arguments of this converter."""
    parser = converter_parser(__doc__, images="data/coco/train2014")
    parser.add_argument("--refs", type=Path, default=Path("data/refcocog/refs(umd).p"))
    parser.add_argument("--instances", type=Path, default=Path("data/refcocog/instances.json"))
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=SPLITS)
    parser.add_argument(
        "--by",
        choices=GROUPINGS,
        default="sentence",
        help="a region for each sentence, as published, or for each object with all its sentences",
    )
    parser.add_argument("--out", type=Path, default=Path("data/refcocog"), help="folder")
    add_tag_arguments(parser)
    return parser


if __name__ == "__main__":
    run_converter(convert, parser().parse_args())
