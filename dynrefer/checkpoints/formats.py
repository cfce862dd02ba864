"""The formats of checkpoints, from ``formats.yaml``: names of each, both directions."""

import itertools
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Rule:
    """Templates of published names <-> of own ones (their names in a whole ``DynRefer``)."""

    published: tuple[str, ...]
    own: tuple[str, ...]
    layout: str = ""


@dataclass(frozen=True)
class Format:
    """A kind of checkpoint.

    Attributes:
        name: in :data:`FORMATS`.
        title: in messages.
        signs: regular expressions; a file in which each begins some name is of this format, unless
            one before it in :data:`FORMATS` fits too.
        rules: names of the file <-> names of the model; the first rule that matches a name counts.
        covers: templates of the own names that a whole file holds; None: of what training changes.
        dropped: regular expression over whole published names -> why nothing here reads them.
    """

    name: str
    title: str
    signs: tuple[str, ...]
    rules: tuple[Rule, ...]
    covers: tuple[str, ...] | None
    dropped: Mapping[str, str]


def _alternatives(template: str) -> tuple[str, ...]:
    """The names of "{q,k,v}_proj", in order."""
    parts = re.split(r"\{(.+?)\}", template)
    choices = [part.split(",") if i % 2 else [part] for i, part in enumerate(parts)]
    return tuple("".join(chosen) for chosen in itertools.product(*choices))


def _rule(line: str) -> Rule:
    published, own, layout = re.fullmatch(r"(\S+) -> (\S+?)(?: \((\w+)\))?", line).groups()
    return Rule(_alternatives(published), _alternatives(own), layout or "")


def _read(path: Path) -> dict[str, Format]:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    rules = {key: tuple(map(_rule, text.splitlines())) for key, text in content["rules"].items()}

    def table(name: str, fields: dict[str, Any]) -> Format:
        dropped = [content["dropped"][key] for key in fields.get("dropped", ())]
        return Format(
            name,
            fields["title"],
            tuple(fields["signs"]),
            tuple(itertools.chain.from_iterable(rules[key] for key in fields["rules"])),
            tuple(fields["covers"]) if "covers" in fields else None,
            {pattern: reason for part in dropped for pattern, reason in part.items()},
        )

    return {name: table(name, fields) for name, fields in content["formats"].items()}


# In the order in which a file is compared with them.
FORMATS: Mapping[str, Format] = _read(Path(__file__).with_name("formats.yaml"))


def detect_format(names: Collection[str], source: str = "state dict") -> Format:
    """The format whose names these are.

    Raises:
        ValueError: no format has such names.
    """
    for table in FORMATS.values():
        if all(any(re.match(sign, name) for name in names) for sign in table.signs):
            return table
    known = ", ".join(table.title for table in FORMATS.values())
    raise ValueError(
        f"{source} is of no known format; its names begin with {sorted(names)[:3]}; known: {known}"
    )
