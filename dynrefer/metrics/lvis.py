"""LVIS box AP (Gupta et al., CVPR 2019): average precision over federated annotations.

An image of LVIS is annotated for some categories only. For each it says which ones it holds (they
have boxes), which ones it certainly does not (``neg_category_ids``) and of which not every object
is marked (``not_exhaustive_category_ids``). A detection of any other category says nothing and is
left out; one that no box matches, in a category that is not exhaustively marked, is neither right
nor wrong. The rest is COCO's box AP, with up to 300 detections an image whatever their category.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask

from dynrefer.metrics.instances import Instances, check_detections, read_instances

LVIS_KEYS = {
    "images": ("id", "neg_category_ids", "not_exhaustive_category_ids"),
    "annotations": ("id", "image_id", "category_id", "bbox", "area"),
    "categories": ("id", "frequency"),
}
MAX_DETECTIONS = 300
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_LEVELS = np.linspace(0, 1, 101)
# Any size, then small, medium and large, in pixels.
AREAS = np.array([(0, 1e5**2), (0, 32**2), (32**2, 96**2), (96**2, 1e5**2)])
FREQUENCIES = ("r", "c", "f")


@dataclass(frozen=True)
class _Matches:
    """What became of N detections of one category, for T IoU thresholds and A ranges of area.

    ``right`` and ``wrong`` are bool [T, A, N] (a detection may be neither), ``scores`` [N];
    ``targets`` [A] counts the objects that should be found.
    """

    scores: np.ndarray
    right: np.ndarray
    wrong: np.ndarray
    targets: np.ndarray


def lvis_box_metrics(
    instances: str | Path | dict[str, Any] | Instances,
    detections: Sequence[dict[str, Any]],
    image_ids: Collection[int | str] | None = None,
) -> dict[str, float]:
    """Box AP over the images of an LVIS annotation file.

    Args:
        instances: an annotation file of LVIS v1, or its content.
        detections: dicts of image_id, category_id, bbox (x, y, width, height in pixels) and score.
        image_ids: the images that count; None for all.

    Returns:
        Fractions AP, AP50, AP75, APs, APm, APl (by size), APr, APc, APf (rare, common, frequent
        categories); -1 where the ground truth has no such object.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is broken, or a detection names an unknown image or category or holds values
            that are not finite.
    """
    read = read_instances(instances, LVIS_KEYS)
    content = read.content
    images = {image["id"]: image for image in content["images"]}
    categories = {category["id"]: category["frequency"] for category in content["categories"]}
    checked = check_detections(detections, images, categories, read.source)
    counted = set(images if image_ids is None else image_ids)
    truth = _by_category_and_image(a for a in content["annotations"] if a["image_id"] in counted)
    found = _by_category_and_image(
        d for d in _best(checked) if d["image_id"] in counted and _says_something(d, truth, images)
    )
    precision = {
        category: _precision(_match_category(category, truth[category], found[category], images))
        for category in sorted(truth)
    }
    metrics = {
        "AP": _mean(p[:, 0] for p in precision.values()),
        "AP50": _mean(p[0, 0] for p in precision.values()),
        "AP75": _mean(p[5, 0] for p in precision.values()),
    }
    for area, name in enumerate(("APs", "APm", "APl"), start=1):
        metrics[name] = _mean(p[:, area] for p in precision.values())
    for frequency in FREQUENCIES:
        of_it = [p[:, 0] for key, p in precision.items() if categories[key] == frequency]
        metrics[f"AP{frequency}"] = _mean(of_it)
    return metrics


def _by_category_and_image(records: Iterable[dict]) -> dict[int, dict[int | str, list[dict]]]:
    groups: dict = defaultdict(lambda: defaultdict(list))
    for record in records:
        groups[record["category_id"]][record["image_id"]].append(record)
    return groups


def _best(detections: Iterable[dict]) -> Iterable[dict]:
    """The detections with the highest scores of each image."""
    by_image = defaultdict(list)
    for detection in detections:
        by_image[detection["image_id"]].append(detection)
    for of_image in by_image.values():
        yield from sorted(of_image, key=lambda d: -d["score"])[:MAX_DETECTIONS]


def _says_something(detection: dict, truth: dict, images: dict) -> bool:
    """Whether the image is annotated for the detection's category."""
    image, category = detection["image_id"], detection["category_id"]
    holds = category in truth and image in truth[category]
    return holds or category in images[image]["neg_category_ids"]


