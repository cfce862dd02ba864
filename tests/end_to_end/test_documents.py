"""Every command and example of README and docs, as printed, in a project after its quickstart.

The project is small: a shapes world of 21 images, a run of seconds in output/shapes, and a model of
the shapes' size under the name of the published one. Commands of Python run in processes of their
own (tests/processes.py); those of bash start a stand-in for ``.venv/bin/python`` that writes down
what it is given, and that is run after it. Captions are scored without Java.
"""

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from dynrefer.datasets.annotations import AnnotationIndex
from tests.end_to_end.conftest import message_of
from tests.end_to_end.documented_sources import place_all
from tests.processes import ROOT, run_command, run_script, run_together
from tests.test_docs import BLOCK, IDS, PAGES

PYTHON, TORCHRUN = ".venv/bin/python", ".venv/bin/torchrun"
WITHOUT_JAVA = {"before": "tests.without_java"}
# Commands that are not run here, and why.
LEFT_OUT = {
    r"bash scripts/(quickstart|test|install)\.sh": "they make or check the project as a whole",
    r"pip install": "makes an environment",
    r".*configs/train/shapes_smollm2": "98 MB and hours; tests/models/test_gguf_language_models.py",
    r".*scripts/benchmark_": "minutes of work; tests/scripts runs them with small numbers",
    r".*scripts/ablate_views": "hours of training; tests/scripts tests what it starts",
    r"\S+ scripts/download_assets.py (?!.*--list)": "gigabytes; tests/test_assets.py",
    r"\S+ -m dynrefer.datasets.shapes .*--images 2400": "the quickstart's, which is there",
}
STAND_IN = f"""#!/bin/bash
[ "$1" = - ] && exec {sys.executable} "$@"
printf '%s\\n' "$@" > handed_on
"""
# A model of the shapes' size under the published one's names of files.
PUBLISHED = """
base: configs/base/models/dynrefer_shapes.yaml
model:
  vocabulary:
    tags: data/ram_tag_list.txt
    attributes: data/ovad2000.json
    classes: data/ovad2000.json
"""


@pytest.fixture(scope="session")
def project(once, world, tmp_path_factory):
    """A project after its quickstart, with sources of data and the published file; not changed."""

    def make(folder):
        for name in ("train.py", "evaluate.py", "demo.py", "scripts", "dynrefer"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(ROOT / name)
        shutil.copytree(ROOT / "configs", folder / "configs")
        _replace(folder / "configs/base/runs/shapes.yaml", "max_epoch: 2", "max_epoch: 1")
        _replace(folder / "configs/base/runs/shapes.yaml", "run:", "run:\n  report_regions: 3")
        model = folder / "configs/base/models/dynrefer_shapes.yaml"
        _replace(model, "{min_length: 8, max_new_tokens: 26", "{min_length: 1, max_new_tokens: 3")
        shutil.copytree(world, folder / "data/shapes")
        stand_in = folder / PYTHON
        stand_in.parent.mkdir(parents=True)
        stand_in.write_text(STAND_IN)
        stand_in.chmod(0o755)
        Image.open(next((folder / "data/shapes/images/test").iterdir())).save(folder / "image.jpg")
        place_all(folder, tmp_path_factory.mktemp("sources"))
        shapes = ("--cfg-path", "configs/train/shapes.yaml")
        small = ("--images", 4, "--epochs", 1, "--text-images", 4, "--text-steps", 2)
        ran(folder, "scripts/pretrain_encoder.py", *shapes, "--out", "output/encoder", *small)
        ran(folder, "train.py", *shapes)
        published = folder / "configs/base/models/dynrefer_flant5xl.yaml"
        published.write_text(PUBLISHED)
        files = ("--input", "output/shapes/checkpoints/last", "--output", "weights/vg1.2_5e.pth")
        ran(folder, "scripts/convert_checkpoint.py", "--from", "own", "--to", "published", *files)

    return once("project", make)


def _replace(path, old, new):
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


@pytest.fixture
def home(project, tmp_path):
    """The test's own copy of the project."""
    return shutil.copytree(project, tmp_path / "home", symlinks=True)


def ran(home, *command):
    """What a command of Python printed; it has to end well."""
    result = run_script(*command, cwd=home, **WITHOUT_JAVA)
    assert result.returncode == 0, f"{command}\n{result.stderr}"
    assert "FutureWarning" not in result.stderr, f"{command}\n{result.stderr}"
    return result.stdout


def handed_on(home, words):
    """What a script of bash gives to .venv/bin/python, in a shell that knows no other Python."""
    result = run_command(*words, cwd=home, PATH="/usr/bin:/bin", PROCESSES="1")
    assert result.returncode == 0, result.stderr
    return (home / "handed_on").read_text().splitlines()


def perform(home, words):
    """Runs one command of a page."""
    if words[0] == PYTHON:
        ran(home, *words[1:])
    elif words[0] == TORCHRUN:
        assert words[1:3] == ["--standalone", "--nproc_per_node=2"]
        for result in run_together(*words[3:], cwd=home, **WITHOUT_JAVA):
            assert result.returncode == 0, f"{words}\n{result.stderr}"
    else:
        assert words[0] == "bash", words
        ran(home, *handed_on(home, words))


def commands_in(block):
    for line in block.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def is_left_out(words):
    return any(re.match(pattern, " ".join(words)) for pattern in LEFT_OUT)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_a_page_from_top_to_bottom(page, home, monkeypatch):
    monkeypatch.chdir(home)
    for kind, block in BLOCK.findall(page.read_text()):
        if kind == "bash":
            for words in commands_in(block):
                if not is_left_out(words):
                    perform(home, words)
        elif kind == "python":
            (home / "example.py").write_text(block)
            ran(home, home / "example.py")
        elif kind == "yaml" and "configs/" in block and "flant5xl" not in block:
            (home / "block.yaml").write_text(block)
            options = ("--options", "run.load_ckpt_path=output/shapes/checkpoints/last")
            ran(home, "evaluate.py", "--cfg-path", "block.yaml", *options)
    for report in home.rglob("*.report.json"):
        index = AnnotationIndex.open(report.with_name(report.name.removesuffix(".report.json")))
        assert len(index) > 0
        assert all(index.image(j).path.is_file() for j in range(index.num_images))


SCRIPTS = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "scripts").glob("[et][vr]a*/*.sh")
    if path.name not in ("evaluate.sh", "train.sh")
)


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_of_the_published_model_name_the_file_that_is_missing(script, home):
    """In a project that has neither weights nor data."""
    shutil.rmtree(home / "weights")
    shutil.rmtree(home / "data")
    model = "configs/base/models/dynrefer_flant5xl.yaml"
    shutil.copy(ROOT / model, home / model)
    checkpoint = () if Path(script).name.startswith("train_") else ("weights/vg1.2_5e.pth",)
    handed = handed_on(home, ["bash", script, *checkpoint])
    result = run_script(*handed, cwd=home)
    told = message_of(result.stderr)
    assert result.returncode == 2
    assert re.search(r"no checkpoint at weights/\S+\.pth, on this machine's disk", told), told


def test_nothing_is_left_out_without_need():
    words = [
        words
        for page in PAGES
        for kind, block in BLOCK.findall(page.read_text())
        for words in (commands_in(block) if kind == "bash" else ())
    ]
    texts = [" ".join(one) for one in words]
    assert all(any(re.match(pattern, text) for text in texts) for pattern in LEFT_OUT)
    converters = {
        f"scripts/convert/{path.name}" for path in (ROOT / "scripts/convert").glob("*.py")
    }
    assert converters <= {word for one in words for word in one}
