"""OVAD's attribute annotations to an annotation file.

python scripts/convert/ovad.py --images data/coco/val2017
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

from dynrefer.datasets.convert.coco import convert_ovad
from dynrefer.datasets.convert.command import converter_parser, image_folder, run_converter
from dynrefer.datasets.convert.writing import AnnotationWriter


def convert(arguments: argparse.Namespace) -> Iterable[AnnotationWriter]:
    """Converts the one file."""
    return [convert_ovad(arguments.source, arguments.out, image_folder(arguments))]


def parser() -> argparse.ArgumentParser:
    """The arguments of this converter."""
    parser = converter_parser(__doc__, images="data/coco/val2017")
    parser.add_argument("--source", type=Path, default=Path("data/ovad2000.json"))
    parser.add_argument("--out", type=Path, default=Path("data/ovad/ovad.json"))
    return parser


if __name__ == "__main__":
    run_converter(convert, parser().parse_args())
