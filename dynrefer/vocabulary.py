"""Vocabularies: the tags, attributes and classes that a region can get.

A vocabulary has ``names`` (what a user sees) and ``phrases`` (what the text encoder embeds).
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from dynrefer.assets import fetch_hint

# The maturity synonyms of OVAD name no person, so the published model adds words that do.
ADDED_SYNONYMS = {
    "young/baby": ("kid", "kids", "child", "toddler", "boy", "girl"),
    "adult/old/aged": ("teen", "elder"),
}


@dataclass(frozen=True)
class Vocabulary:
    """Names in the order of their indices."""

    names: tuple[str, ...]

    @property
    def phrases(self) -> list[str]:
        """What is embedded: the names as they are."""
        return list(self.names)

    def __len__(self) -> int:
        return len(self.names)


class TagVocabulary(Vocabulary):
    """Tags; a tag is its own phrase."""


class ClassVocabulary(Vocabulary):
    """Class names, with "the" before them as phrases."""

    @property
    def phrases(self) -> list[str]:
        """One phrase a class, "the dog"; LVIS's "aerosol_can" is "the aerosol can"."""
        return [f"the {plain_name(name)}" for name in self.names]


@dataclass(frozen=True)
class Attribute:
    """One attribute as OVAD describes it; ``name`` is "type:synonym/synonym/...".

    Without a type, as in a list of the user's own, it is "synonym/synonym/...".
    """

    id: int
    name: str
    type: str
    parent_type: str
    is_has_att: str
    freq_set: str

    @property
    def phrases(self) -> list[str]:
        """Two phrases a synonym, with an empty noun: its two spaces are part of the wording."""
        kind, _, synonyms = self.name.rpartition(":")
        words = (*synonyms.split("/"), *ADDED_SYNONYMS.get(synonyms, ()))
        owned = f" {kind.replace(' tone', '')}" if self.is_has_att == "has" else ""
        pairs = ((f"the {word}{owned}", f"the  {self.is_has_att} {word}{owned}") for word in words)
        return [phrase for pair in pairs for phrase in pair]


@dataclass(frozen=True)
class AttributeVocabulary:
    """Attributes in the order of an annotation's ``att_vec``."""

    entries: tuple[Attribute, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The attributes' names, type and synonyms."""
        return tuple(entry.name for entry in self.entries)

    @property
    def phrases(self) -> list[str]:
        """All phrases, attribute after attribute; an attribute's score is the best of its own."""
        return [phrase for entry in self.entries for phrase in entry.phrases]

    @property
    def phrase_counts(self) -> list[int]:
        """How many of ``phrases`` belong to each attribute."""
        return [len(entry.phrases) for entry in self.entries]

    def __len__(self) -> int:
        return len(self.entries)


@dataclass(frozen=True)
class Vocabularies:
    """The three vocabularies of a model."""

    tags: TagVocabulary
    attributes: AttributeVocabulary
    classes: ClassVocabulary

    def replaced(
        self,
        tags: Iterable[str] | None = None,
        attributes: Iterable[str] | None = None,
        classes: Iterable[str] | None = None,
    ) -> "Vocabularies":
        """These with lists of names in place of some of them, as text files hold them.

        Raises ValueError for what is no list, an empty or repeated name, or none at all.
        """
        new: dict[str, Vocabulary | AttributeVocabulary] = {}
        if tags is not None:
            new["tags"] = TagVocabulary(_given_names(tags, "tags"))
        if attributes is not None:
            names = enumerate(_given_names(attributes, "attributes"))
            new["attributes"] = AttributeVocabulary(
                tuple(_plain_attribute(i, name, f"attributes: name {i}") for i, name in names)
            )
        if classes is not None:
            new["classes"] = ClassVocabulary(_given_names(classes, "classes"))
        return replace(self, **new)


def best_of(
    scores: Sequence[float], names: Sequence[str], top: int | None
) -> list[tuple[str, float]]:
    """The best names with their scores, in order; all of them where ``top`` is None.

    Raises:
        ValueError: another number of scores than of names.
    """
    if len(scores) != len(names):
        raise ValueError(f"{len(scores)} scores for {len(names)} names")
    order = sorted(range(len(scores)), key=lambda index: -scores[index])[:top]
    return [(names[index], scores[index]) for index in order]


def best_attributes(
    scores: Sequence[float], names: Sequence[str], top: int | None
) -> list[tuple[str, float]]:
    """As :func:`best_of`, with labels for people: "color: red" for "color:red/crimson"."""
    best = []
    for name, score in best_of(scores, names, top):
        kind, _, synonyms = name.partition(":")
        best.append((f"{kind}: {synonyms.split('/')[0]}" if synonyms else kind, score))
    return best


def plain_name(name: str) -> str:
    """A class's name in lower case, with spaces for the "_" of LVIS."""
    return name.lower().replace("_", " ")


def load_tags(path: str | Path) -> TagVocabulary:
    """Reads a tag list, one tag a line (RAM's has 4,585).

    Raises FileNotFoundError, and ValueError for an empty file, an empty line or a repeated tag.
    """
    return TagVocabulary(_lines(path, "model.vocabulary.tags"))


def load_attributes(path: str | Path) -> AttributeVocabulary:
    """Reads OVAD's JSON (an object with ``attributes``), the bare list of its attributes, or text.

    A ``.txt`` file has one attribute a line: "striped", with synonyms "striped/lined", with its
    type "pattern:striped/lined"; all of them are what a region is, not what it has.

    Raises FileNotFoundError, and ValueError for broken JSON, a missing key, a repeated name, or an
    ``id`` that is not the position in the list (``att_vec`` is read by position).
    """
    setting = "model.vocabulary.attributes"
    if _is_text(path):
        named = enumerate(_lines(path, setting))
        return AttributeVocabulary(
            tuple(_plain_attribute(i, name, f"{path}: line {i + 1}") for i, name in named)
        )
    content = read_json(path, setting)
    items = content.get("attributes") if isinstance(content, dict) else content
    if not isinstance(items, list):
        raise ValueError(f"{path}: needs a list, or an object with a list 'attributes'")
    entries = tuple(_attribute(item, position, path) for position, item in enumerate(items))
    _checked_names((entry.name for entry in entries), path, "attributes", first=0)
    return AttributeVocabulary(entries)


def load_classes(path: str | Path) -> ClassVocabulary:
    """Reads a JSON list of class names, the ``categories`` of COCO's or OVAD's JSON, or text.

    A ``.txt`` file has one class a line. Raises FileNotFoundError, and ValueError for broken JSON,
    anything but a list of strings, or names that differ in no more than case (as phrases do not).
    """
    setting = "model.vocabulary.classes"
    if _is_text(path):
        return ClassVocabulary(_lines(path, setting))
    names = read_json(path, setting)
    if isinstance(names, dict) and isinstance(names.get("categories"), list):
        named = names["categories"]
        names = [each.get("name") if isinstance(each, dict) else each for each in named]
    if not isinstance(names, list):
        valid = "a list of class names, or an object with a list 'categories'"
        raise ValueError(f"{path}: needs {valid}, found {type(names).__name__}")
    return ClassVocabulary(_checked_names(names, path, "entry", first=0))


def read_text(path: str | Path, setting: str) -> str:
    """Text of a file; a missing one gives FileNotFoundError that names the configuration key."""
    path = Path(path)
    if not path.is_file():
        hint = f"the configuration key '{setting}' sets it{fetch_hint(str(path))}"
        raise FileNotFoundError(f"no file at {path}; {hint}")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not text in UTF-8: {error}") from error


def read_json(path: str | Path, setting: str) -> Any:
    """Parsed JSON file; ValueError names file, line and column of broken JSON."""
    try:
        return json.loads(read_text(path, setting))
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"{path}: broken JSON at {where}: {error.msg}") from error


