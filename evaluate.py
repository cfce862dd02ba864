"""Evaluates a checkpoint, or scores a result file without a model.

python evaluate.py --checkpoint output/shapes/checkpoints/last [--split test]
python evaluate.py --cfg-path configs/train/shapes.yaml --options run.load_ckpt_path=CHECKPOINT
python evaluate.py --cfg-path configs/train/shapes.yaml --split test --res-path RESULTS.jsonl
"""

from pathlib import Path

from dynrefer.runners.entry import entry_point, evaluate_main, parser_of

if __name__ == "__main__":
    parser = parser_of(__doc__, config_required=False)
    parser.add_argument(
        "--checkpoint", type=Path, help="checkpoint folder; its own configuration is the default"
    )
    parser.add_argument("--res-path", type=Path, help="result file to score; no model is built")
    parser.add_argument("--split", help="split to evaluate (default: run.valid_splits)")
    entry_point(evaluate_main, parser.parse_args())
