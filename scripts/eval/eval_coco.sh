#!/usr/bin/env bash
# Region recognition on COCO val2017; published: accuracy 91.8.
#   .venv/bin/python scripts/convert/coco.py
#   bash scripts/eval/eval_coco.sh weights/vg1.2_5e.pth [KEY=VALUE ...]
exec bash "$(dirname "$0")/evaluate.sh" configs/eval/coco/coco.yaml "$@"
