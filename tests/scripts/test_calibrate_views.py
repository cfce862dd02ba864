import json
import logging

import numpy as np
import pytest
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import save_file

from dynrefer.checkpoints.loading import split_trainable
from dynrefer.config import load_config
from dynrefer.config.schema import SelectorConfig
from dynrefer.registry import registry
from dynrefer.runners.calibration import IMAGE_PRIOR, Point
from scripts.calibrate_views import (
    best,
    calibration_parser,
    charts,
    main,
    plot,
    selectors_yaml,
    table,
)
from tests.tiny_model import tiny_model, tiny_run

TASKS = "run.tasks=[attribute_detection,region_recognition]"


def point(value, *ratios, other=0.0):
    selector = SelectorConfig("task_prior", list(ratios)) if ratios else IMAGE_PRIOR
    return Point(selector, {"region_captioning": value, "region_recognition": other})


@pytest.fixture
def tasks():
    return [registry.get("task", name)() for name in ("region_captioning", "region_recognition")]


@pytest.fixture(scope="module")
def run_file(tmp_path_factory, world):
    return tiny_run(tmp_path_factory.mktemp("calibration"), world)


@pytest.fixture(scope="module")
def weights(tmp_path_factory, run_file):
    folder = tmp_path_factory.mktemp("weights") / "checkpoint"
    folder.mkdir()
    tensors, _ = split_trainable(tiny_model(load_config(run_file)))
    save_file(tensors, folder / "trainable.safetensors")
    return folder


@pytest.fixture(scope="module")
def calibrate(run_file, weights, tmp_path_factory):
    """Runs the script in this process, into one folder; returns that."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    out = tmp_path_factory.mktemp("views") / "out"

    def run(*arguments):
        given = ["--cfg-path", run_file, "--out", out, *arguments]
        options = ["--options", TASKS, f"run.load_ckpt_path={weights}"]
        main(calibration_parser().parse_args([str(one) for one in (*given, *options)]))
        return out

    yield run
    root.handlers[:] = handlers
    root.setLevel(level)


def test_the_files_of_a_calibration(calibrate, run_file, tmp_path, capsys):
    out = calibrate("--ratios", 0.2, 1, 0.5)
    printed = capsys.readouterr().out
    records = [json.loads(line) for line in (out / "points.jsonl").read_text().splitlines()]
    assert [record["selector"]["ratios"] for record in records] == [
        None, [0.2, 0.5], [0.2, 1.0], [0.5, 1.0],
    ]  # fmt: skip
    assert "shapes val, 5 images" in printed and "image prior" in printed
    config = tmp_path / "calibrated.yaml"
    config.write_text(f"base: [{run_file}, {out / 'view_selectors.yaml'}]")
    selectors = load_config(config).run.view_selectors
    for task in ("attribute_detection", "region_recognition"):
        top = max(record["scores"][task] for record in records)
        chosen = next(r["selector"] for r in records if r["scores"][task] == top)
        assert OmegaConf.to_container(selectors[task]) == chosen
        text = (out / "scores.md").read_text()
        assert f"**{top:.2f}**" in text and "| 0.2 0.5 |" in text
    with Image.open(out / "scores.png") as picture:
        assert picture.width > picture.height > 400 and np.asarray(picture).std() > 10


def test_a_second_call_measures_nothing_and_a_fresh_one_all(calibrate, capsys):
    """The fresh call is of fewer images; what cannot be written is said before it measures."""
    out = calibrate("--ratios", 0.5, 1)
    first = capsys.readouterr().out
    (out / "view_selectors.yaml").unlink()
    times = (out / "points.jsonl").stat().st_mtime_ns
    calibrate("--ratios", 0.5, 1)
    assert capsys.readouterr().out == first
    assert (out / "points.jsonl").stat().st_mtime_ns == times
    assert (out / "view_selectors.yaml").is_file()
    (out / "scores.png").unlink()
    (out / "scores.png").mkdir()
    with pytest.raises(OSError, match="scores.png is a folder"):
        calibrate("--ratios", 0.5, 1, "--fresh", "--max-images", 2)
    assert (out / "points.jsonl").stat().st_mtime_ns == times
    (out / "scores.png").rmdir()
    calibrate("--ratios", 0.5, 1, "--fresh", "--max-images", 2)
    assert len((out / "points.jsonl").read_text().splitlines()) == 2
    assert "shapes val, 2 images" in (out / "scores.md").read_text()
    assert "shapes val, 2 images" in capsys.readouterr().out


def test_the_best_point_is_the_first_of_equal_ones():
    points = [point(1.0), point(3.0, 0.1, 0.2), point(3.0, 0.1, 1.0), point(2.0, 0.5, 1.0)]
    assert best(points, "region_captioning") == [points[i] for i in (1, 2, 3, 0)]


def test_the_image_prior_stays_where_no_ratios_beat_it(tasks, tmp_path):
    points = [point(5.0, other=1.0), point(3.0, 0.1, 0.2, other=9.0)]
    text = selectors_yaml(points, tasks, "data")
    (tmp_path / "a.yaml").write_text(text)
    selectors = load_config(tmp_path / "a.yaml").run.view_selectors
    assert selectors.region_captioning == {"name": "image_prior", "ratios": None}
    assert selectors.region_recognition == {"name": "task_prior", "ratios": [0.1, 0.2]}
    assert "# accuracy 9.00; image prior 1.00" in text


def test_the_table_marks_the_best_of_each_task(tasks):
    text = table([point(5.0, other=1.0), point(3.0, 0.1, 0.2, other=9.0)], tasks)
    assert "| image prior | **5.00** | 1.00 |" in text and "| 0.1 0.2 | 3.00 | **9.00** |" in text
    assert "region_captioning, CIDEr | region_recognition, accuracy" in text


def test_the_chart_has_a_curve_a_view(tasks):
    points = [point(5.0), point(3.0, 0.1, 0.2), point(4.0, 0.1, 1.0), point(2.0, 0.2, 1.0)]
    axes = Figure().subplots()
    plot(axes, points, tasks[0])
    assert axes.get_title(loc="left") == "region_captioning: CIDEr"
    first, second, level = (line.get_xydata().tolist() for line in axes.lines)
    assert first == [[0.1, 4.0], [0.2, 2.0]] and second == [[0.2, 3.0], [1.0, 4.0]]
    assert [y for _, y in level] == [5.0, 5.0]
    dots = axes.collections[0].get_offsets().tolist()
    assert dots == [[0.1, 3.0], [0.1, 4.0], [0.2, 2.0]]
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names[1:] == ["view 2: best with this ratio", "image prior: 5"]


@pytest.mark.parametrize(("count", "shape"), [(1, (1, 1)), (2, (2, 1)), (3, (2, 2))])
def test_charts_stand_side_by_side(tasks, count, shape):
    picture = charts([point(1.0), point(2.0, 0.1, 0.2)], (tasks * 2)[:count])
    assert picture.size == (shape[0] * 792, shape[1] * 648)
