"""COCO-style instances files and detections, checked before a scorer reads them."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dynrefer.vocabulary import read_json

Id = int | str


def is_number(value: object) -> bool:
    """Whether a value is a finite number; True and False are none."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        return False
    try:
        return math.isfinite(value)
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
        _check(detections, "detections", self.source, fields)
        return [{**d, "area": float(d["bbox"][2]) * float(d["bbox"][3])} for d in detections]

    @property
    def _references(self) -> dict[str, "_Rule"]:
        return {
            f"{kind}_id": (
                lambda value, known=known: is_id(value) and value in known,
                f"the id of one of its {len(known)} {name}",
            )
            for kind, name, known in (
                ("image", "images", self.images),
                ("category", "categories", self.categories),
            )
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


_BOX: _Rule = _is_box, "x, y, width, height in pixels, all finite"


def read_instances(instances: str | Path | dict[str, Any], of_lvis: bool = False) -> Instances:
    """An instances file, or its content, whose records have what COCO's or LVIS's scorer reads.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no JSON, lacks a list, or a record lacks a key, has the wrong kind of
            value, an id that came before, or names an image or category that there is not.
    """
    source, content = "instances", instances
    if not isinstance(instances, dict):
        source, content = str(instances), read_json(instances, "build_info.instances")
    for section in ("images", "categories", "annotations"):
        if not isinstance(content, dict) or not isinstance(content.get(section), list):
            raise ValueError(f"{source} is not a COCO instances file: it has no list '{section}'")
    image, category, annotation = {"id": _ID}, {"id": _ID, "name": _TEXT}, {"bbox": _BOX}
    annotation |= {"area": _AREA}
    if of_lvis:
        image |= {"neg_category_ids": _IDS, "not_exhaustive_category_ids": _IDS}
        category["frequency"] = _FREQUENCY
    else:
        annotation["iscrowd"] = _FLAG
    _check(content["images"], "images", source, image)
    _check(content["categories"], "categories", source, category)
    read = Instances(
        source,
        dict(_by_id(content["images"], "images", source)),
        dict(_by_id(content["categories"], "categories", source)),
        content["annotations"],
    )
    _check(read.annotations, "annotations", source, read._references | annotation)
    return read


def _check(records: Iterable[Any], section: str, source: str, rules: Mapping[str, _Rule]) -> None:
    for index, record in enumerate(records):
        where = f"{source}: {section}[{index}]"
        if not isinstance(record, Mapping):
            raise ValueError(f"{where} is {record!r:.60}, must be an object")
        for key, (is_valid, valid) in rules.items():
            if key not in record:
                raise ValueError(f"{where} has no {key}")
            if not is_valid(record[key]):
                raise ValueError(f"{where}: {key} is {record[key]!r:.60}, must be {valid}")


def _by_id(records: list[dict], section: str, source: str) -> Iterator[tuple[Id, dict]]:
    seen: set[Id] = set()
    for index, record in enumerate(records):
        if record["id"] in seen:
            raise ValueError(f"{source}: {section}[{index}]: id {record['id']!r} comes twice")
        seen.add(record["id"])
        yield record["id"], record
