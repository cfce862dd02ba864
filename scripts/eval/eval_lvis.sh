#!/usr/bin/env bash
# Box AP of LVIS minival for a detector's boxes (COCO results).
#   .venv/bin/python scripts/convert/lvis.py --detections DETECTIONS.json
#   bash scripts/eval/eval_lvis.sh weights/vg1.2_5e.pth [KEY=VALUE ...]
exec bash "$(dirname "$0")/evaluate.sh" configs/eval/lvis/lvis.yaml "$@"
