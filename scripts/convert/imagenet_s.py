"""ImageNet-S (AlphaCLIP's imagenet_919.json) to an annotation file and its class names.

python scripts/convert/imagenet_s.py --source data/imagenet_s/imagenet_919.json \\
    --class-names data/imagenet_s/LOC_synset_mapping.txt --images data/imagenet_s
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

from dynrefer.datasets.convert.command import converter_parser, image_folder, run_converter
from dynrefer.datasets.convert.imagenet_s import convert_imagenet_s
from dynrefer.datasets.convert.writing import AnnotationWriter


def convert(arguments: argparse.Namespace) -> Iterable[AnnotationWriter]:
    """Converts the one file."""
    images = image_folder(arguments)
    return [convert_imagenet_s(arguments.source, arguments.class_names, arguments.out, images)]


def parser() -> argparse.ArgumentParser:
    """The arguments of this converter."""
    folder = Path("data/imagenet_s")
    parser = converter_parser(__doc__, images="data/imagenet_s")
    parser.add_argument("--source", type=Path, default=folder / "imagenet_919.json")
    parser.add_argument("--class-names", type=Path, default=folder / "LOC_synset_mapping.txt")
    parser.add_argument("--out", type=Path, default=folder / "imagenet_s_val.json")
    return parser


if __name__ == "__main__":
    run_converter(convert, parser().parse_args())
