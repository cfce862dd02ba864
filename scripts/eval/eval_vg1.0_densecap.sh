#!/usr/bin/env bash
# Dense captioning on Visual Genome 1.0.
#   .venv/bin/python scripts/convert/visual_genome.py --version vg1.0
#   bash scripts/eval/eval_vg1.0_densecap.sh weights/vg1.2_5e.pth [KEY=VALUE ...]
exec bash "$(dirname "$0")/evaluate.sh" configs/eval/vg/vg1.0_densecap.yaml "$@"
