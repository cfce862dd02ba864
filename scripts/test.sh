#!/usr/bin/env bash
# Style, import layers and tests; stops at the first that fails. Arguments go to pytest:
#   bash scripts/test.sh -k views
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash scripts/install.sh
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/lint-imports
.venv/bin/python -m pytest --durations=10 "$@"
