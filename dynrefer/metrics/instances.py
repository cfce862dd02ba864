"""COCO-style instances files and detections, checked before a scorer reads them."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dynrefer.vocabulary import read_json

Id = int | str


def is_number(value: object) -> bool:
    """Whether a value is a finite number; True and False are none."""
    try:
        is_numeric = isinstance(value, int | float | np.number) and not isinstance(value, bool)
        return is_numeric and math.isfinite(value)
    except OverflowError:  # a whole number of JSON that no float holds
        return False


def is_id(value: object) -> bool:
    """Whether a value can be the id of a record: a whole number or a text."""
    return isinstance(value, int | str) and not isinstance(value, bool)


@dataclass(frozen=True)
class Instances:
    """An instances file: records of images and categories by id, annotations, name for messages."""

    source: str
    images: dict[Id, dict[str, Any]]
    categories: dict[Id, dict[str, Any]]
    annotations: list[dict[str, Any]]

    def checked(self, detections: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Detections with the area that scorers read.

        Raises ValueError for one that lacks a key, names an image or a category that the file does
        not have, or holds values that are not finite.
        """
        fields = self._references | {"bbox": _BOX, "score": _NUMBER}
        _checked(detections, "detections", self.source, fields)
        return [{**d, "area": float(d["bbox"][2]) * float(d["bbox"][3])} for d in detections]

    @property
    def _references(self) -> dict[str, "_Rule"]:
        return {
            "image_id": _reference(self.images, "images"),
            "category_id": _reference(self.categories, "categories"),
        }


# Whether a value is valid, and what a message says is.
_Rule = tuple[Callable[[Any], bool], str]
_ID: _Rule = is_id, "a whole number or a text"
_TEXT: _Rule = lambda value: isinstance(value, str) and value.strip() != "", "a name"
_NUMBER: _Rule = is_number, "a finite number"
_AREA: _Rule = lambda value: is_number(value) and value >= 0, "a finite number, 0 or more"
_FLAG: _Rule = lambda value: is_number(value) and value in (0, 1), "0 or 1"
_IDS: _Rule = lambda value: isinstance(value, list) and all(map(is_id, value)), "a list of ids"
_FREQUENCY: _Rule = lambda value: value in ("r", "c", "f"), "'r', 'c' or 'f'"


def _is_box(value: Any) -> bool:
    is_list = isinstance(value, list | tuple | np.ndarray) and len(value) == 4
    return is_list and all(map(is_number, value)) and min(value[2], value[3]) >= 0


def _reference(known: Mapping[Id, Any], name: str) -> _Rule:
    valid = f"the id of one of its {len(known)} {name}"
    return lambda value: is_id(value) and value in known, valid


_BOX: _Rule = _is_box, "x, y, width, height in pixels, all finite"


def read_instances(instances: str | Path | dict[str, Any], of_lvis: bool = False) -> Instances:
    """An instances file, or its content, whose records have what COCO's or LVIS's scorer reads.

    Raises FileNotFoundError, and ValueError for what is no JSON or lacks a list, and for a record
    that lacks a key, has the wrong kind of value or an id that came before, or names an image or
    category that there is not.
    """
    source, content = "instances", instances
    if not isinstance(instances, dict):
        source, content = str(instances), read_json(instances, "build_info.instances")
    for section in ("images", "categories", "annotations"):
        if not isinstance(content, dict) or not isinstance(content.get(section), list):
            raise ValueError(f"{source} is not a COCO instances file: it has no list '{section}'")
    image, category = {"id": _ID}, {"id": _ID, "name": _TEXT}
    annotation = {"bbox": _BOX, "area": _AREA}
    if of_lvis:
        image |= {"neg_category_ids": _IDS, "not_exhaustive_category_ids": _IDS}
        category["frequency"] = _FREQUENCY
    else:
        annotation["iscrowd"] = _FLAG
    sections = (("images", image), ("categories", category))
    by_id = (_checked(content[section], section, source, rules) for section, rules in sections)
    read = Instances(source, *by_id, content["annotations"])
    _checked(read.annotations, "annotations", source, read._references | annotation)
    return read


def _checked(
    records: Iterable[Any], section: str, source: str, rules: Mapping[str, _Rule]
) -> dict[Id, dict]:
    """Records by id, where the rules give them one."""
    by_id: dict[Id, dict] = {}
    for index, record in enumerate(records):
        where = f"{source}: {section}[{index}]"
        if not isinstance(record, Mapping):
            raise ValueError(f"{where} is {record!r:.60}, must be an object")
        for key, (is_valid, valid) in rules.items():
            if key not in record:
                raise ValueError(f"{where} has no {key}")
            if not is_valid(record[key]):
                raise ValueError(f"{where}: {key} is {record[key]!r:.60}, must be {valid}")
        if "id" in rules:
            if record["id"] in by_id:
                raise ValueError(f"{where}: id {record['id']!r} comes twice")
            by_id[record["id"]] = record
    return by_id
