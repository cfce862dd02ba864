"""The command ``dynrefer``: a table of commands, each imported when it is the one that runs."""

import argparse
import ast
import importlib
import runpy
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynrefer import command_line
from dynrefer.app.serve import serve_parser
from dynrefer.commands import parsers
from dynrefer.files import shipped


@dataclass(frozen=True)
class Command:
    """A command: one line about it, its arguments, and "module:function" that takes them."""

    about: str
    parser: Callable[[], argparse.ArgumentParser]
    function: str

    def run(self, words: Sequence[str]) -> None:
        """Parses the arguments, imports what runs, runs it."""
        arguments = self.parser().parse_args(words)
        module, _, name = self.function.partition(":")

        def main(arguments: argparse.Namespace) -> Any:
            return getattr(importlib.import_module(module), name)(arguments)

        command_line.entry_point(main, arguments)


@dataclass(frozen=True)
class Scripts:
    """Scripts of the repository by name: ``dynrefer convert table``, or one without a name."""

    about: str
    paths: dict[str, str]

    def run(self, words: Sequence[str]) -> None:
        """Runs the script that the first word names, or the only one."""
        name, rest = ("", words) if "" in self.paths else (words[0] if words else "", words[1:])
        if name not in self.paths:
            self._list(name)
        command_line.called = f"{command_line.called} {name}".strip()
        sys.argv = [command_line.called, *rest]
        runpy.run_path(str(shipped(self.paths[name])), run_name="__main__")

    def _list(self, name: str) -> None:
        """Ends with what there is; with an error for a name that is not."""
        lines = [f"  {key:18}{_first_line(shipped(path))}" for key, path in self.paths.items()]
        text = "\n".join([f"usage: {command_line.called} NAME [...]\n", self.about, "", *lines])
        if name in ("", "-h", "--help"):
            print(text)
            sys.exit(0 if name else 2)
        print(f"{text}\nerror: '{name}' is none of them", file=sys.stderr)
        sys.exit(2)


CONVERTERS = (
    *("visual_genome", "refcocog", "coco", "ovad", "imagenet_s", "lvis", "predicted_boxes"),
    *("table", "add_tags"),
)
COMMANDS: dict[str, Command | Scripts] = {
    "quickstart": Command(
        "renders the shapes world, trains on it, evaluates, draws a picture",
        parsers.quickstart,
        "dynrefer.commands.quickstart:main",
    ),
    "train": Command("trains a model", parsers.train, "dynrefer.runners.entry:train_main"),
    "evaluate": Command(
        "evaluates a checkpoint, or scores a result file",
        parsers.evaluate,
        "dynrefer.runners.entry:evaluate_main",
    ),
    "demo": Command("describes regions of images", parsers.demo, "dynrefer.commands.demo:main"),
    "caption": Command(
        "describes the regions of many images", parsers.caption, "dynrefer.commands.caption:main"
    ),
    "serve": Command("answers over HTTP", serve_parser, "dynrefer.app.serve:main"),
    "convert": Scripts(
        "Converts public downloads to annotation files, and checkpoints.",
        {name: f"scripts/convert/{name}.py" for name in CONVERTERS}
        | {"checkpoint": "scripts/convert_checkpoint.py"},
    ),
    "assets": Scripts("lists and fetches published files", {"": "scripts/download_assets.py"}),
}


def run(name: str, words: Sequence[str] | None = None) -> None:
    """Runs one command; ``words`` are its arguments, else those of the command line."""
    COMMANDS[name].run(sys.argv[1:] if words is None else words)


def main() -> None:
    """``dynrefer COMMAND ...``."""
    name, rest = (sys.argv[1] if len(sys.argv) > 1 else ""), sys.argv[2:]
    if name in COMMANDS:
        command_line.called = f"dynrefer {name}"
        run(name, rest)
        return
    lines = [f"  {name:12}{command.about}" for name, command in COMMANDS.items()]
    text = "\n".join(
        ["usage: dynrefer COMMAND [...]\n", *lines, "\ndynrefer COMMAND --help says more of one."]
    )
    if name in ("", "-h", "--help"):
        print(text)
        sys.exit(0 if name else 2)
    print(f"{text}\nerror: '{name}' is no command", file=sys.stderr)
    sys.exit(2)


def _first_line(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0]
