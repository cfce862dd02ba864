import json

import pytest
import torch

from dynrefer.config import load_config
from dynrefer.models.builders import build_model
from dynrefer.runners.epoch_runner import EpochRunner
from tests.tiny_model import tiny_run

FEW = "datasets.shapes.build_info.max_imgs=6"
LOSSES = ("total", "caption", "tag", "region_text")


@pytest.fixture(scope="session")
def run_file(tmp_path_factory, world):
    """Configuration file of a short run; its output folder is each test's own."""
    return tiny_run(tmp_path_factory.mktemp("run"), world)


@pytest.fixture
def make_config(run_file, tmp_path):
    def make(*options):
        return load_config(run_file, [f"run.output_dir={tmp_path}/output", *options])

    return make


@pytest.fixture
def make_runner(make_config, tmp_path):
    """A runner of the tiny model, seeded as train.py does it."""

    def make(*options, output="output"):
        config = make_config(*options)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.run.seed)
            model = build_model(config.model)
        torch.manual_seed(config.run.seed)
        folder = tmp_path / output
        folder.mkdir(exist_ok=True)
        return EpochRunner(config, model, folder)

    return make


@pytest.fixture
def read_log():
    """Records of a runner's log, as (training records by (epoch, step), others)."""

    def read(runner):
        lines = (runner.output_dir / "log.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        steps = {(r["epoch"], r["step"]): r for r in records if "step" in r}
        return steps, [r for r in records if "step" not in r]

    return read


def losses_of(records):
    """The losses of each training record, by (epoch, step)."""
    return {place: [record[name] for name in LOSSES] for place, record in records.items()}


def same_weights(one, other):
    """Whether the models of two runners hold the same numbers."""
    states = one.model.state_dict(), other.model.state_dict()
    return all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
