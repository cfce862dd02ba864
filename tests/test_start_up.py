"""What a start imports: parsing arguments nothing heavy, a model without adapters no peft."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.py", "scripts/*.py", "scripts/convert/*.py")
    for path in ROOT.glob(pattern)
    if path.name != "setup.py"
)

# One process for all of them: what one imports would be found with the next, too.
CHECK = """
import importlib, os, runpy, sys, tempfile, warnings
from dynrefer import command_line

def forbid(name, *heavy):
    print(name, *(module for module in heavy if module in sys.modules), file=sys.stderr)

for path in sys.argv[1:]:
    sys.argv = [path, "--help"]
    try:
        runpy.run_path(path, run_name="__main__")
    except SystemExit as stop:
        assert stop.code == 0
    forbid(path, "torch", "transformers", "peft")
importlib.import_module("dynrefer.predictor")
forbid("dynrefer.predictor", "timm", "torchvision", "transformers", "peft", "matplotlib")
importlib.import_module("dynrefer.runners.entry")
forbid("dynrefer.runners.entry", "peft", "matplotlib")

def main(home):
    warnings.warn("an argument of a library's has a new name", FutureWarning)
    assert os.path.expanduser("~") == home

command_line.plain_parser(None)
command_line.entry_point(main, os.environ["HOME"])
del os.environ["HOME"]
os.path.expanduser = lambda path: path.replace("~", os.environ.get("HOME", "~"))
command_line.plain_parser(None)
command_line.entry_point(main, f"{tempfile.gettempdir()}/dynrefer-{os.getuid()}")
"""


def test_imports_of_every_command():
    started = subprocess.run(
        [sys.executable, "-c", CHECK, *COMMANDS], cwd=ROOT, capture_output=True, text=True
    )
    modules = ["dynrefer.predictor", "dynrefer.runners.entry"]
    assert started.stderr.splitlines() == [*COMMANDS, *modules]
    assert started.stdout.count("usage: ") == len(COMMANDS) > 20
