#!/usr/bin/env bash
# Region captioning on Visual Genome; published: METEOR 21.2, CIDEr 190.5.
#   .venv/bin/python scripts/convert/visual_genome.py --version vg_reg --regions data/vg/test_caption.json
#   bash scripts/eval/eval_vg_reg.sh weights/vg1.2_5e.pth [KEY=VALUE ...]
exec bash "$(dirname "$0")/evaluate.sh" configs/eval/vg/vg_reg.yaml "$@"
