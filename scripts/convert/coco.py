"""COCO 2017 instances to an annotation file for region recognition.

python scripts/convert/coco.py --source data/coco/annotations/instances_val2017.json
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

from dynrefer.datasets.convert.coco import convert_coco
from dynrefer.datasets.convert.command import converter_parser, image_folder, run_converter
from dynrefer.datasets.convert.writing import AnnotationWriter


def convert(arguments: argparse.Namespace) -> Iterable[AnnotationWriter]:
    """Converts the one file."""
    return [convert_coco(arguments.source, arguments.out, image_folder(arguments))]


def parser() -> argparse.ArgumentParser:
    """The arguments of this converter."""
    source = Path("data/coco/annotations/instances_val2017.json")
    parser = converter_parser(__doc__, images="data/coco/val2017")
    parser.add_argument("--source", type=Path, default=source)
    parser.add_argument("--out", type=Path, default=Path("data/coco/coco_val2017.json"))
    return parser


if __name__ == "__main__":
    run_converter(convert, parser().parse_args())
