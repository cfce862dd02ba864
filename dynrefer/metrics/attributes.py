"""Attribute detection, as the OVAD benchmark (Bravo et al., CVPR 2023) scores it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """Sum over distinct scores, from the highest down, of precision times gained recall.

    scores [N], positive bool [N]. Equal scores count as one step, as in scikit-learn's
    average_precision_score. Returns a fraction, NaN where nothing is positive.
    """
    if not positive.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    last_of_equals = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    hits = np.cumsum(positive[order])[last_of_equals]
    precision = hits / (last_of_equals + 1)
    return float(np.sum(np.diff(hits, prepend=0) / hits[-1] * precision))


def attribute_metrics(
    scores: np.ndarray,
    labels: np.ndarray,
    attributes: Sequence[Any],
    threshold: float = 0.5,
    top_k: int = 15,
) -> dict[str, Any]:
    """Average precision, and F1, precision and recall, by groups of attributes; all in percent.

    scores float [N, A] in [0, 1]; labels int [N, A], 1 positive, 0 negative, -1 not labelled;
    A attributes, each a mapping or object with name, type, parent_type and freq_set. Groups are
    "all", the freq_set and parent_type values, and "single" and "multiple" (attributes named by
    one word or by several synonyms).

    Returns
    - "map" {group: mean AP} and "ap" {attribute name: AP}, over labelled boxes;
    - "threshold" (positive is score > threshold) and "top_k" (positive is one of the box's top_k
      scores), each {"overall" | "per_class": {group: {"f1", "precision", "recall"}}}: counts
      pooled over the group, or the mean over its attributes. (The release sets both numbers from
      the data: the mean score rounded up to a tenth, and the mean count of positives.)
    A value that does not exist (no positive box in the group) is left out.
    Raises ValueError for arrays that do not fit, scores outside [0, 1] and unknown labels.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    names = [_value(attribute, "name") for attribute in attributes]
    _check(scores, labels, names)
    groups = _groups(attributes)
    columns = zip(scores.T, labels.T, labels.T >= 0, strict=True)
    precisions = [average_precision(column[of], label[of] == 1) for column, label, of in columns]
    each = 100 * np.array(precisions)
    ranks = np.argsort(np.argsort(-scores, axis=1, kind="stable"), axis=1)
    return {
        "map": _present({group: _mean(each[members]) for group, members in groups.items()}),
        "ap": _present(dict(zip(names, each.tolist(), strict=True))),
        "threshold": _decision_metrics(scores > threshold, labels, groups),
        "top_k": _decision_metrics((ranks < top_k) & (scores > 0), labels, groups),
    }


def _check(scores: np.ndarray, labels: np.ndarray, names: list[str]) -> None:
    expected = (len(scores), len(names))
    if scores.shape != expected or labels.shape != expected or not scores.size:
        valid = f"[boxes, {len(names)} attributes] with a box at least"
        shapes = f"{scores.shape} and {labels.shape}"
        raise ValueError(f"scores and labels must be {valid}, got {shapes}")
    for what, array, valid, rule in (
        ("score", scores, (scores >= 0) & (scores <= 1), "between 0 and 1"),
        ("label", labels, np.isin(labels, (-1, 0, 1)), "1, 0 or -1"),
    ):
        if not valid.all():
            row, column = np.argwhere(~valid)[0]
            where, value = f"row {row}, attribute '{names[column]}'", array[row, column]
            raise ValueError(f"{what} of {where} is {value}; it must be {rule}")


def _value(attribute: Any, key: str) -> Any:
    return attribute[key] if isinstance(attribute, Mapping) else getattr(attribute, key)


def _groups(attributes: Sequence[Any]) -> dict[str, list[int]]:
    """Attribute indices of each group, "all" first; an empty freq_set or parent_type is none."""
    groups: dict[str, list[int]] = {"all": list(range(len(attributes)))}
    named = [_value(attribute, "name").split(":")[-1] for attribute in attributes]
    counts = ["multiple" if "/" in words else "single" for words in named]
    others = [[_value(a, key) for a in attributes] for key in ("freq_set", "parent_type")]
    for labels in (*others, counts):
        for index, label in enumerate(labels):
            if label:
                groups.setdefault(label, []).append(index)
    return groups


def _decision_metrics(
    predicted: np.ndarray, labels: np.ndarray, groups: Mapping[str, list[int]]
) -> dict[str, dict[str, dict[str, float]]]:
    """F1, precision and recall of yes/no predictions bool [N, A], pooled and per attribute."""
    hits = (predicted & (labels == 1)).sum(axis=0)
    false = (predicted & (labels == 0)).sum(axis=0)
    positives = (labels == 1).sum(axis=0)
    single = _f1_precision_recall(hits, false, positives)
    # The OVAD evaluator leaves attributes whose precision and recall are both 0 out of the mean F1.
    single["f1"][(hits == 0) & (false > 0)] = np.nan
    overall, per_class = {}, {}
    for group, members in groups.items():
        counts = [count[members].sum(keepdims=True) for count in (hits, false, positives)]
        pooled = _f1_precision_recall(*counts)
        overall[group] = _present({key: float(value[0]) for key, value in pooled.items()})
        per_class[group] = _present({key: _mean(value[members]) for key, value in single.items()})
    return {"overall": overall, "per_class": per_class}


def _f1_precision_recall(
    hits: np.ndarray, false: np.ndarray, positives: np.ndarray
) -> dict[str, np.ndarray]:
    """Percent from counts [A]; precision is 1 where nothing is predicted, recall and F1 are NaN
    where nothing is positive."""
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(hits + false > 0, hits / (hits + false), 1.0)
        recall = np.where(positives > 0, hits / positives, np.nan)
        f1 = np.where(hits > 0, 2 * precision * recall / (precision + recall), 0 * recall)
    return {"f1": 100 * f1, "precision": 100 * precision, "recall": 100 * recall}


def _mean(values: np.ndarray) -> float:
    """Mean of the numbers that exist (are not NaN); NaN where none does."""
    existing = values[~np.isnan(values)]
    return float(existing.mean()) if existing.size else float("nan")


def _present(values: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in values.items() if not np.isnan(value)}
