"""What a user can get wrong; each ends with one message and exit code 2."""

import copy
import json
import logging
import shutil

import numpy as np
import pytest
from PIL import Image

from dynrefer.runners.entry import evaluate_main, train_main
from tests.end_to_end.conftest import DATASET, QUICK, QUICK_TASKS, message_of
from tests.processes import run_script


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["run.max_epochs=3"], "--options: unknown key 'run.max_epochs'; did you mean 'max_epoch'"),
        (["model.arch=dynrefer_t4"], "no model is registered as 'dynrefer_t4'; did you mean"),
        ([f"{DATASET}.builder=refer"], "no dataset is registered as 'refer'; did you mean"),
        (["run.tasks=[captions]"], "no task is registered as 'captions'"),
        (["run.runner=epochs"], "no runner is registered as 'epochs'; did you mean 'epoch'"),
        (["run.lr_sched=cosine"], "no lr_schedule is registered as 'cosine'"),
        (
            ["datasets.shapes.vis_processor.train.name=dynreffer"],
            "no processor is registered as 'dynreffer'; did you mean 'dynrefer'",
        ),
        (
            ["run.view_selector.name=image_priors"],
            "no view_selector is registered as 'image_priors'; did you mean 'image_prior'",
        ),
        (
            ["run.train_view_selector.name=stochastics"],
            "no view_selector is registered as 'stochastics'; did you mean 'stochastic'",
        ),
        ([f"{DATASET}.annotations.train=[none.json]"], "no annotation file at none.json"),
        ([f"{DATASET}.annotations.val=[none.json]"], "no annotation file at none.json"),
        (["run.test_splits=[tests]"], "annotations.tests names no file; splits with files: ["),
        (["run.train_splits=[x]"], "no dataset has annotations for run.train_splits=['x']"),
        (["run.batch_size_train=1000"], "do not fill one global batch of 1000 x 1 processes"),
        (["run.load_ckpt_path=none.pth"], "run.load_ckpt_path: no checkpoint at none.pth"),
        (["run.load_ckpt_path=[none.pth]"], "run.load_ckpt_path: no checkpoint at none.pth"),
        (["run.resume_ckpt_path=none"], "run.resume_ckpt_path: no checkpoint at none"),
        (["model.pretrained=none.pth"], "model.pretrained: no checkpoint at none.pth"),
        (
            ["model.text_encoder.options.checkpoint=eva_clip_psz14.pt"],
            "this machine's disk; `python scripts/download_assets.py eva_clip_psz14` fetches it to",
        ),
        (["run.precision=fp12"], "run.precision: fp12; valid is bf16, fp32, fp16"),
        (["run.device=tpu"], "run.device: 'tpu'; valid: auto, cpu, cuda"),
        (["model.vocabulary.tags=none.txt"], "no file at none.txt"),
        (["model.vision.name=vit_tiny"], "timm cannot build 'vit_tiny'"),
    ],
)
def test_wrong_settings(run_file, refused, tmp_path, options, message):
    out = tmp_path / "output"
    assert message in refused(train_main, run_file, f"run.output_dir={out}", *QUICK, *options)
    assert not (out / "checkpoints").exists()


@pytest.mark.parametrize(
    "option",
    [
        f"{DATASET}.annotations.train=[none]",
        f"{DATASET}.annotations.val=[none]",
        f"{DATASET}.annotations.test=[none]",
        f"{DATASET}.instances.test=none",
        f"{DATASET}.image_root=none",
        "run.lr_sched=none",
        "model.text_encoder.name=none",
        "run.load_ckpt_path=none",
        "run.resume_ckpt_path=none",
        "model.pretrained=none",
        "model.vision.checkpoint=none",
        "run.runner=none",
    ],
)
def test_what_is_missing_shows_before_the_model_is_built(
    run_file, refused, tmp_path, monkeypatch, option
):
    """A language model of billions takes minutes to load, and an epoch hours."""
    monkeypatch.setattr("dynrefer.runners.entry.load_model", lambda *_: pytest.fail("built"))
    options = [f"run.output_dir={tmp_path}", "run.test_splits=[test]", option]
    assert "none" in refused(train_main, run_file, *options)


def test_configuration_files_that_are_not_there(refused, tmp_path):
    assert refused(train_main, tmp_path / "a.yaml").startswith("no configuration file at")
    message = refused(evaluate_main, None, checkpoint=tmp_path / "none")
    assert message == f"no checkpoint at {tmp_path}/none (there is no such folder)"
    assert refused(evaluate_main, None).startswith("give --cfg-path, or --checkpoint")


def test_an_output_folder_that_cannot_be_written(run_file, refused, tmp_path):
    (tmp_path / "file").write_text("")
    message = refused(train_main, run_file, f"run.output_dir={tmp_path}/file/output")
    assert message.startswith(f"run.output_dir '{tmp_path}/file/output' cannot be written")
    (tmp_path / "a.yaml").write_text("run: {device: cpu}")
    assert refused(train_main, tmp_path / "a.yaml").startswith("run.output_dir is not set")


@pytest.fixture
def changed(world, tmp_path):
    """Writes the world's training annotations anew, changed, and returns options that use them."""

    def write(change):
        content = json.loads((world / "train.json").read_text())
        content["dataset"]["image_root"] = str(world / "images" / "train")
        change(content)
        path = tmp_path / "changed.json"
        path.write_text(json.dumps(content))
        return [f"{DATASET}.annotations.train=[{path}]", f"run.output_dir={tmp_path}/output"]

    return write


