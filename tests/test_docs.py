"""What README and docs name exists: files, modules, flags, configuration keys, libraries."""

import ast
import importlib
import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from dynrefer.commands.main import COMMANDS
from dynrefer.config import load_config

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
NAMED_PATH = re.compile(
    r"(?<![\w./-])((?:dynrefer|scripts|configs|tests|docs|assets|\.ci)/[\w./-]*[\w/]"
    r"|(?:train|evaluate|demo|setup)\.py|requirements\.txt|pyproject\.toml|LICENSE)(?![\w*<{])"
)
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")
FLAG = re.compile(r'"(--[\w-]+)"')
COMMAND = re.compile(r'^    run\("(\w+)"\)$', re.MULTILINE)
MODULE = re.compile(r"python -m ([\w.]+)")

each_page = pytest.mark.parametrize("page", PAGES, ids=IDS)


def blocks(page: Path, *languages: str) -> list[str]:
    """Contents of the page's fenced blocks in one of the languages."""
    return [text for kind, text in BLOCK.findall(page.read_text()) if kind in languages]


def commands(page: Path) -> list[list[str]]:
    """Words of every command in the page's shell blocks."""
    lines = "\n".join(blocks(page, "bash", "sh")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def documented() -> list:
    """Every command of every page, with the page's name."""
    return [
        pytest.param(words, id=f"{name}: {' '.join(words)[:60]}")
        for page, name in zip(PAGES, IDS, strict=True)
        for words in commands(page)
    ]


def known_flags(source: str) -> set[str]:
    """Flags that a script's text defines, with those of the shared parser where it uses that."""
    flags = set(FLAG.findall(source)) | {"--help"}
    if command := COMMAND.search(source):
        flags |= set(COMMANDS[command[1]].parser()._option_string_actions)
    shared = {
        "config_parser": "dynrefer/command_line.py",
        "datasets.convert.command": "dynrefer/datasets/convert/command.py",
        "datasets.shapes.world": "dynrefer/datasets/shapes/world.py",
    }
    for name, file in shared.items():
        if name in source:
            flags |= set(FLAG.findall((ROOT / file).read_text()))
    return flags


@each_page
def test_named_paths_exist(page: Path) -> None:
    named = set(NAMED_PATH.findall(page.read_text()))
    missing = sorted(path for path in named if not (ROOT / path).exists())
    assert not missing


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    links = LINK.findall(page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@each_page
def test_python_blocks_import_what_exists(page: Path) -> None:
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, name.name) for name in node.names), node.module


@each_page
def test_yaml_blocks_are_configurations(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    for block in blocks(page, "yaml"):
        (tmp_path / "block.yaml").write_text(block)
        load_config(tmp_path / "block.yaml")


@pytest.mark.parametrize("words", documented())
def test_commands_use_flags_that_exist(words: list[str]) -> None:
    modules = MODULE.findall(" ".join(words))
    scripts = [word for word in words if word.endswith((".py", ".sh"))]
    if modules and modules[0].startswith("dynrefer"):
        spec = importlib.util.find_spec(modules[0])
        if spec.submodule_search_locations:  # a package is run by its __main__
            spec = importlib.util.find_spec(f"{modules[0]}.__main__")
        script, source = f"-m {modules[0]}", Path(spec.origin)
        start = words.index(modules[0])
    elif scripts:
        script, source = scripts[0], ROOT / scripts[0]
        start = words.index(script)
    else:
        return
    given = {word.split("=")[0] for word in words[start:] if word.startswith("--")}
    if script.endswith("test.sh"):  # passes everything on to pytest
        return
    of_package = source.parent.glob("*.py") if source.name == "__init__.py" else [source]
    text = "".join(file.read_text() for file in of_package)
    if modules == ["dynrefer"]:  # the command
        text = f'    run("{words[start + 1]}")'
    known = known_flags(text) if source.suffix == ".py" else set(re.findall(r"--[\w-]+", text))
    if "demo.py" in text:  # scripts/demo_shapes.sh passes everything on
        known |= known_flags((ROOT / "demo.py").read_text())
    assert given <= known


@pytest.mark.parametrize("words", documented())
def test_commands_use_configuration_keys_that_exist(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    if "--options" not in words:
        return
    end = words.index("--options") + 1
    options = []
    while end < len(words) and not words[end].startswith("--"):
        options.append(words[end])
        end += 1
    config = "configs/train/shapes.yaml"
    if "--cfg-path" in words:
        config = words[words.index("--cfg-path") + 1]
    load_config(config, options)


def test_install_gives_a_reason_for_every_library() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \|", (ROOT / "docs/install.md").read_text(), re.MULTILINE)
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    required = [re.split(r"[<>=]", line)[0] for line in lines if line and line[0] != "#"]
    assert sorted(rows) == sorted(required)


def test_architecture_names_every_file_of_the_package() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    files = (ROOT / "dynrefer").rglob("*.py")
    names = [str(f.relative_to(ROOT)) for f in files if f.name != "__init__.py"]
    assert [name for name in sorted(names) if name not in text] == []


def test_every_data_file_of_the_package_is_installed() -> None:
    """What ``package_data`` leaves out is there in a checkout and missing where users install."""
    package = ROOT / "dynrefer"
    listed = re.search(r"package_data=(\{.*?\}),\n", (ROOT / "setup.py").read_text(), re.DOTALL)
    files = [f for f in package.rglob("*") if f.is_file() and f.suffix not in (".py", ".pyc")]
    names = sorted(f.relative_to(package).as_posix() for f in files)
    assert names == sorted(ast.literal_eval(listed[1])["dynrefer"])
