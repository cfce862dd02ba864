"""A detector's boxes (COCO results) on the images of a converted file, to be described.

python scripts/convert/predicted_boxes.py --detections data/vg/grit_vg1.2.json \\
    --ground-truth data/vg/vg1.2_test.json --out data/vg/pred_bboxes/vg1.2_test.json
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

from dynrefer.datasets.convert.command import converter_parser, image_folder, run_converter
from dynrefer.datasets.convert.detections import (
    BOX_FORMATS,
    convert_predicted_boxes,
    recorded_images,
)
from dynrefer.datasets.convert.writing import AnnotationWriter


def convert(arguments: argparse.Namespace) -> Iterable[AnnotationWriter]:
    """Converts the one file."""
    if arguments.images is None:
        images = recorded_images(arguments.ground_truth, check=not arguments.no_image_check)
    else:
        images = image_folder(arguments)
    return [
        convert_predicted_boxes(
            arguments.detections,
            arguments.ground_truth,
            arguments.out,
            images,
            arguments.box_format,
            arguments.min_score,
        )
    ]


def parser() -> argparse.ArgumentParser:
    """The arguments of this converter."""
    parser = converter_parser(__doc__, images=None)
    parser.add_argument("--detections", type=Path, required=True)
    parser.add_argument("--ground-truth", type=Path, required=True, help="converted file")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--box-format", choices=BOX_FORMATS, default="xywh")
    parser.add_argument("--min-score", type=float, help="leave out boxes scored lower")
    return parser


if __name__ == "__main__":
    run_converter(convert, parser().parse_args())
