#!/usr/bin/env bash
# Trains by a configuration of configs/train/, one process a GPU:
#   bash scripts/train/train.sh CONFIG [KEY=VALUE ...]
# Paths are relative to the project's folder. PROCESSES sets the number of processes, PYTHON the
# interpreter. The published batch is 8 processes with 64 regions each (docs/train_and_eval.md).
set -euo pipefail
if [ $# -lt 1 ]; then
    echo "usage: $0 CONFIG [KEY=VALUE ...]" >&2
    exit 2
fi
config=$1
shift
exec bash "$(dirname "$0")/../launch.sh" train.py --cfg-path "$config" ${@:+--options "$@"}
