#!/usr/bin/env bash
# Runs train.py or evaluate.py in the project's folder, one process a GPU:
#   bash scripts/launch.sh SCRIPT [ARGUMENT ...]
# PROCESSES sets the number of processes, PYTHON the interpreter (.venv's where it is there).
set -euo pipefail
cd "$(dirname "$0")/.."
processes=${PROCESSES:-$( (nvidia-smi -L 2>/dev/null || echo "the CPU") | wc -l)}
python=.venv/bin/python
[ -x "$python" ] || python=python
launch=("${PYTHON:-$python}")
if [ "$processes" -gt 1 ]; then
    launch+=(-m torch.distributed.run --standalone --nproc_per_node="$processes")
fi
exec "${launch[@]}" "$@"
