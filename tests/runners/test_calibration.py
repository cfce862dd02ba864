import json
import logging

import pytest

from dynrefer.config import ConfigError, load_config
from dynrefer.config.schema import SelectorConfig
from dynrefer.runners import calibration
from dynrefer.runners.calibration import (
    IMAGE_PRIOR,
    Point,
    fingerprint,
    grid,
    measure_all,
    name_of,
    read_points,
    write_point,
)
from dynrefer.runners.evaluation import evaluate, tasks_of
from tests.tiny_model import tiny_model

TASKS = "run.tasks=[attribute_detection,region_recognition]"


@pytest.fixture(scope="module")
def model(run_file):
    return tiny_model(load_config(run_file))


def prior(*ratios):
    return SelectorConfig("task_prior", list(ratios))


def test_the_grid_is_the_image_prior_and_every_ascending_choice():
    assert grid(3, [1.0, 0.2, 0.5]) == [
        IMAGE_PRIOR, prior(0.2, 0.5), prior(0.2, 1.0), prior(0.5, 1.0),
    ]  # fmt: skip
    assert grid(2, [0.0, 1.0]) == [IMAGE_PRIOR, prior(0.0), prior(1.0)]
    assert len(grid(3, [n / 10 for n in range(1, 11)])) == 46


@pytest.mark.parametrize(
    ("views", "ratios", "match"),
    [
        (1, [0.5], "model.num_views is 1: the region alone"),
        (3, [0.5], r"--ratios \[0.5\]: model.num_views is 3, so 2 ratios or more are needed"),
        (3, [0.5, 0.5, 1.0], "valid are different numbers from 0 to 1"),
        (3, [0.5, 1.5], "valid are different numbers from 0 to 1"),
        (3, [-0.1, 0.5], "valid are different numbers from 0 to 1"),
        (3, [float("nan"), 0.5], "valid are different numbers from 0 to 1"),
    ],
)
def test_ratios_that_make_no_grid(views, ratios, match):
    with pytest.raises(ConfigError, match=match):
        grid(views, ratios)


def test_names_of_selectors():
    assert name_of(IMAGE_PRIOR) == "image prior"
    assert name_of(prior(0.1, 1.0)) == "0.1 1"


def test_points_are_kept_by_fingerprint(tmp_path, caplog):
    path = tmp_path / "points.jsonl"
    assert read_points(path, "a") == []
    first, second = Point(IMAGE_PRIOR, {"t": 1.5}), Point(prior(0.1, 0.5), {"t": 2.5})
    write_point(path, "a", first)
    write_point(path, "b", second)
    with path.open("a") as lines:
        lines.write('{"fingerprint": "a", "sele')  # the process ended here
    write_point(path, "a", second)
    with caplog.at_level(logging.INFO):
        assert read_points(path, "a") == [first, second]
    assert "2 points measured already, 1 of other settings" in caplog.text
    assert "1 broken lines" in caplog.text and "--fresh" in caplog.text


@pytest.mark.parametrize(
    ("option", "same"),
    [
        ("run.log_freq=7", True),
        ("run.batch_size_eval=1", True),
        ("run.output_dir=/elsewhere", True),
        ("run.view_selector={name: task_prior, ratios: [0.2, 0.3]}", True),
        ("model.tag_threshold=0.1", False),
        ("datasets.shapes.build_info.max_imgs=2", False),
        ("run.tasks=[attribute_detection]", False),
        ("run.precision=bf16", False),
    ],
)
def test_what_a_fingerprint_depends_on(make_config, option, same):
    def of(config, split="val", device="cpu"):
        return fingerprint(config, split, tasks_of(config), device)

    config = make_config()
    assert (of(make_config(option)) == of(config)) is same
    assert of(config, "test") != of(config) != of(config, device="cuda")


def test_a_fingerprint_depends_on_weights_and_annotations(make_config, tmp_path):
    folder, annotations = tmp_path / "step-1", tmp_path / "val.json"
    folder.mkdir()
    (tmp_path / "last").symlink_to(folder)
    for path in (folder / "trainable.safetensors", annotations):
        path.write_text("first")
    config = make_config(
        f"run.load_ckpt_path={tmp_path / 'last'}",
        f"datasets.shapes.build_info.annotations.val=[{annotations}]",
    )

    def key():
        return fingerprint(config, "val", tasks_of(config), "cpu")

    keys = [key(), key()]
    assert keys[0] == keys[1]
    (folder / "trainable.safetensors").write_text("other")
    keys.append(key())
    annotations.write_text("another one")
    keys.append(key())
    folder.rename(tmp_path / "step-2")
    (tmp_path / "last").unlink()
    (tmp_path / "last").symlink_to(tmp_path / "step-2")
    keys.append(key())
    assert len(set(keys)) == 4


def test_points_have_the_scores_of_an_evaluation(make_config, model, tmp_path, caplog):
    selectors = grid(3, [0.0, 0.4])
    with caplog.at_level(logging.INFO):
        points = measure_all(make_config(TASKS), model, "val", selectors, tmp_path / "p.jsonl")
    assert [point.selector for point in points] == selectors
    for point in points:
        views = f"{{name: {point.selector.name}, ratios: {point.selector.ratios or 'null'}}}"
        same = make_config(TASKS, f"run.view_selector={views}", "run.report_regions=0")
        metrics = evaluate(same, model, "val", tmp_path, "x")
        assert point.scores == {
            "attribute_detection": metrics["attribute_detection"]["mAP all"],
            "region_recognition": metrics["region_recognition"]["accuracy"],
        }
    assert points[0].scores["attribute_detection"] != points[1].scores["attribute_detection"]
    assert "image prior: attribute_detection" in caplog.text and "(1 of 2, " in caplog.text
    assert "0 0.4: attribute_detection" in caplog.text and "(2 of 2, 0.0 min left)" in caplog.text


def test_it_goes_on_where_it_stopped(make_config, model, tmp_path, monkeypatch):
    config, path = make_config(TASKS), tmp_path / "points.jsonl"
    selectors, measured = grid(3, [0.2, 0.4, 1.0]), []

    def measure(config, model, split, selector, truth):
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append(selector)
        return Point(selector, {"t": float(len(name_of(selector)))})

    monkeypatch.setattr(calibration, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        measure_all(config, model, "val", selectors, path)
    assert measured == selectors[:2] and len(path.read_text().splitlines()) == 2
    measured.clear()
    resumed = measure_all(config, model, "val", selectors, path)
    assert measured == selectors[2:]
    assert [point.scores["t"] for point in resumed] == [11.0, 7.0, 5.0, 5.0]
    measured.clear()
    assert measure_all(config, model, "val", selectors, path) == resumed
    assert measure_all(config, model, "val", selectors[::-1], path) == resumed[::-1]
    assert not measured


def test_a_task_without_its_headline_metric(make_config, model, tmp_path, monkeypatch):
    config = make_config("datasets.shapes.build_info.max_imgs=2")
    (task,) = tasks_of(config)
    monkeypatch.setattr(type(task), "headline", "box AP")
    with pytest.raises(ValueError, match=r"region_recognition has no 'box AP' .*\(only accuracy\)"):
        measure_all(config, model, "val", [IMAGE_PRIOR], tmp_path / "points.jsonl")
    assert not (tmp_path / "points.jsonl").exists()


def test_points_are_json_lines(tmp_path):
    write_point(tmp_path / "p", "key", Point(prior(0.1), {"t": 1.0}))
    assert json.loads((tmp_path / "p").read_text()) == {
        "fingerprint": "key",
        "selector": {"name": "task_prior", "ratios": [0.1]},
        "scores": {"t": 1.0},
    }
