#!/usr/bin/env bash
# Class-mean accuracy on ImageNet-S.
#   .venv/bin/python scripts/convert/imagenet_s.py
#   bash scripts/eval/eval_imagenet_s.sh weights/vg1.2_5e.pth [KEY=VALUE ...]
exec bash "$(dirname "$0")/evaluate.sh" configs/eval/imagenet_s/imagenet_s.yaml "$@"
