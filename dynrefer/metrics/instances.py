"""COCO-style instances files and detections, checked before a scorer reads them."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

DETECTION_KEYS = ("image_id", "category_id", "bbox", "score")


@dataclass(frozen=True)
class Instances:
    """Content of an instances file, and its name for messages."""

    source: str
    content: dict[str, Any]


def read_instances(
    instances: str | Path | dict[str, Any] | Instances, keys: Mapping[str, Sequence[str]]
) -> Instances:
    """An instances file whose records have what a scorer reads.

    Args:
        instances: the file, or its content, with its name or without.
        keys: the lists that it must hold ("images", ...), and what each of their records needs.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no JSON, or lacks a list or a key of a record.
    """
    if isinstance(instances, Instances):
        source, content = instances.source, instances.content
    elif isinstance(instances, dict):
        source, content = "instances", instances
    else:
        source = str(instances)
        if not Path(instances).is_file():
            raise FileNotFoundError(f"COCO instances file {source} does not exist")
        try:
            content = json.loads(Path(instances).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{source} is not a JSON file: {error}") from error
    for section, required in keys.items():
        if not isinstance(content, dict) or not isinstance(content.get(section), list):
            raise ValueError(f"{source} is not a COCO instances file: it has no list '{section}'")
        for index, record in enumerate(content[section]):
            missing = [key for key in required if key not in record]
            if missing:
                raise ValueError(f"{source}: {section}[{index}] has no {', '.join(missing)}")
    return Instances(source, content)


def check_detections(
    detections: Sequence[dict[str, Any]],
    image_ids: Collection[int | str],
    category_ids: Collection[int],
    source: str,
) -> list[dict[str, Any]]:
    """Detections with the id and the area that scorers read.

    Raises:
        ValueError: one lacks a key, names an image or a category that is not known, or holds
            values that are not finite.
    """
    checked = []
    for index, detection in enumerate(detections):
        missing = [key for key in DETECTION_KEYS if key not in detection]
        if missing:
            raise ValueError(f"detections[{index}] has no {', '.join(missing)}")
        for key, known in (("image_id", image_ids), ("category_id", category_ids)):
            if detection[key] not in known:
                raise ValueError(f"detections[{index}]: {source} has no {key} {detection[key]!r}")
        numbers = np.array([*detection["bbox"], detection["score"]], dtype=np.float64)
        if numbers.shape != (5,) or not np.isfinite(numbers).all():
            raise ValueError(
                f"detections[{index}]: bbox {detection['bbox']} and score {detection['score']} "
                "must be x, y, width, height and a number, all finite"
            )
        checked.append({**detection, "id": index + 1, "area": float(numbers[2] * numbers[3])})
    return checked
