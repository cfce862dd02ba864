"""The configurations and scripts of this repository: names, published settings, what they name."""

import importlib.util
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from dynrefer.config import load_config
from dynrefer.runners.evaluation import evaluated_dataset, tasks_of
from dynrefer.tasks.published import published_numbers
from tests.config.test_release import RELEASE_RUN

ROOT = Path(__file__).resolve().parents[1]
PYTHON = ".venv/bin/python"
CONFIGS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*.yaml"))
SCRIPTS = sorted(
    str(path.relative_to(ROOT))
    for folder in ("eval", "train")
    for path in (ROOT / "scripts" / folder).glob("*.sh")
)
# The names of the published repository's configurations.
RELEASE = [
    "base/datasets/coco/coco",
    "base/datasets/ovad/ovad",
    "base/datasets/refcoco/refcocog",
    "base/datasets/vg/pred_bboxes/vg1.0",
    "base/datasets/vg/pred_bboxes/vg1.2",
    "base/datasets/vg/pred_bboxes/vgcoco",
    "base/datasets/vg/vg1.0",
    "base/datasets/vg/vg1.2",
    "base/datasets/vg/vg_reg",
    "base/datasets/vg/vgcoco",
    "base/datasets/vg/vgcoco_reg",
    "base/models/dynrefer_flant5xl",
    "base/models/dynrefer_vicuna",
    "base/runs/eval",
    "base/runs/train",
    "eval/coco/coco",
    "eval/ovad/ovad",
    "eval/refcoco/refcocog_reg",
    "eval/vg/pred_bboxes/vg1.0_densecap",
    "eval/vg/pred_bboxes/vg1.2_densecap",
    "eval/vg/pred_bboxes/vgcoco_densecap",
    "eval/vg/vg1.0_densecap",
    "eval/vg/vg1.2_densecap",
    "eval/vg/vg_reg",
    "eval/vg/vgcoco_densecap",
    "train/refcoco/refcocog_ft",
    "train/vg/vg1.2_5e",
    "train/vg/vicuna_vg1.2_5e",
]
# Evaluation -> (dataset, task, tag threshold, the task and dataset's published metrics)
BENCHMARKS = {
    "vg/vg1.0_densecap": ("vg1.0", "dense_captioning", 0.7, {}),
    "vg/vg1.2_densecap": ("vg1.2", "dense_captioning", 0.7, {"mAP": 47.6}),
    "vg/vgcoco_densecap": ("vgcoco", "dense_captioning", 0.7, {}),
    "vg/vg_reg": ("vg_reg", "region_captioning", 0.8, {"METEOR": 21.2, "CIDEr": 190.5}),
    "refcoco/refcocog_reg": (
        "refcocog",
        "region_captioning",
        0.76,
        {"METEOR": 18.1, "CIDEr": 115.3},
    ),
    "ovad/ovad": ("ovad", "attribute_detection", 0.7, {"mAP all": 29.2}),
    "coco/coco": ("coco", "region_recognition", 0.7, {"accuracy": 91.8}),
    "lvis/lvis": ("lvis", "lvis_detection", 0.7, {}),
    "imagenet_s/imagenet_s": ("imagenet_s", "imagenet_s", 0.7, {}),
    "vg/pred_bboxes/vg1.0_densecap": ("vg1.0", "dense_captioning", 0.7, {}),
    "vg/pred_bboxes/vg1.2_densecap": ("vg1.2", "dense_captioning", 0.7, {"mAP": 47.6}),
    "vg/pred_bboxes/vgcoco_densecap": ("vgcoco", "dense_captioning", 0.7, {}),
}


TRAINING_KEYS = [
    "lr_sched",
    "init_lr",
    "min_lr",
    "weight_decay",
    "beta2",
    "warmup_steps",
    "warmup_lr",
    "batch_size_train",
    "batch_size_eval",
    "num_workers",
    "seed",
    "amp",
    "accum_grad_iters",
    "max_grad_norm",
    "split_size",
]


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_the_releases_names_are_there():
    assert {f"configs/{name}.yaml" for name in RELEASE} <= set(CONFIGS)


