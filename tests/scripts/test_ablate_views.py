"""scripts/ablate_views.py: what it runs, what it finds again, and its table."""

import json
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from dynrefer.config import load_config
from scripts import ablate_views

CONFIG = Path(__file__).resolve().parents[2] / "configs/train/shapes.yaml"


def option(command: list[str], key: str) -> str | None:
    return next((word.partition("=")[2] for word in command if word.startswith(f"{key}=")), None)


@pytest.fixture
def commands(monkeypatch):
    """Commands that would have run; each leaves what the real one leaves."""
    seen = []

    def run(command):
        seen.append(command)
        number = float(option(command, "run.seed") or 7)
        if "--out" in command:
            folder, name = Path(command[command.index("--out") + 1]), "trainable.safetensors"
        else:
            kind = "last" if "train.py" in command else "eval"
            folder = Path(option(command, "run.output_dir"))
            name = f"metrics-shapes-test-{kind}.json"
        folder.mkdir(parents=True)
        metrics = {"region_recognition": {"accuracy": 80 + number}}
        (folder / name).write_text(json.dumps({"metrics": metrics}))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    return seen


def parsed(out: Path, *more: str):
    given = ["--out", str(out), "--cfg-path", str(CONFIG), "--seeds", "0", "1", *more]
    return ablate_views.ablation_parser().parse_args(given)


def test_a_second_call_repeats_nothing(tmp_path, commands, capsys):
    only = ["--only", "view 0 alone", "stochastic views"]
    ablate_views.main(parsed(tmp_path / "all", *only))
    scripts = [next(word for word in command if word.endswith(".py")) for command in commands]
    seed = ["scripts/pretrain_encoder.py", "train.py", "train.py", *["evaluate.py"] * 3]
    assert scripts == seed * 2
    table = (tmp_path / "all" / "table.md").read_text()
    assert table in capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    values = {row[0]: row[1] for row in rows[2:]}
    assert values["view 0 alone"] == "80.5 ± 0.5"  # seeds 0 and 1
    assert values["– the same, image prior"] == "87.0 ± 0.0"
    assert values["a wide view alone"] == "–"
    with Image.open(tmp_path / "all" / "plot.png") as picture:
        assert picture.width > picture.height
    done = len(commands)
    ablate_views.main(parsed(tmp_path / "all", *only))
    assert len(commands) == done
    unfinished = next((tmp_path / "all" / "seed1" / "view_0_alone").glob("metrics*"))
    unfinished.unlink()
    unfinished.parent.rename(tmp_path / "stopped")
    ablate_views.main(parsed(tmp_path / "all", *only))
    assert len(commands) == done + 1


def test_every_training_is_a_valid_configuration(tmp_path, commands):
    """Each from the seed's encoder, with its own views for every task."""
    ablate_views.main(parsed(tmp_path, "--seeds", "3"))
    for command in commands[1:]:
        config = load_config(CONFIG, command[command.index("--options") + 1 :])
        selector = config.run.view_selector
        assert config.run.view_selectors.region_recognition == selector
        assert config.model.pretrained == str(tmp_path / "seed3" / "encoder")
        if "train.py" in command:
            assert config.run.seed == 3 and config.run.max_epoch == 1
            assert config.run.batch_size_train * 2 == 16
    folders = [option(command, "run.output_dir") for command in commands[1:]]
    assert len(set(folders)) == len(folders) == 12


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--only", "everything"], "--only everything: valid are view 0 alone, a wide"),
        (["--processes", "3"], "--processes 3: must divide the batch of 16"),
        (["--table-only"], "holds no finished run of seeds"),
    ],
)
def test_what_cannot_be_done_is_said(tmp_path, commands, more, message):
    with pytest.raises(ValueError, match=message):
        ablate_views.main(parsed(tmp_path, *more))
    assert not commands


def test_a_training_that_fails_ends_it_in_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda command: subprocess.CompletedProcess(command, 3))
    with pytest.raises(ChildProcessError, match="pretrain_encoder.py ended with 3, its own"):
        ablate_views.main(parsed(tmp_path))
