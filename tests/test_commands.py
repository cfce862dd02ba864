"""The command ``dynrefer``: its table, and a wheel of it in an empty folder."""

import os
import re
import shutil
import subprocess
import sys
import time
import zipfile

import pytest

from dynrefer.commands.main import COMMANDS, CONVERTERS, Command
from dynrefer.commands.quickstart import stages
from dynrefer.files import shipped
from tests.processes import ROOT, run_script


@pytest.fixture(scope="session")
def site(once):
    """A folder with what the project's wheel holds."""

    def make(folder):
        source = folder / "source"  # a build leaves files beside what it is made of
        for name in ("dynrefer", "configs", "scripts"):
            shutil.copytree(
                ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        for name in ("setup.py", "pyproject.toml", "README.md", "requirements.txt"):
            shutil.copy(ROOT / name, source)
        command = [sys.executable, "setup.py", "-q", "bdist_wheel", "-d", str(folder)]
        built = subprocess.run(command, cwd=source, capture_output=True, text=True)
        assert built.returncode == 0, built.stderr
        (wheel,) = folder.glob("*.whl")
        zipfile.ZipFile(wheel).extractall(folder / "site")

    return once("wheel", make) / "site"


def installed(site, folder, *command):
    """A command of Python where only the wheel's files are."""
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, command)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_help_comes_at_once(site, tmp_path):
    began = time.process_time(), os.times().children_user
    result = installed(site, tmp_path, "-m", "dynrefer", "--help")
    assert os.times().children_user - began[1] < 1
    assert result.returncode == 0 and result.stderr == ""
    assert all(f"\n  {name} " in result.stdout for name in COMMANDS)


def test_a_wheel_holds_what_the_commands_need(site, tmp_path):
    check = """
import dynrefer, importlib.metadata, os
from dynrefer.config import load_config
print(os.path.dirname(dynrefer.__file__))
print(load_config("configs/train/shapes.yaml").model.arch)
(point,) = importlib.metadata.entry_points(group="console_scripts", name="dynrefer")
print(point.load().__module__)
"""
    result = installed(site, tmp_path, "-c", check)
    assert result.stdout.split() == [
        str(site / "dynrefer"),
        "dynrefer_t5",
        "dynrefer.commands.main",
    ]
    table = installed(site, tmp_path, "-m", "dynrefer", "convert", "table", "--help")
    assert table.returncode == 0 and "usage: dynrefer convert table" in table.stdout
    config = ("--cfg-path", "configs/base/models/dynrefer_flant5xl.yaml")
    assets = installed(site, tmp_path, "-m", "dynrefer", "assets", *config, "--list")
    assert assets.returncode == 0 and "eva_vit_g" in assets.stdout
    names = {path.relative_to(site / "dynrefer") for path in (site / "dynrefer").rglob("*.yaml")}
    for folder in ("configs", "dynrefer"):
        files = (ROOT / folder).rglob("*.yaml")
        base = ROOT if folder == "configs" else ROOT / folder
        assert {path.relative_to(base) for path in files} <= names
    assert list(tmp_path.iterdir()) == []


def test_every_command_has_its_help():
    for name, command in COMMANDS.items():
        if isinstance(command, Command):
            module, _, function = command.function.partition(":")
            assert command.parser().format_help().startswith("usage: ") and function, name


def test_every_converter_is_a_command():
    files = (ROOT / "scripts/convert").glob("*.py")
    assert sorted(CONVERTERS) == sorted(path.stem for path in files)
    told = run_script("-m", "dynrefer", "convert", "--help").stdout
    assert all(re.search(rf"^  {name} +\w.*[.:]", told, re.MULTILINE) for name in CONVERTERS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "usage: dynrefer COMMAND"),
        (("trian",), "error: 'trian' is no command"),
        (("convert", "tables"), "error: 'tables' is none of them"),
        (("convert",), "usage: dynrefer convert NAME"),
        (("train", "--cfg-path", "none.yaml"), "error: no configuration file at none.yaml"),
        (("train",), "usage: dynrefer train"),
    ],
)
def test_wrong_commands(words, message, tmp_path):
    result = run_script("-m", "dynrefer", *words, cwd=tmp_path)
    assert result.returncode == 2 and message in result.stdout + result.stderr


def test_what_a_folder_has_itself_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shipped("configs/train/shapes.yaml") == ROOT / "configs/train/shapes.yaml"
    for path in ("configs/none.yaml", "train.py", "dynrefer/files.py", str(tmp_path)):
        assert str(shipped(path)) == path


def test_the_quickstart_runs_the_stages_of_its_script():
    """Files, configurations and folders are those that scripts/quickstart.sh names."""
    words = {word for command in stages(fresh=True).values() for word in command}
    text = (ROOT / "scripts/quickstart.sh").read_text()
    named = set(re.findall(r"(?:configs|scripts)/[\w/]+\.(?:yaml|py)|output/\w+(?=[ \n])", text))
    told = " ".join(words)
    assert [name for name in sorted(named) if name not in told and "results" not in name] == []
    assert re.search(r"--images (\d+)", text)[1] in words