@pytest.mark.parametrize("path", CONFIGS)
def test_every_configuration_loads(path):
    config = load_config(path)
    if path.startswith(("configs/train/", "configs/eval/")):
        assert tasks_of(config) and evaluated_dataset(config) in config.datasets
        info = config.datasets[evaluated_dataset(config)].build_info
        for split in (*config.run.valid_splits, *config.run.test_splits):
            assert len(info.annotations[split]) == 1
            assert set(info.ground_truth) <= {split}
        assert config.run.output_dir.startswith("output/")
    if path.startswith("configs/train/"):
        assert all(info.annotations[split] for split in config.run.train_splits)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmarks(name):
    dataset, task, threshold, published = BENCHMARKS[name]
    config = load_config(f"configs/eval/{name}.yaml")
    assert evaluated_dataset(config) == dataset
    assert [one.name for one in tasks_of(config)] == [task]
    (split,) = config.run.valid_splits
    assert config.run.evaluate  # by train.py, as the release's scripts call it
    assert published_numbers(dataset, split, task) == published
    assert config.model.tag_threshold == threshold and config.model.num_views == 3
    assert (config.run.split_size, config.run.view_selector.name) == (20, "image_prior")
    assert config.run.view_selectors == {}
    # The release chooses the task by the dataset's name, and so do its own configurations here.
    by_name = load_config(f"configs/eval/{name}.yaml", ["run.tasks=null"])
    assert [one.name for one in tasks_of(by_name)] == [task]
    assert bool(config.datasets[dataset].build_info.ground_truth) is ("pred_bboxes" in name)


def test_no_other_evaluation_is_left_unchecked():
    names = {path.removeprefix("configs/eval/")[:-5] for path in CONFIGS if "/eval/" in path}
    assert names == set(BENCHMARKS)


@pytest.mark.parametrize(
    ("name", "arch", "dataset", "epochs"),
    [
        ("vg/vg1.2_5e", "dynrefer_t5", "vg1.2", 5),
        ("vg/vicuna_vg1.2_5e", "dynrefer_vicuna", "vg1.2", 5),
        ("refcoco/refcocog_ft", "dynrefer_t5", "refcocog", 3),
    ],
)
def test_published_training(name, arch, dataset, epochs, tmp_path):
    config = load_config(f"configs/train/{name}.yaml")
    assert (config.model.arch, evaluated_dataset(config)) == (arch, dataset)
    assert config.run.max_epoch == epochs
    loss = config.model.loss
    assert (loss.caption, loss.tag, loss.region_text, loss.reduction) == (1, 0.01, 0.5, "rank")
    assert config.run.train_view_selector.name == "stochastic"
    # What the release's file of all trainings says, as far as it is a setting here.
    (tmp_path / "release.yaml").write_text(RELEASE_RUN)
    release = load_config(tmp_path / "release.yaml").run
    for key in TRAINING_KEYS:
        assert config.run[key] == release[key], key


def commands_of(script):
    """Commands in the comments and lines of a script, as words."""
    text = re.sub(r"\\\n#? *", " ", (ROOT / script).read_text())
    lines = (line.lstrip("# ") for line in text.splitlines())
    return [shlex.split(line) for line in lines if line.startswith((PYTHON, "bash ", "exec "))]


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_name_what_exists(script):
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    commands = commands_of(script)
    named = [word for words in commands for word in words if word.startswith("configs/")]
    if Path(script).name not in ("evaluate.sh", "train.sh"):
        assert len(named) == 1 and named[0] in CONFIGS
        assert any(word == script for words in commands for word in words)
        assert sum(words[0] == PYTHON for words in commands) == 1


def test_every_benchmark_has_its_script():
    words = {word for script in SCRIPTS for words in commands_of(script) for word in words}
    assert words & set(CONFIGS) == {
        path
        for path in CONFIGS
        if path.startswith(("configs/eval/", "configs/train/vg", "configs/train/refcoco"))
    }


def parser_of(script):
    spec = importlib.util.spec_from_file_location(Path(script).stem, ROOT / script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.parser()


@pytest.mark.parametrize("script", [name for name in SCRIPTS if commands_of(name)])
def test_converters_write_what_configurations_read(script):
    """The conversion that a script names leads to the files of its configuration."""
    commands = commands_of(script)
    converter = next((words[1:] for words in commands if words[0] == PYTHON), None)
    if converter is None:
        return
    arguments = parser_of(converter[0]).parse_args(converter[1:])
    path = next(word for words in commands for word in words if word.startswith("configs/"))
    config = load_config(path)
    info = config.datasets[evaluated_dataset(config)].build_info
    files = {Path(file) for paths in info.annotations.values() for file in paths}
    if arguments.out.suffix == ".json":
        assert files == {arguments.out}
    else:
        assert {file.parent for file in files} == {arguments.out}
    if "ground_truth" in arguments:
        assert [[str(arguments.ground_truth)]] == list(info.ground_truth.values())
    for split, instances in info.instances.items():
        source = arguments.lvis if "lvis" in arguments else arguments.source
        assert Path(instances) == source, split


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("eval/eval_coco.sh", []),
        ("eval/evaluate.sh", ["x.yaml"]),
        ("train/train.sh", []),
        ("train/finetune_refcocog.sh", []),
    ],
)
def test_scripts_say_what_they_need(script, arguments):
    result = subprocess.run(
        ["bash", f"scripts/{script}", *arguments], capture_output=True, text=True
    )
    assert result.returncode == 2 and result.stderr.startswith("usage: ")
