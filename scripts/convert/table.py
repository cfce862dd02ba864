"""A CSV or JSONL table of image, box and caption to an annotation file.

python scripts/convert/table.py --source regions.csv --images photos --out data/regions.json
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

from dynrefer.command_line import plain_parser
from dynrefer.datasets.convert.command import add_tag_arguments, run_converter, tag_step
from dynrefer.datasets.convert.table import convert_table
from dynrefer.datasets.convert.writing import AnnotationWriter, ImageFolder


def convert(arguments: argparse.Namespace) -> Iterable[AnnotationWriter]:
    """Converts the one file."""
    images = ImageFolder(arguments.images)
    return [convert_table(arguments.source, arguments.out, images, tag_step(arguments))]


def parser() -> argparse.ArgumentParser:
    """The arguments of this converter, which always needs the images, for their sizes."""
    parser = plain_parser(__doc__)
    parser.add_argument("--source", type=Path, required=True, help=".csv or .jsonl")
    parser.add_argument("--images", type=Path, required=True, help="folder of the images")
    parser.add_argument("--out", type=Path, required=True)
    add_tag_arguments(parser)
    return parser


if __name__ == "__main__":
    run_converter(convert, parser().parse_args())
