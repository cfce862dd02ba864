"""Result files of the published code, as predictions by region id.

Its evaluation writes the annotation file once more, with ``extra_info.pred_result`` in every
annotation that was predicted; each of its processes first writes a bare list of predictions.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dynrefer.datasets.annotations.json_stream import is_array, iterate_items

# Its fields and ours.
FIELDS = {
    "caption": "caption",
    "score": "score",
    "tag_set1": "tags",
    "attr": "attributes",
    "cls": "class_logits",
}


def read_release_results(path: Path) -> dict[int | str, dict[str, Any]]:
    """Predictions by region id; of several captions of a region the first counts, as there.

    Annotations that were not predicted are left out, so scoring names them as missing.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no JSON, holds neither annotations nor predictions, or one without an id
            or with an id that came before.
    """
    predictions: dict[int | str, dict[str, Any]] = {}
    number = -1
    for number, item in enumerate(_items(path)):
        where = f"{path}: entry {number}"
        if not isinstance(item, dict) or not isinstance(item.get("id"), int | str):
            raise ValueError(f"{where} is {item!r:.60}; an object with an 'id' is expected")
        if item["id"] in predictions:
            raise ValueError(f"{where}: region {item['id']!r} comes twice")
        values = _prediction_of(item, where)
        if values is not None:
            named = {
                ours: _first(values[theirs], ours)
                for theirs, ours in FIELDS.items()
                if theirs in values
            }
            predictions[item["id"]] = {"id": item["id"], **named}
    if not predictions:
        raise ValueError(
            f"{path}: none of its {number + 1} entries holds a prediction (extra_info.pred_result, "
            f"or the keys {', '.join(FIELDS)})"
        )
    return predictions


def _items(path: Path) -> Iterator[Any]:
    return iterate_items(path, None if is_array(path) else "annotations")


def _prediction_of(item: dict[str, Any], where: str) -> dict[str, Any] | None:
    """The prediction that an entry holds, or is; None where it has none."""
    extra_info = item.get("extra_info")
    if extra_info is None:
        return item if item.keys() & FIELDS.keys() - {"caption"} else None
    if not isinstance(extra_info, dict):
        raise ValueError(f"{where}: 'extra_info' is {extra_info!r:.60}, must be an object")
    values = extra_info.get("pred_result")
    if values is not None and not isinstance(values, dict):
        raise ValueError(f"{where}: 'pred_result' is {values!r:.60}, must be an object")
    return values


def _first(value: Any, field: str) -> Any:
    """The first of several captions, or its score; other fields as they are."""
    if field in ("caption", "score") and isinstance(value, list):
        return value[0] if value else None
    return value
