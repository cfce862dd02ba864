#!/usr/bin/env bash
# Attribute detection on OVAD; published: mAP 29.2.
#   .venv/bin/python scripts/convert/ovad.py
#   bash scripts/eval/eval_ovad.sh weights/vg1.2_5e.pth [KEY=VALUE ...]
exec bash "$(dirname "$0")/evaluate.sh" configs/eval/ovad/ovad.yaml "$@"
