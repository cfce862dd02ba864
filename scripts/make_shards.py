"""Packs an annotation file and its images into shards for training (docs/data.md, "Shards").

python scripts/make_shards.py --annotations data/vg/vg1.2_train.json \\
    --out data/vg/shards/vg1.2_train
"""

import argparse
import logging
import sys
from pathlib import Path

from dynrefer.command_line import at_least, plain_parser
from dynrefer.datasets.annotations import POLICIES
from dynrefer.datasets.shards.writing import IMAGES_PER_SHARD, write_shards


def parse_arguments() -> argparse.Namespace:
    parser = plain_parser(__doc__)
    parser.add_argument("--annotations", type=Path, required=True, help="annotation file")
    parser.add_argument("--out", type=Path, required=True, help="folder of the shards")
    parser.add_argument("--image-root", type=Path, help="instead of the file's own")
    parser.add_argument("--images-per-shard", type=at_least(1), default=IMAGES_PER_SHARD)
    parser.add_argument("--bad-records", choices=POLICIES, default="strict")
    return parser.parse_args()


def main(arguments: argparse.Namespace) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        counts = write_shards(
            arguments.annotations,
            arguments.out,
            arguments.image_root,
            arguments.images_per_shard,
            arguments.bad_records,
        )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    print(
        f"{arguments.out}: {counts.images:,} images with {counts.regions:,} regions in "
        f"{counts.shards:,} shards, {counts.bytes / 1e9:.2f} GB; {counts.written:,} shards were "
        "written now"
    )


if __name__ == "__main__":
    main(parse_arguments())