def first(content):
    return content["annotations"][0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: first(c).update(segmentation=[], bbox=[5000, 5, 9, 9]), "box outside the image"),
        (lambda c: first(c).update(segmentation=[], bbox=[5, 5, 0, 9]), "box has no area"),
        (
            lambda c: first(c).update(segmentation=[], bbox=[5, float("nan"), 9, 9]),
            "box is not finite",
        ),
        (lambda c: first(c).update(caption=""), "empty caption"),
        (lambda c: first(c).update(image_id=-1), "unknown image id"),
        (lambda c: first(c).pop("id"), "missing key"),
    ],
)
def test_bad_records(run_file, refused, changed, change, message):
    told = refused(train_main, run_file, *changed(change))
    assert "changed.json: 1 bad records" in told and message in told
    assert "bad_records: skip" in told


def test_bad_records_and_images_can_be_left_out(run_file, here, changed, world, tmp_path, caplog):
    shutil.copytree(world / "images" / "train", tmp_path / "images")

    def change(content):
        first(content).update(caption="")
        content["dataset"]["image_root"] = "images"
        damaged = tmp_path / "images" / content["images"][1]["file_name"]
        damaged.write_bytes(damaged.read_bytes()[:3000])

    logger = logging.getLogger("dynrefer.datasets")  # the run takes the root's handlers
    logger.addHandler(caplog.handler)
    here(train_main, run_file, *changed(change), f"{DATASET}.bad_records=skip", *QUICK)
    logger.removeHandler(caplog.handler)
    assert (tmp_path / "output" / "checkpoints" / "last").is_dir()
    assert "1 bad records (1 x empty caption)" in caplog.text
    assert "1 of 12 images cannot be used: " in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"images": [',
            "changed.json: ends inside a value; is the file cut off? (at character 12)",
        ),
        ("[]", "changed.json: must be an object (at character 0)"),
    ],
)
def test_broken_annotations(run_file, refused, changed, tmp_path, text, message):
    options = changed(lambda content: None)
    (tmp_path / "changed.json").write_text(text)
    assert message in refused(train_main, run_file, *options)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_image(run_file, changed, tmp_path, workers):
    """Also from a worker process the message is the error's own, with file, image and regions."""
    path = tmp_path / "truncated.jpg"
    pixels = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    path.write_bytes(path.read_bytes()[:5000])

    def change(content):
        for image in content["images"]:
            image["file_name"] = str(path)

    options = [*changed(change), f"{DATASET}.image_root=/", f"run.num_workers={workers}"]
    result = run_script("train.py", "--cfg-path", run_file, "--options", *options)
    assert result.returncode == 2
    told = message_of(result.stderr)
    assert told.startswith(f"{tmp_path}/changed.json: image id ") and "region ids" in told
    assert "truncated.jpg cannot be decoded" in told and len(told.splitlines()) == 1


def test_the_traceback_on_request(run_file, here, tmp_path, monkeypatch):
    monkeypatch.setenv("DYNREFER_TRACEBACK", "1")
    with pytest.raises(KeyError, match="no model is registered"):
        here(train_main, run_file, f"run.output_dir={tmp_path}", "model.arch=x")


@pytest.mark.parametrize("key", ["load_ckpt_path", "resume_ckpt_path"])
def test_a_checkpoint_of_another_architecture(trained, run_file, refused, tmp_path, key):
    path = trained[0] / "checkpoints" / "last"
    options = [f"run.output_dir={tmp_path}", f"run.{key}={path}", *QUICK]
    told = refused(train_main, run_file, "model.qformer.hidden_size=64", *options)
    assert f"{path} belongs to another architecture" in told and "tensors differ in shape" in told
    told = refused(train_main, run_file, "model.vision.options.depth=2", *options)
    assert "belongs to another architecture; it lacks" in told


def test_evaluation_needs_a_checkpoint(run_file, refused, tmp_path):
    told = refused(evaluate_main, run_file, f"run.output_dir={tmp_path}")
    assert told.startswith("run.load_ckpt_path and model.pretrained are not set; evaluation needs")


@pytest.fixture
def result_file(trained, tmp_path):
    """A result file of the test split, as lines, and its path."""
    lines = (trained[0] / "results" / "shapes-test-best.jsonl").read_text().splitlines()
    path = tmp_path / "results.jsonl"

    def write(change):
        changed_lines = copy.copy(lines)
        change(changed_lines)
        path.write_text("\n".join(changed_lines))
        return path

    return write


def with_field(**fields):
    def change(lines):
        lines[0] = json.dumps({**json.loads(lines[0]), **fields})

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines.pop(0), "has no prediction"),
        (lambda lines: lines.append(lines[0]), "comes twice"),
        (lambda lines: lines.append('{"id": 3, '), "is not JSON"),
        (lambda lines: lines.append('{"caption": "a"}'), "must be an object with an 'id'"),
        (with_field(class_logits=None), "has no class_logits"),
        (with_field(class_logits=[1.0]), "'class_logits' must be 8 finite numbers"),
        (with_field(attributes=[2.0] * 24), "attribute"),
    ],
)
def test_result_files_that_cannot_be_scored(run_file, refused, result_file, change, message):
    path = result_file(change)
    told = refused(evaluate_main, run_file, QUICK_TASKS, res_path=path, split="test")
    assert message in told
    assert not path.with_suffix(".metrics.json").exists()


def test_result_files_and_splits(run_file, refused, tmp_path):
    told = refused(evaluate_main, run_file, res_path=tmp_path / "no.jsonl", split="test")
    assert told == f"no result file at {tmp_path}/no.jsonl"
    told = refused(
        evaluate_main, run_file, "run.valid_splits=[val,test]", res_path=tmp_path / "no.jsonl"
    )
    assert told == "--res-path scores one split; choose with --split from ['val', 'test']"
