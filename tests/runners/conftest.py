import json

import pytest
import torch
from safetensors.torch import load_file

from dynrefer.config import load_config
from dynrefer.models.builders import build_model
from dynrefer.runners.epoch_runner import EpochRunner, training_data
from tests.tiny_model import tiny_run

FEW = "datasets.shapes.build_info.max_imgs=6"
TWO = "datasets.shapes.build_info.max_imgs=2"
NO_PAGE = "run.report_regions=0"
WHOLE = (FEW, "run.max_epoch=2", "run.warmup_lr=0", "run.warmup_steps=3")
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


def new_runner(run_file, folder, *options):
    """A runner of the tiny model, seeded as train.py does it."""
    folder.mkdir(parents=True, exist_ok=True)
    config = load_config(run_file, [f"run.output_dir={folder}", NO_PAGE, *options])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        model = build_model(config.model)
    torch.manual_seed(config.run.seed)
    data = training_data(config, model.vocabularies.tags)
    return EpochRunner(config, model, folder, data)


@pytest.fixture
def make_runner(run_file, tmp_path):
    """A runner of the tiny model in a folder of the test's own."""

    def make(*options, output="output"):
        return new_runner(run_file, tmp_path / output, *options)

    return make


@pytest.fixture(scope="session")
def whole(run_file, tmp_path_factory):
    """Folder of a run with ``WHOLE`` that nothing interrupted; only to be read."""
    folder = tmp_path_factory.mktemp("whole") / "output"
    new_runner(run_file, folder, *WHOLE).train()
    return folder


def read_log(folder):
    """Records of a run's log, as (training records by (epoch, step), others)."""
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    steps = [record for record in records if "step" in record]
    places = [(record["epoch"], record["step"]) for record in steps]
    assert len(places) == len({*places})
    return dict(zip(places, steps, strict=True)), [r for r in records if "step" not in r]


def losses_of(folder):
    """The losses of each training record of a run, by (epoch, step)."""
    return {place: [r[name] for name in LOSSES] for place, r in read_log(folder)[0].items()}


def tensors_of(folder, link="last"):
    """All numbers of a checkpoint of a run by name: weights, moments, generators."""
    checkpoint = folder / "checkpoints" / link
    state = torch.load(checkpoint / "state.pt", weights_only=True)
    moments = state["updates"]["optimizer"]["state"]
    return {
        **load_file(checkpoint / "trainable.safetensors"),
        **{f"{i} {name}": moments[i][name] for i in moments for name in moments[i]},
        **{f"generator {i}": one["cpu"] for i, one in enumerate(state["generators"])},
    }


def is_same_run(one, other):
    """Whether two runs ended with the same numbers on the same way."""
    tensors = [tensors_of(folder) for folder in (one, other)]
    same = all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
    logs = losses_of(one) == losses_of(other) and read_log(one)[1] == read_log(other)[1]
    return tensors[0].keys() == tensors[1].keys() and same and logs


def same_weights(one, other):
    """Whether the models of two runners hold the same numbers."""
    states = one.model.state_dict(), other.model.state_dict()
    return all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def stop_before_step(runner, number):
    """Lets a runner end as if its process were killed before its update ``number``."""
    take_step, taken = runner._step, []

    def step(batch, *arguments):
        if len(taken) == number:
            raise KeyboardInterrupt
        taken.append(batch)
        return take_step(batch, *arguments)

    runner._step = step
    with pytest.raises(KeyboardInterrupt):
        runner.train()
