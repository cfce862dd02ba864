#!/usr/bin/env bash
# Evaluates a checkpoint by a configuration of configs/eval/, one process a GPU:
#   bash scripts/eval/evaluate.sh CONFIG CHECKPOINT [KEY=VALUE ...]
# Paths are relative to the project's folder. PROCESSES sets the number of processes, PYTHON the
# interpreter.
set -euo pipefail
if [ $# -lt 2 ]; then
    echo "usage: $0 CONFIG CHECKPOINT [KEY=VALUE ...]" >&2
    exit 2
fi
config=$1 checkpoint=$2
shift 2
exec bash "$(dirname "$0")/../launch.sh" evaluate.py --cfg-path "$config" --checkpoint "$checkpoint" ${@:+--options "$@"}