def _match_category(category: int, truth: dict, found: dict, images: dict) -> _Matches:
    """Matches of all images, in the order of their ids."""
    parts = [
        _match_image(
            truth.get(image, []),
            found.get(image, []),
            category not in images[image]["not_exhaustive_category_ids"],
        )
        for image in sorted({*truth, *found})
    ]
    return _Matches(
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.right for part in parts], axis=2),
        np.concatenate([part.wrong for part in parts], axis=2),
        np.sum([part.targets for part in parts], axis=0),
    )


def _match_image(truth: list[dict], found: list[dict], exhaustive: bool) -> _Matches:
    """Detections of one category in one image, from the highest score down, each to a free box.

    A detection takes the box that it overlaps most of those that count, by the threshold at least,
    and only without such a one a box that does not count (outside the range of area, or marked).
    """
    found = sorted(found, key=lambda detection: -detection["score"])
    outside = _outside(found)
    left_out = _outside(truth) | np.array([bool(box.get("ignore")) for box in truth], dtype=bool)
    overlap = np.zeros((len(found), len(truth)))
    if truth and found:
        overlap = mask.iou(
            [d["bbox"] for d in found], [t["bbox"] for t in truth], [False] * len(truth)
        )
    free = np.ones((len(IOU_THRESHOLDS), len(AREAS), len(truth)), dtype=bool)
    right = np.zeros((len(IOU_THRESHOLDS), len(AREAS), len(found)), dtype=bool)
    wrong = np.repeat(~(outside | (not exhaustive))[None], len(IOU_THRESHOLDS), axis=0)
    for number, row in enumerate(overlap) if truth else ():
        fits = free & (row >= IOU_THRESHOLDS[:, None, None])
        counts = fits & ~left_out
        choice = np.where(counts.any(axis=2, keepdims=True), counts, fits)
        # The last one of equal overlaps, as the published scorer has it.
        best = len(truth) - 1 - np.where(choice, row, -1.0)[..., ::-1].argmax(axis=2)
        threshold, area = np.nonzero(fits.any(axis=2))
        box = best[threshold, area]
        free[threshold, area, box] = False
        right[threshold, area, number] = ~left_out[area, box]
        wrong[threshold, area, number] = False
    scores = np.array([detection["score"] for detection in found], dtype=np.float64)
    return _Matches(scores, right, wrong, (~left_out).sum(axis=1))


def _outside(records: list[dict]) -> np.ndarray:
    """bool [A, N]: the record's area is outside of the range."""
    areas = np.array([record["area"] for record in records], dtype=np.float64)
    return (areas < AREAS[:, :1]) | (areas > AREAS[:, 1:])


def _precision(matches: _Matches) -> np.ndarray:
    """Precision [T, A, R] at each recall level or a higher one; -1 where there is no object."""
    order = np.argsort(-matches.scores, kind="stable")
    hits = matches.right[..., order].cumsum(axis=2)
    misses = matches.wrong[..., order].cumsum(axis=2)
    precision = hits / (hits + misses + np.spacing(1))
    best_from_here = np.maximum.accumulate(precision[..., ::-1], axis=2)[..., ::-1]
    result = np.full((*hits.shape[:2], len(RECALL_LEVELS)), -1.0)
    for area in np.flatnonzero(matches.targets):
        for threshold in range(len(IOU_THRESHOLDS)):
            recall = hits[threshold, area] / matches.targets[area]
            reached_at = np.searchsorted(recall, RECALL_LEVELS)
            values = np.append(best_from_here[threshold, area], 0.0)
            result[threshold, area] = values[reached_at]
    return result


def _mean(parts: Iterable[np.ndarray]) -> float:
    """Mean of the precisions that exist, -1 where none does."""
    values = [part[part > -1] for part in parts]
    existing = np.concatenate(values) if values else np.zeros(0)
    return float(existing.mean()) if existing.size else -1.0
