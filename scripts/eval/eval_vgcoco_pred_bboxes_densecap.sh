#!/usr/bin/env bash
# Dense captioning of a detector's boxes (COCO results) on vgcoco.
#   .venv/bin/python scripts/convert/predicted_boxes.py --detections DETECTIONS.json \
#       --ground-truth data/vg/vgcoco_test.json --out data/vg/pred_bboxes/vgcoco_test.json
#   bash scripts/eval/eval_vgcoco_pred_bboxes_densecap.sh weights/vg1.2_5e.pth [KEY=VALUE ...]
exec bash "$(dirname "$0")/evaluate.sh" configs/eval/vg/pred_bboxes/vgcoco_densecap.yaml "$@"
