"""Running train.py and evaluate.py: in a process of its own, or in this one."""

import argparse
import json
import logging
import subprocess
import sys

import pytest

from dynrefer.command_line import entry_point
from tests.processes import ROOT, run_command
from tests.tiny_model import tiny_run

DATASET = "datasets.shapes.build_info"
QUICK_TASKS = "run.tasks=[attribute_detection,region_recognition]"
QUICK = (f"{DATASET}.max_imgs=2", QUICK_TASKS)


@pytest.fixture(scope="session")
def run_file(once, world):
    """Configuration file of a short run of the tiny model; its output folder is the test's."""
    return once("run", lambda folder: tiny_run(folder, world)) / "run.yaml"


@pytest.fixture(scope="session")
def trained(once, run_file):
    """Output folder of a training run by train.py, and what it printed."""

    def train(folder):
        options = [f"run.output_dir={folder}/output", "run.test_splits=[test]", QUICK_TASKS]
        result = run_command(
            sys.executable, ROOT / "train.py", "--cfg-path", run_file, "--options", *options
        )
        assert result.returncode == 0, result.stderr
        (folder / "printed.json").write_text(json.dumps([result.stdout, result.stderr]))

    folder = once("trained", train)
    stdout, stderr = json.loads((folder / "printed.json").read_text())
    return folder / "output", subprocess.CompletedProcess(["train.py"], 0, stdout, stderr)


def arguments_of(config, *options, **others):
    """What the command line of train.py and evaluate.py gives their main functions."""
    defaults = {"checkpoint": None, "res_path": None, "split": None}
    return argparse.Namespace(cfg_path=config, options=list(options), **{**defaults, **others})


@pytest.fixture
def here(capsys):
    """Runs a main function in this process; returns what it printed."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def run(main, *arguments, **others):
        entry_point(main, arguments_of(*arguments, **others))
        return capsys.readouterr().out

    yield run
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def refused(here, capsys):
    """Runs a main function that must end with one message; returns the message."""

    def run(main, *arguments, **others):
        with pytest.raises(SystemExit) as stop:
            here(main, *arguments, **others)
        assert stop.value.code == 2
        return message_of(capsys.readouterr().err)

    return run


def message_of(errors):
    """The message after "error: "; there is one, it comes last, and no traceback anywhere."""
    assert errors.count("error: ") == 1 and "Traceback" not in errors, errors
    return errors.partition("error: ")[2].strip()


def log_records(folder):
    """Records of a run's training steps."""
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [record for record in records if "step" in record]
