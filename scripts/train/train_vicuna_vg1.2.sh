#!/usr/bin/env bash
# Trains on Visual Genome 1.2, with Vicuna-7B, as published.
#   .venv/bin/python scripts/convert/visual_genome.py --version vg1.2 --tags data/ram_tag_list.txt
#   bash scripts/train/train_vicuna_vg1.2.sh [KEY=VALUE ...]
exec bash "$(dirname "$0")/train.sh" configs/train/vg/vicuna_vg1.2_5e.yaml "$@"
