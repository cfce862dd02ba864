"""Result files: predictions by region id, as this project writes them and as the release did.

Ours have one JSON object a region and line. The release's evaluation writes the annotation file
once more (``.json``), with ``extra_info.pred_result`` in every annotation that was predicted; each
of its processes first writes a bare list of predictions.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from dynrefer.datasets.annotations.json_stream import is_array, iterate_items
from dynrefer.files import whole_file
from dynrefer.metrics.instances import is_id, is_number
from dynrefer.models.dynrefer import RegionPrediction
from dynrefer.tasks.ground_truth import GroundTruth
from dynrefer.views.selectors import CANDIDATE_RATIOS

Id = int | str
Prediction = Mapping[str, Any]
Predictions = Mapping[Id, Prediction]
# The release's fields and ours.
RELEASE_FIELDS = {"caption": "caption", "score": "score", "tag_set1": "tags"}
RELEASE_FIELDS |= {"attr": "attributes", "cls": "class_logits"}
MOST_VIEWS = len(CANDIDATE_RATIOS) + 1
# Metrics compute in single precision; attributes are probabilities.
_LARGEST = float(np.finfo(np.float32).max)
_LIMITS = dict.fromkeys(("score", "class_logits"), (-_LARGEST, _LARGEST)) | {"attributes": (0, 1)}


class ResultFile(dict[Id, Prediction]):
    """Predictions by region id, and the file that they are from, for messages."""

    def __init__(self, source: Path, predictions: Mapping[Id, Prediction]) -> None:
        super().__init__(predictions)
        self.source = source


def fault_of(value: Any, field: str, count: int | None = None) -> str:
    """What is wrong with a field of ``count`` numbers, or of one or a text; empty if nothing is."""
    if field == "caption":
        if not isinstance(value, str):
            return f"must be a text, is {value!r:.60}"
        half = re.search("[\ud800-\udfff]", value)
        return f"holds half a character, {half[0]!a}" if half else ""
    valid = "a finite number" if count is None else f"{count} finite numbers"
    if field == "attributes":
        valid = f"{count} numbers from 0 to 1"
    numbers = [value] if count is None else value
    if not isinstance(numbers, list) or len(numbers) != (count or 1):
        return f"must be {valid}, is {value!r:.60}"
    wrong = _first_outside(numbers, *_LIMITS[field])
    return f"must be {valid}, {'is' if count is None else 'holds'} {wrong}" if wrong else ""


def _first_outside(numbers: list[Any], low: float, high: float) -> str:
    """The first value that is no number within the limits, as text; empty where all are."""
    # The usual case is decided without a step of Python for each of a thousand classes.
    plain = set(map(type, numbers)) <= {int, float} and low <= min(numbers) <= max(numbers) <= high
    if plain and not math.isnan(sum(numbers)):
        return ""
    wrong = (value for value in numbers if not (is_number(value) and low <= value <= high))
    return next((repr(value)[:60] for value in wrong), "")


def write_predictions(path: Path, predictions: Iterable[RegionPrediction]) -> None:
    """Writes a result file: one JSON object a region and line, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part, part.open("w", encoding="utf-8") as lines:
        for prediction in predictions:
            values = {key: v for key, v in asdict(prediction).items() if v is not None}
            lines.write(json.dumps(values, ensure_ascii=False) + "\n")


def read_predictions(path: Path, truth: GroundTruth | None = None) -> ResultFile:
    """Reads a result file, a ``.json`` one as the release's and any other as ours.

    Of several captions of a region in the release's the first counts, as there. Annotations that
    were not predicted are left out, so scoring names them as missing. With ``truth`` ids are as its
    regions have them: the text "7" is region 7 where none is called "7", and the other way round.

    Raises FileNotFoundError, and ValueError for a file that is no JSON or holds no prediction, an
    entry without an id or with one that came before, and where no region of ``truth`` is in it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no result file at {path}")
    entries = _release_entries(path) if path.suffix.lower() == ".json" else _lines(path)
    predictions: dict[Id, Prediction] = {}
    for where, entry in entries:
        if not isinstance(entry, dict) or "id" not in entry:
            raise ValueError(f"{where} is {entry!r:.60}, must be an object with an 'id'")
        id_, ratios = entry["id"], entry.get("ratios")
        if not is_id(id_):
            raise ValueError(f"{where}: 'id' is {id_!r:.60}, must be a whole number or a text")
        if id_ in predictions:
            raise ValueError(f"{where}: region {id_!r} comes twice")
        is_list = isinstance(ratios, list) and len(ratios) <= MOST_VIEWS
        if ratios is not None and (not is_list or _first_outside(ratios or [0], 0, 1)):
            fault = f"must be {MOST_VIEWS} numbers from 0 to 1 at most, is {ratios!r:.60}"
            raise ValueError(f"{where}: region {id_!r}: 'ratios' {fault}")
        predictions[id_] = entry
    predictions = {id_: entry for id_, entry in predictions.items() if len(entry) > 1}
    if not predictions:
        raise ValueError(
            f"{path}: no entry holds a prediction (a region's 'id' with "
            f"{', '.join(RELEASE_FIELDS.values())}; in files of the release extra_info.pred_result)"
        )
    if truth:
        _match_ids(path, predictions, truth)
    return ResultFile(path, predictions)


def _match_ids(path: Path, predictions: dict[Id, Prediction], truth: GroundTruth) -> None:
    ids, by_text = {region.id for region in truth.regions()}, {str(id_): id_ for id_ in predictions}
    for id_ in ids - predictions.keys():
        alias = by_text.get(str(id_))
        if alias in predictions and alias not in ids:
            predictions[id_] = predictions.pop(alias)
    if ids.isdisjoint(predictions):
        examples = f"e.g. {next(iter(predictions))!r}, and there {next(iter(ids))!r}" if ids else ""
        missing = f"none of its {len(predictions)} regions is in {truth.index.source} ({examples})"
        raise ValueError(f"{path}: {missing}")


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    """Place and content of each line that is not blank."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                where = f"{path}: line {number}"
                try:
                    yield where, json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise ValueError(f"{where} is not JSON: {error}") from error


def _release_entries(path: Path) -> Iterator[tuple[str, Any]]:
    """Place and prediction of each annotation, with our names; the id alone where it has none."""
    for number, item in enumerate(iterate_items(path, None if is_array(path) else "annotations")):
        where = f"{path}: entry {number}"
        if isinstance(item, dict) and "id" in item:
            found = _prediction_of(item, where)
            named = {ours: found[key] for key, ours in RELEASE_FIELDS.items() if key in found}
            for key in ("caption", "score"):
                if isinstance(named.get(key), list):  # of several captions the first counts
                    named[key] = next(iter(named[key]), None)
            item = {"id": item["id"], **named}
        yield where, item


def _prediction_of(item: dict[str, Any], where: str) -> dict[str, Any]:
    """The prediction that an entry of the release holds, or is; {} where it has none."""
    extra_info = item.get("extra_info")
    if extra_info is None:
        # an annotation has a caption too
        return item if item.keys() & RELEASE_FIELDS.keys() - {"caption"} else {}
    if not isinstance(extra_info, dict):
        raise ValueError(f"{where}: 'extra_info' is {extra_info!r:.60}, must be an object")
    values = extra_info.get("pred_result")
    if not isinstance(values, dict | None):
        raise ValueError(f"{where}: 'pred_result' is {values!r:.60}, must be an object")
    return values or {}