def _is_text(path: str | Path) -> bool:
    return Path(path).suffix.lower() == ".txt"  # one name a line; other files are JSON


def _lines(path: str | Path, setting: str) -> tuple[str, ...]:
    lines = read_text(path, setting).rstrip().split("\n")
    for number, line in enumerate(lines, 1):
        if line.lstrip().startswith(("[", "{")) or not line.strip().isprintable():
            raise ValueError(f"{path}: line {number} is {line[:40]!r}; a name a line is expected")
    return _checked_names((line.strip() for line in lines), path, "line", first=1)


def _given_names(names: Iterable[str], kind: str) -> tuple[str, ...]:
    if isinstance(names, str | dict) or not isinstance(names, Iterable):
        raise ValueError(f"{kind} is {names!r:.60}; valid is a list of names")
    found = [name.strip() if isinstance(name, str) else name for name in names]
    for position, name in enumerate(found):
        if isinstance(name, str) and not name.isprintable():
            raise ValueError(f"{kind}: name {position} is {name[:40]!r}, must be printable text")
    return _checked_names(found, kind, "name", first=0)


def _plain_attribute(position: int, name: str, where: str) -> Attribute:
    kind, _, synonyms = name.rpartition(":")
    if not all(word.strip() for word in synonyms.split("/")):
        valid = "'synonym/synonym' or 'type:synonym/synonym'"
        raise ValueError(f"{where} is {name!r}, must be {valid}")
    return Attribute(position, name, kind, kind, is_has_att="is", freq_set="")


def _attribute(item: Any, position: int, path: str | Path) -> Attribute:
    where = f"{path}: attributes[{position}]"
    keys = [field.name for field in fields(Attribute)]
    missing = [key for key in keys if not isinstance(item, dict) or key not in item]
    if missing:
        raise ValueError(f"{where}: lacks {', '.join(missing)}; needs {', '.join(keys)}")
    attribute = Attribute(**{key: item[key] for key in keys})
    is_named = not attribute.type or ":" in str(attribute.name)
    for key, is_valid, valid in (
        ("id", attribute.id == position, f"its position {position}"),
        ("is_has_att", attribute.is_has_att in ("is", "has"), "'is' or 'has'"),
        ("name", is_named, "'type:synonym/synonym'"),
    ):
        if not is_valid:
            raise ValueError(f"{where}: {key} is {item[key]!r}, must be {valid}")
    return attribute


def _checked_names(
    names: Iterable[Any], path: str | Path, unit: str, first: int
) -> tuple[str, ...]:
    """Names as a tuple; ValueError for one that is no string, empty or repeated, or for none."""
    seen: dict[str, int] = {}
    checked = tuple(names)
    for number, name in enumerate(checked, first):
        if not isinstance(name, str) or not name:
            raise ValueError(f"{path}: {unit} {number} is {name!r}, must be a name")
        if name.lower() in seen:
            earlier = seen[name.lower()]
            raise ValueError(f"{path}: {unit} {number} repeats {unit} {earlier}, {name!r}")
        seen[name.lower()] = number
    if not checked:
        raise ValueError(f"{path}: is empty, must hold at least one name")
    return checked
