import json
import shutil

import pytest

from dynrefer.runners.entry import evaluate_main, train_main
from dynrefer.tasks.results import read_predictions
from tests.end_to_end.conftest import QUICK, QUICK_TASKS, log_records
from tests.processes import run_script

ALL_TASKS = "run.tasks=[region_captioning,dense_captioning,attribute_detection,region_recognition]"


def test_training(trained):
    out, result = trained
    for link in ("last", "best"):
        for name in ("trainable.safetensors", "state.pt", "config.yaml"):
            assert (out / "checkpoints" / link / name).is_file()
    assert len(log_records(out)) >= 10 and (out / "config.yaml").is_file()
    for split, label, images in (("val", "epoch1", 5), ("test", "best", 4)):
        metrics = json.loads((out / f"metrics-shapes-{split}-{label}.json").read_text())
        assert set(metrics["metrics"]) == {"attribute_detection", "region_recognition"}
        assert metrics["config"]["run"]["output_dir"] == str(out)
        assert metrics["evaluated"]["images"] == images
        assert metrics["evaluated"]["weights"] == f"{label} of {out}"
        table = (out / f"metrics-shapes-{split}-{label}.md").read_text()
        assert "**accuracy**" in table and "views | image_prior (attribute_detection" in table
        assert "base64" in (out / f"regions-shapes-{split}-{label}.html").read_text()
        predictions = read_predictions(out / "results" / f"shapes-{split}-{label}.jsonl")
        assert len({one["image_id"] for one in predictions.values()}) == images
    assert "accuracy" in result.stdout and "test" in result.stdout
    assert "Traceback" not in result.stderr and "Warning" not in result.stderr


def test_evaluating_a_checkpoint_with_every_task(trained, tmp_path):
    """All four benchmarks from the command line, the checkpoint's configuration as the default."""
    out, _ = trained
    result = run_script(
        "evaluate.py", "--checkpoint", out / "checkpoints" / "best", "--split", "test",
        "--options", f"run.output_dir={tmp_path}", ALL_TASKS,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    metrics = json.loads((tmp_path / "metrics-shapes-test-eval.json").read_text())["metrics"]
    assert set(metrics) == {
        "region_captioning",
        "dense_captioning",
        "attribute_detection",
        "region_recognition",
    }
    for name in ("CIDEr", "mAP", "mAP all", "accuracy", "METEOR"):
        assert name in result.stdout
    # The same checkpoint was evaluated at the end of training.
    earlier = json.loads((out / "metrics-shapes-test-best.json").read_text())["metrics"]
    for task, values in earlier.items():
        assert metrics[task] == pytest.approx(values)
    results = read_predictions(tmp_path / "results" / "shapes-test-eval.jsonl")
    assert all(one["caption"] is not None and "tags" in one for one in results.values())


def test_scoring_a_result_file_needs_no_model(
    trained, run_file, world, here, monkeypatch, tmp_path
):
    out, _ = trained
    monkeypatch.setattr("dynrefer.runners.entry.load_model", lambda *_: pytest.fail("built"))
    path = tmp_path / "a.jsonl"
    written = (out / "results" / "shapes-test-best.jsonl").read_text().splitlines(keepends=True)
    truth = json.loads((world / "test.json").read_text())["annotations"]
    assert [json.loads(line)["id"] for line in written] == [region["id"] for region in truth]
    path.write_text("".join(sorted(written, reverse=True)))  # any order is scored as that one
    printed = here(evaluate_main, run_file, QUICK_TASKS, res_path=path, split="test")
    scored = json.loads((tmp_path / "a.metrics.json").read_text())["metrics"]
    assert scored == json.loads((out / "metrics-shapes-test-best.json").read_text())["metrics"]
    assert "accuracy" in printed
    # The page is that of the evaluation, but for what was evaluated.
    pages = [out / "regions-shapes-test-best.html", tmp_path / "a.regions.html"]
    shown, again = (page.read_text().partition("<h2>")[2] for page in pages)
    assert shown == again and "base64" in shown
    assert f"| result file | {path} |" in (tmp_path / "a.metrics.md").read_text()


def test_train_py_evaluates_where_the_configuration_says_so(trained, run_file, here, tmp_path):
    out, _ = trained
    checkpoint = out / "checkpoints" / "last"
    options = ["run.evaluate=True", f"run.load_ckpt_path={checkpoint}", QUICK_TASKS]
    here(train_main, run_file, f"run.output_dir={tmp_path}", *options)
    metrics = json.loads((tmp_path / "metrics-shapes-val-eval.json").read_text())["metrics"]
    earlier = json.loads((out / "metrics-shapes-val-epoch1.json").read_text())["metrics"]
    assert metrics.keys() == earlier.keys()
    for task, values in earlier.items():
        assert metrics[task] == pytest.approx(values)
    assert not (tmp_path / "log.jsonl").exists()


def test_training_without_evaluation_still_ends_with_the_test(run_file, here, tmp_path):
    options = ["run.valid_splits=[]", "run.test_splits=[test]"]
    here(train_main, run_file, f"run.output_dir={tmp_path}", *QUICK, *options)
    assert (tmp_path / "metrics-shapes-test-last.json").is_file()


def test_a_folder_that_holds_a_run(trained, run_file, here, refused, tmp_path):
    """Refused as it is; gone on with, which finds all epochs done; or deleted."""
    out = tmp_path / "output"
    shutil.copytree(trained[0], out, symlinks=True)
    options = [f"run.output_dir={out}", "run.test_splits=[test]", QUICK_TASKS]

    def files():
        paths = [path for path in out.rglob("*") if path.is_file() and path.name != ".lock"]
        return {path: path.stat().st_mtime_ns for path in paths}

    before = files()
    told = refused(train_main, run_file, *options)
    assert "run.resume=auto" in told and "run.output_dir=DIR" in told and "overwrite=true" in told
    told = refused(train_main, run_file, *options, "run.resume=auto", "run.seed=3")
    assert "run.seed was 42, is 3" in told
    assert files() == before
    log = (out / "log.jsonl").read_text()
    (out / "metrics-shapes-test-best.json").unlink()
    here(train_main, run_file, *options, "run.resume=auto")
    assert (out / "log.jsonl").read_text() == log
    assert (out / "metrics-shapes-test-best.json").is_file()
    here(train_main, run_file, f"run.output_dir={out}", "run.overwrite=true", *QUICK)
    assert len(log_records(out)) < len(log.splitlines()) - 1
    assert not (out / "metrics-shapes-test-best.json").exists()
