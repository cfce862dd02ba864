import json
import random

import pytest
import torch
from safetensors.torch import save_file

from scripts import check_survival


@pytest.fixture
def run_of(tmp_path):
    """Makes the folder of a finished run."""

    def make(name, weight=1.0, seconds=1.0, moment=2.0, loss=3.0, accuracy=4.0):
        folder = tmp_path / name
        last = folder / "checkpoints" / "last"
        last.mkdir(parents=True)
        save_file({"a": torch.tensor([weight])}, last / "trainable.safetensors")
        state = {"config": {"name": name}, "moments": [{"a": torch.tensor(moment)}]}
        torch.save(state, last / "state.pt")
        record = {"epoch": 0, "total": loss, "regions_per_second": seconds}
        (folder / "log.jsonl").write_text(json.dumps(record) + "\n")
        metrics = {"metrics": {"accuracy": accuracy}, "date": name}
        (folder / "metrics-x.json").write_text(json.dumps(metrics))
        return folder

    return make


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"seconds": 9.0}, ""),
        ({"weight": 1.0 + 2**-23}, "weights differ"),
        ({"moment": 2.5}, "state differ"),
        ({"loss": 3.5}, "log.jsonl differs"),
        ({"accuracy": 4.5}, "metrics differ"),
    ],
)
def test_runs_are_compared_to_the_last_bit(run_of, change, what):
    assert check_survival.difference(run_of("whole"), run_of("other", **change)) == what


def test_every_damage_changes_the_file(tmp_path):
    path, content, seen = tmp_path / "a", bytes(range(100)), set()
    for seed in range(40):
        path.write_bytes(content)
        seen.add(check_survival.damage(path, random.Random(seed)))
        assert not path.is_file() or path.read_bytes() != content
    assert seen == {"cut", "emptied", "overwritten", "deleted"}


def test_what_does_not_survive_is_counted(tmp_path, capsys):
    check = object.__new__(check_survival.Check)
    check.tried = check.survived = 0
    check.count("three kills", "", 3)
    check.count("a signal", "weights differ")
    assert (check.survived, check.tried) == (3, 4)
    assert capsys.readouterr().out == "three kills: the same run\na signal: weights differ\n"
