#!/usr/bin/env bash
# Makes .venv and installs the project into it, with what the tests need.
# Does nothing where that is done and neither setup.py nor requirements.txt has changed since.
# PYTHON=python3.12 bash scripts/install.sh chooses the interpreter of a new .venv.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
stamp=.venv/dynrefer-installed
# A virtual environment holds the path it was made at, so the path counts too.
wanted="$PWD $(cat setup.py requirements.txt | cksum)"

fail() {
    echo "error: $1" >&2
    exit 1
}

if [[ -f $stamp && $(<"$stamp") == "$wanted" ]]; then
    echo "installed already in .venv"
    exit 0
fi

# Without pip it is the rest of an attempt that failed half-way.
if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    "$python" --version >/dev/null 2>&1 ||
        fail "no interpreter '$python'; set PYTHON to a Python of 3.10 or later"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        fail "'$python' is $("$python" --version 2>&1); DynRefer needs Python 3.10 or later, \
set PYTHON to one (PYTHON=python3.12 bash scripts/install.sh)"
    echo "making .venv with $("$python" --version)"
    "$python" -m venv --clear .venv
fi

echo "installing the libraries into .venv (minutes and several GB the first time)"
.venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
echo "$wanted" >"$stamp.part"
mv "$stamp.part" "$stamp"
echo "installed"
