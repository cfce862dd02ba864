#!/usr/bin/env bash
# Dense captioning on VG-COCO.
#   .venv/bin/python scripts/convert/visual_genome.py --version vgcoco
#   bash scripts/eval/eval_vgcoco_densecap.sh weights/vg1.2_5e.pth [KEY=VALUE ...]
exec bash "$(dirname "$0")/evaluate.sh" configs/eval/vg/vgcoco_densecap.yaml "$@"
