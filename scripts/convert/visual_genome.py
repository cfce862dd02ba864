"""Visual Genome to annotation files: dense captioning, VG-COCO, region captioning.

python scripts/convert/visual_genome.py --version vg1.2 --annotations data/vg/annotations/vg1.2
python scripts/convert/visual_genome.py --version vg_reg --regions data/vg/test_caption.json
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

from dynrefer.datasets.convert.coco import convert_region_captions
from dynrefer.datasets.convert.command import (
    add_tag_arguments,
    converter_parser,
    image_folder,
    run_converter,
    tag_step,
)
from dynrefer.datasets.convert.visual_genome import (
    SPLITS,
    VERSIONS,
    VisualGenomeFiles,
    convert_visual_genome,
)
from dynrefer.datasets.convert.writing import AnnotationWriter


def convert(arguments: argparse.Namespace) -> Iterable[AnnotationWriter]:
    """Converts one version, all splits in one pass."""
    images, out = image_folder(arguments), arguments.out
    if arguments.version == "vg_reg":
        if arguments.regions is None:
            raise ValueError("vg_reg needs --regions, GLaMM's test_caption.json")
        return [convert_region_captions(arguments.regions, out / "vg_reg_test.json", images)]
    # VG-COCO is part of Visual Genome 1.2.
    release = "vg1.2" if arguments.version == "vgcoco" else arguments.version
    folder = arguments.annotations or Path("data/vg/annotations") / release
    regions = arguments.regions or folder / "region_descriptions.json"
    files = VisualGenomeFiles(folder / "image_data.json", regions, arguments.split_file)
    outs = {split: out / f"{arguments.version}_{split}.json" for split in arguments.splits}
    step = tag_step(arguments)
    return convert_visual_genome(files, outs, arguments.version, images, step).values()


def parser() -> argparse.ArgumentParser:
    """The arguments of this converter."""
    parser = converter_parser(__doc__, images="data/vg/images")
    parser.add_argument("--version", choices=(*VERSIONS, "vg_reg"), required=True)
    parser.add_argument("--annotations", type=Path, help="folder of image_data.json and regions")
    parser.add_argument("--regions", type=Path, help="region_descriptions.json, or COCO-style file")
    parser.add_argument("--split-file", type=Path, default=Path("data/vg/densecap_splits.json"))
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=SPLITS)
    parser.add_argument("--out", type=Path, default=Path("data/vg"), help="folder (data/vg)")
    add_tag_arguments(parser)
    return parser


if __name__ == "__main__":
    run_converter(convert, parser().parse_args())
