#!/usr/bin/env bash
# Region captioning on RefCOCOg; published: METEOR 18.1, CIDEr 115.3.
#   .venv/bin/python scripts/convert/refcocog.py
#   bash scripts/eval/eval_refcocog_reg.sh weights/refcocog_ft.pth [KEY=VALUE ...]
exec bash "$(dirname "$0")/evaluate.sh" configs/eval/refcoco/refcocog_reg.yaml "$@"
