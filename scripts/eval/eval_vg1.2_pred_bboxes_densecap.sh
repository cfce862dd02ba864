#!/usr/bin/env bash
# Dense captioning of a detector's boxes (COCO results) on vg1.2.
#   .venv/bin/python scripts/convert/predicted_boxes.py --detections DETECTIONS.json \
#       --ground-truth data/vg/vg1.2_test.json --out data/vg/pred_bboxes/vg1.2_test.json
#   bash scripts/eval/eval_vg1.2_pred_bboxes_densecap.sh weights/vg1.2_5e.pth [KEY=VALUE ...]
exec bash "$(dirname "$0")/evaluate.sh" configs/eval/vg/pred_bboxes/vg1.2_densecap.yaml "$@"
