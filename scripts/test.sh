#!/usr/bin/env bash
# Style, import layers and tests; stops at the first that fails. Arguments go to pytest:
#   bash scripts/test.sh -k views
# Tests run in as many processes as there are cores; `-n 0` runs them in one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash scripts/install.sh
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/lint-imports
OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n auto --dist worksteal --durations=10 "$@"
