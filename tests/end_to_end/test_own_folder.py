"""A folder of save_pretrained in the place of a run's checkpoint."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dynrefer.command_line import entry_point
from dynrefer.commands import demo, parsers
from dynrefer.models.dynrefer import DynRefer
from dynrefer.runners.entry import evaluate_main, train_main
from tests.end_to_end.conftest import QUICK


@pytest.fixture(scope="module")
def own(trained, tmp_path_factory):
    """The trained model as a folder of its own."""
    model = DynRefer.from_pretrained(trained[0] / "checkpoints" / "best")
    return model.save_pretrained(tmp_path_factory.mktemp("own") / "model")


@pytest.fixture
def run_with(own, run_file, tmp_path):
    """Configuration file of the run with the folder's model."""
    path = tmp_path / "own.yaml"
    path.write_text(f"base: [{run_file}, {own}/config.yaml]\nrun: {{output_dir: {tmp_path}/out}}\n")
    return path


def predictions(folder: Path) -> list[dict]:
    (file,) = folder.glob("results/*.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_evaluation(trained, own, run_file, run_with, here, tmp_path):
    """As a base of a configuration, or as a checkpoint for one."""
    best = trained[0] / "checkpoints" / "best"
    here(evaluate_main, None, f"run.output_dir={tmp_path}/a", *QUICK, checkpoint=best)
    here(evaluate_main, run_with, *QUICK)
    here(evaluate_main, run_file, f"run.output_dir={tmp_path}/b", *QUICK, checkpoint=own)
    expected = predictions(tmp_path / "a")
    assert expected and predictions(tmp_path / "out") == predictions(tmp_path / "b") == expected


def test_evaluation_needs_data(own, refused):
    told = refused(evaluate_main, None, checkpoint=own)
    assert told.startswith("run.output_dir is not set")
    told = refused(evaluate_main, None, "run.output_dir=x", checkpoint=own)
    assert told.startswith("no dataset is configured")


def test_training_goes_on_from_it(own, run_with, here, tmp_path):
    before = DynRefer.from_pretrained(own)
    here(
        train_main,
        run_with,
        "run.init_lr=1e-30",
        "run.weight_decay=0",
        "run.valid_splits=[]",
        *QUICK,
    )
    after = DynRefer.from_pretrained(tmp_path / "out" / "checkpoints" / "last")
    name = "fusion.mlp.0.weight"
    assert after.state_dict()[name].equal(before.state_dict()[name])


def test_demo(trained, own, capsys, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    told = []
    for folder in (own, trained[0] / "checkpoints" / "best"):
        arguments = ["--image", f"{tmp_path}/image.png", "--box", "1", "2", "20", "30", "--json"]
        arguments += ["--checkpoint", str(folder), "--device", "cpu"]
        entry_point(demo.main, parsers.demo().parse_args(arguments))
        told.append(json.loads(capsys.readouterr().out)[0])
    assert told[0]["tags"] == told[1]["tags"] and told[0]["attributes"] == told[1]["attributes"]
