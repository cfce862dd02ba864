#!/usr/bin/env bash
# Fine-tunes a model that was trained on Visual Genome on RefCOCOg, as published.
#   .venv/bin/python scripts/convert/refcocog.py --tags data/ram_tag_list.txt
#   bash scripts/train/finetune_refcocog.sh CHECKPOINT [KEY=VALUE ...]
set -euo pipefail
if [ $# -lt 1 ]; then
    echo "usage: $0 CHECKPOINT [KEY=VALUE ...]" >&2
    exit 2
fi
checkpoint=$1
shift
exec bash "$(dirname "$0")/train.sh" configs/train/refcoco/refcocog_ft.yaml \
    run.load_ckpt_path="$checkpoint" "$@"
