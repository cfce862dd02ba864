import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from dynrefer.config import load_config
from dynrefer.datasets.shapes import make_shapes
from dynrefer.metrics.java import Meteor
from scripts import compare_results
from tests.metrics.loops import WordOverlap


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration with a small shapes world and all its tasks."""
    folder = tmp_path_factory.mktemp("world")
    world = folder / "shapes"
    make_shapes(world, 8, 1, 5, seed=3, progress=False)
    path = folder / "run.yaml"
    path.write_text(
        f"""
model:
  vocabulary:
    tags: {world}/tags.txt
    attributes: {world}/attributes.json
    classes: {world}/classes.json
datasets:
  shapes:
    build_info:
      annotations: {{train: [{world}/train.json], test: [{world}/test.json]}}
run:
  output_dir: {folder}/output
  tasks:
    - region_captioning
    - caption_words
    - dense_captioning
    - attribute_detection
    - region_recognition
"""
    )
    return path


def annotations(config_file: Path, split: str) -> list[dict]:
    return json.loads((config_file.parent / f"shapes/{split}.json").read_text())["annotations"]


def metrics_file(folder: Path, value: float) -> Path:
    metrics: dict = {}
    for task, metric, _ in compare_results.ROWS:
        metrics.setdefault(task, {})[metric] = value
    path = folder / "metrics.json"
    path.write_text(json.dumps({"metrics": metrics}))
    return path


def test_table_of_chance_and_a_run(
    config_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Meteor, "__enter__", lambda _: WordOverlap())
    monkeypatch.setattr("dynrefer.metrics.captions.ptb_tokenize", list)
    out = tmp_path / "folder" / "results.md"
    arguments = ["--metrics", f"ours={metrics_file(tmp_path, 87.65)}", "--out", str(out)]
    compare_results.main(
        compare_results.comparison_parser().parse_args(["--truth", str(config_file), *arguments])
    )
    text = out.read_text()
    assert text in capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert rows[0] == ["", "chance", "ours"]
    assert [row[0] for row in rows[2:]] == [label for _, _, label in compare_results.ROWS]
    assert all(row[2] == "87.7" for row in rows[2:])
    chance = {row[0]: float(row[1]) for row in rows[2:]}

    train, test = annotations(config_file, "train"), annotations(config_file, "test")
    categories = [a["extra_info"]["coco_result"]["category"] for a in train]
    most_frequent = max(dict.fromkeys(categories), key=categories.count)
    right = [a["extra_info"]["coco_result"]["category"] == most_frequent for a in test]
    assert chance["recognition, accuracy"] == pytest.approx(100 * np.mean(right), abs=0.051)

    labels = np.array([a["extra_info"]["ovad_result"]["att_vec"] for a in test])
    shares = [(c == 1).sum() / (c >= 0).sum() for c in labels.T if (c == 1).any()]
    assert chance["attributes, mAP all"] == pytest.approx(100 * np.mean(shares), abs=0.051)


def test_captions_of_chance_are_training_captions(config_file: Path) -> None:
    config = load_config(config_file)
    vocabularies = compare_results.load_vocabularies(config.model)
    truth = compare_results.ground_truth(config, "test", vocabularies)
    training = compare_results.ground_truth(config, "train", vocabularies)
    first, again, other = (
        compare_results.chance_predictions([training], truth, seed) for seed in (0, 0, 1)
    )
    assert first == again != other
    assert {p["caption"] for p in first.values()} <= {
        region.caption for region in training.regions()
    }
    assert set(first) == {a["id"] for a in annotations(config_file, "test")}


@pytest.mark.parametrize(
    ("pair", "message"),
    [("ours", "is not of the form NAME=FILE"), ("ours=nowhere.json", "no metrics at nowhere.json")],
)
def test_bad_metrics_argument(config_file: Path, pair: str, message: str) -> None:
    arguments = argparse.Namespace(
        metrics=[pair], truth=config_file, split="test", seed=0, out=None
    )
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        compare_results.main(arguments)


def test_what_cannot_be_written_is_said_before_the_work(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare_results, "chance", lambda *_: pytest.fail("chance was scored"))
    arguments = argparse.Namespace(
        metrics=[], truth=config_file, split="test", seed=0, out=tmp_path
    )
    with pytest.raises(OSError, match=f"{tmp_path} is a folder"):
        compare_results.main(arguments)


@pytest.mark.parametrize("value", [None, float("nan"), "1.0", [1.0]])
def test_metrics_without_a_row(tmp_path: Path, value: object) -> None:
    path = metrics_file(tmp_path, 1.0)
    content = json.loads(path.read_text())
    content["metrics"]["region_captioning"]["CIDEr"] = value
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="json has no region_captioning CIDEr"):
        compare_results.read_metrics(path)


@pytest.mark.parametrize("text", ["[]", '{"metrics": 3}', "{}", "{"])
def test_files_that_are_no_metrics(tmp_path: Path, text: str) -> None:
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(ValueError, match="m.json(: broken JSON| has no region_recognition accur)"):
        compare_results.read_metrics(tmp_path / "m.json")
