"""A detector's boxes on LVIS minival (COCO results) to an annotation file for box AP.

python scripts/convert/lvis.py --detections data/lvis/yolo_world.bbox.json \\
    --lvis data/lvis/lvis_v1_minival_inserted_image_name.json --images data/coco
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

from dynrefer.datasets.convert.command import converter_parser, image_folder, run_converter
from dynrefer.datasets.convert.detections import BOX_FORMATS, convert_lvis
from dynrefer.datasets.convert.writing import AnnotationWriter


def convert(arguments: argparse.Namespace) -> Iterable[AnnotationWriter]:
    """Converts the one file."""
    images = image_folder(arguments)
    return [
        convert_lvis(
            arguments.detections, arguments.lvis, arguments.out, images, arguments.box_format
        )
    ]


def parser() -> argparse.ArgumentParser:
    """The arguments of this converter."""
    lvis = Path("data/lvis/lvis_v1_minival_inserted_image_name.json")
    parser = converter_parser(__doc__, images="data/coco")
    parser.add_argument("--detections", type=Path, required=True)
    parser.add_argument("--lvis", type=Path, default=lvis)
    parser.add_argument("--out", type=Path, default=Path("data/lvis/lvis_minival.json"))
    parser.add_argument("--box-format", choices=BOX_FORMATS, default="xywh")
    return parser


if __name__ == "__main__":
    run_converter(convert, parser().parse_args())
