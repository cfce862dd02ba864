"""Evaluates a checkpoint, or scores a result file without a model.

python evaluate.py --checkpoint output/shapes/checkpoints/last [--split test]
python evaluate.py --cfg-path configs/train/shapes.yaml --options run.load_ckpt_path=CHECKPOINT
python evaluate.py --cfg-path configs/train/shapes.yaml --split test --res-path RESULTS.jsonl
"""

import argparse
from pathlib import Path

from dynrefer.command_line import config_parser, entry_point


def main(arguments: argparse.Namespace) -> None:
    """Evaluates; what takes seconds to import comes after the arguments."""
    from dynrefer.runners.entry import evaluate_main

    evaluate_main(arguments)


if __name__ == "__main__":
    parser = config_parser(__doc__, required=False)
    parser.add_argument(
        "--checkpoint", type=Path, help="checkpoint folder; its own configuration is the default"
    )
    parser.add_argument("--res-path", type=Path, help="result file to score; no model is built")
    parser.add_argument("--split", help="default: run.valid_splits, or run.test_splits")
    entry_point(main, parser.parse_args())
