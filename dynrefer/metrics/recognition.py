"""Region recognition: accuracy of the class given the box, and COCO's box mAP."""

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dynrefer.metrics.instances import Instances, check_detections, read_instances

BOX_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
INSTANCE_KEYS = {
    "images": ("id",),
    "annotations": ("id", "image_id", "category_id", "bbox", "area", "iscrowd"),
    "categories": ("id",),
}


def top1_accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Fraction of N regions whose largest of C logits is the labelled class.

    logits float [N, C], labels int [N]. Raises ValueError for arrays that do not fit or are empty,
    NaN logits and labels outside 0 ... C-1.
    """
    return float(_correct(logits, labels, 1).mean())


def class_mean_accuracy(logits: np.ndarray, labels: np.ndarray, k: int = 1) -> float:
    """Mean over the classes that occur of the fraction with the class among the k largest logits.

    Inputs and errors as `top1_accuracy`.
    """
    correct = _correct(logits, labels, k)
    return float(np.mean([correct[labels == label].mean() for label in np.unique(labels)]))


def coco_box_metrics(
    instances: str | Path | dict[str, Any] | Instances, detections: Sequence[dict[str, Any]]
) -> dict[str, float]:
    """Box mAP by pycocotools over the images of an instances file.

    instances: a COCO instances file or its content; detections: dicts of image_id, category_id,
    bbox (x, y, width, height in pixels) and score. Returns fractions AP, AP50, AP75, APs, APm,
    APl; -1 where the ground truth has no object of that size, as COCOeval says. No detections
    give 0. Raises FileNotFoundError for a missing file, ValueError for a broken one and for
    detections that name an unknown image or category or hold values that are not finite.
    """
    read = read_instances(instances, INSTANCE_KEYS)
    dataset = read.content
    with contextlib.redirect_stdout(io.StringIO()):
        truth, predictions = COCO(), COCO()
        # Copies, for COCOeval writes into the annotations.
        truth.dataset = dataset | {"annotations": [dict(a) for a in dataset["annotations"]]}
        truth.createIndex()
        predictions.dataset = {
            "images": dataset["images"],
            "categories": dataset["categories"],
            "annotations": check_detections(detections, truth.imgs, truth.cats, read.source),
        }
        predictions.createIndex()
        evaluation = COCOeval(truth, predictions, iouType="bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(BOX_METRICS, map(float, evaluation.stats), strict=False))


def _correct(logits: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """bool [N]: the label is among the k largest logits (of equal ones, the first)."""
    logits, labels = np.asarray(logits), np.asarray(labels)
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not logits.size:
        raise ValueError(
            "logits must be [regions, classes] and labels [regions], not empty, "
            f"got {logits.shape} and {labels.shape}"
        )
    if np.isnan(logits).any():
        row, column = np.argwhere(np.isnan(logits))[0]
        raise ValueError(f"logit of region {row}, class {column} is NaN")
    outside = (labels < 0) | (labels >= logits.shape[1])
    if outside.any():
        row = int(np.argmax(outside))
        raise ValueError(
            f"label of region {row} is {labels[row]}; classes are 0 to {logits.shape[1] - 1}"
        )
    best = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    return (best == labels[:, None]).any(axis=1)
