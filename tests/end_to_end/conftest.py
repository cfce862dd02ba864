"""Running train.py and evaluate.py: in processes of their own, under torchrun, or in this one."""

import argparse
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dynrefer.command_line import entry_point
from tests.tiny_model import tiny_run

ROOT = Path(__file__).resolve().parents[2]
DATASET = "datasets.shapes.build_info"
QUICK_TASKS = "run.tasks=[attribute_detection,region_recognition]"
QUICK = (f"{DATASET}.max_imgs=2", QUICK_TASKS)
LIMIT = 120  # seconds; far more than any command here takes


@pytest.fixture(scope="session")
def run_file(tmp_path_factory, world):
    """Configuration file of a short run of the tiny model; its output folder is the test's."""
    return tiny_run(tmp_path_factory.mktemp("end_to_end"), world)


@pytest.fixture(scope="session")
def trained(tmp_path_factory, run_file):
    """Output folder of a training run by train.py."""
    out = tmp_path_factory.mktemp("trained") / "output"
    options = [f"run.output_dir={out}", "run.test_splits=[test]", QUICK_TASKS]
    result = run_script("train.py", "--cfg-path", run_file, "--options", *options)
    assert result.returncode == 0, result.stderr
    return out, result


def run_command(*command, **environment):
    """A finished command: ``returncode``, ``stdout``, ``stderr``."""
    return subprocess.run(
        [str(part) for part in command],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )


def run_script(name, *arguments, **environment):
    """Runs a script of the project in a process of its own."""
    return run_command(sys.executable, ROOT / name, *arguments, **environment)


def run_torchrun(*arguments, processes=2):
    """Runs a script of the project (or -m module) in several processes on the CPU."""
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone")
    return run_command(*torchrun, f"--nproc_per_node={processes}", *arguments)


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
