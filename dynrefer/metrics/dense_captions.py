"""Dense captioning: mean average precision over pairs of an overlap and a METEOR threshold.

The protocol of DenseCap (Johnson et al., CVPR 2016), as published numbers on Visual Genome use it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torchvision.ops import box_iou

from dynrefer.metrics.java import Meteor

IOU_THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
METEOR_THRESHOLDS = (0, 0.05, 0.1, 0.15, 0.2, 0.25)
RECALL_LEVELS = 100


@dataclass
class DenseCaptionImage:
    """Ground truth and predictions of one image.

    target_boxes [M, 4] and boxes [N, 4] are xyxy pixels, target_text and text their captions,
    scores [N] the detector's or the caption's confidence; M or N may be 0. Boxes and scores are
    rounded to float32 first, as published. Raises ValueError, naming `image_id`, for lists of
    unequal length, NaN or infinite values, and boxes turned inside out (a ground truth box must
    also have an area).
    """

    target_boxes: Sequence[Sequence[float]] | np.ndarray
    target_text: Sequence[str]
    boxes: Sequence[Sequence[float]] | np.ndarray
    text: Sequence[str]
    scores: Sequence[float] | np.ndarray
    image_id: int | str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        where = f"image {self.image_id}"
        self.target_boxes = _checked_boxes(f"{where}: target_boxes", self.target_boxes, np.greater)
        self.boxes = _checked_boxes(f"{where}: boxes", self.boxes, np.greater_equal)
        self.scores = np.asarray(self.scores, dtype=np.float32).reshape(-1)
        for names in (("target_boxes", "target_text"), ("boxes", "text", "scores")):
            lengths = [len(getattr(self, name)) for name in names]
            if len(set(lengths)) > 1:
                raise ValueError(f"{where}: {', '.join(names)} are not equally long: {lengths}")
        finite = np.isfinite(self.scores)
        if not finite.all():
            index = int(np.argmin(finite))
            raise ValueError(f"{where}: scores[{index}] is {self.scores[index]}, not a number")


def _checked_boxes(what: str, given: Sequence | np.ndarray, is_side: np.ufunc) -> np.ndarray:
    """Boxes float64 [N, 4] in single precision, whose sides compare to 0 by ``is_side``."""
    values = np.asarray(given, dtype=np.float32).astype(np.float64)
    boxes = values.reshape(0, 4) if values.size == 0 else values
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{what} has shape {boxes.shape}, not [N, 4]")
    valid = is_side(boxes[:, 2:], boxes[:, :2]).all(axis=1) & np.isfinite(boxes).all(axis=1)
    if not valid.all():
        index = int(np.argmin(valid))
        valid = "a box x1, y1, x2, y2 with x1 < x2 and y1 < y2"
        raise ValueError(f"{what}[{index}] is {boxes[index].tolist()}, not {valid}")
    return boxes


def merge_ground_truth(
    boxes: np.ndarray, captions: Sequence[str], threshold: float = 0.7
) -> tuple[np.ndarray, list[list[str]]]:
    """Joins annotations of one object: boxes are averaged, captions pooled.

    boxes [M, 4] xyxy pixels, M captions. Greedy: the box that overlaps most remaining boxes by
    IoU >= threshold goes first (the earliest of equals) and takes them all along.
    Returns boxes float64 [K, 4] and K lists of captions, in the order of merging.
    """
    neighbours = pairwise_iou(boxes, boxes) >= threshold
    counts = neighbours.sum(axis=0)
    groups = []
    while counts.size and counts.max() > 1:
        groups.append(np.flatnonzero(neighbours[np.argmax(counts)]))
        neighbours[groups[-1]] = False
        neighbours[:, groups[-1]] = False
        counts = neighbours.sum(axis=0)
    groups += [[single] for single in np.flatnonzero(counts)]
    means = np.array([boxes[members].mean(axis=0) for members in groups]).reshape(-1, 4)
    return means, [[captions[member] for member in members] for members in groups]


def dense_caption_map(images: Iterable[DenseCaptionImage], meteor: Meteor) -> dict:
    """mAP of predicted boxes with captions, and of the boxes alone.

    Predictions of all images are ranked by score (equal ones in the given order); each takes the
    merged ground truth box it overlaps most, and a ground truth box serves once. A prediction is
    right if it came first, overlaps by at least the IoU threshold and its METEOR is above the
    METEOR threshold. Ground truth of images without predictions counts as missed, predictions in
    images without ground truth as wrong; the release leaves both kinds of image out.

    `meteor` is any object with the method `Meteor.scores`; each distinct pair of caption and
    references is sent once, and only for predictions that can still be right.
    Returns fractions: "map", "ap_breakdown" {"iou_0.3_meteor_0.05": ...}, "detmap" and
    "det_breakdown" {"iou_0.3": ...}. Raises ValueError where there is no ground truth at all.
    """
    scores, overlaps, targets = [], [], []
    texts: list[str] = []
    references: list[list[str]] = []
    for image in images:
        merged_boxes, merged_captions = merge_ground_truth(image.target_boxes, image.target_text)
        overlap, target = _best_target(image.boxes, merged_boxes)
        scores.append(image.scores)
        overlaps.append(overlap)
        targets.append(target + len(references))
        texts.extend(image.text)
        references.extend(merged_captions)
    if not references:
        raise ValueError("dense captioning needs at least one ground truth box, got none")

    # The stable sort keeps the given order of equal scores; torch.sort, which the release uses,
    # orders them differently from machine to machine.
    order = np.argsort(-np.concatenate(scores), kind="stable")
    overlap, target = np.concatenate(overlaps)[order], np.concatenate(targets)[order]
    first = np.zeros(len(order), dtype=bool)
    touching = np.flatnonzero(overlap > 0)
    first[touching[np.unique(target[touching], return_index=True)[1]]] = True
    candidates = np.flatnonzero(first & (overlap >= IOU_THRESHOLDS[0]))
    pairs = [(texts[order[rank]], tuple(references[target[rank]])) for rank in candidates]
    score = dict.fromkeys(pairs, -1.0)  # each distinct pair once
    if pairs:
        _, each = meteor.scores([list(accepted) for _, accepted in score], [c for c, _ in score])
        score = dict(zip(score, each, strict=True))
    similarity = np.full(len(order), -1.0)
    similarity[candidates] = [score[pair] for pair in pairs]

    detection, captioning = {}, {}
    for iou in IOU_THRESHOLDS:
        found = first & (overlap >= iou)
        detection[f"iou_{iou}"] = _average_precision(found, len(references))
        for least in METEOR_THRESHOLDS:
            precision = _average_precision(found & (similarity > least), len(references))
            captioning[f"iou_{iou}_meteor_{least}"] = precision
    return {
        "map": sum(captioning.values()) / len(captioning),
        "ap_breakdown": captioning,
        "detmap": sum(detection.values()) / len(detection),
        "det_breakdown": detection,
    }


def pairwise_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """IoU [N, M] of boxes float [N, 4] with boxes float [M, 4], all xyxy in pixels."""
    return box_iou(torch.from_numpy(first), torch.from_numpy(second)).numpy()


def _best_target(boxes: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Largest IoU [N] of each box and the index [N] of its target; 0 where there is none."""
    if not len(targets):
        return np.zeros(len(boxes)), np.zeros(len(boxes), dtype=np.int64)
    iou = pairwise_iou(boxes, targets)
    return iou.max(axis=1), iou.argmax(axis=1)


def _average_precision(right: np.ndarray, num_targets: int) -> float:
    """Mean over recall 0, .01 ... .99 of the best precision at that recall or a higher one.

    right [P] says in ranked order which predictions are right. Recall levels are compared as
    integers, so that no rounding decides whether a level is reached.
    """
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(right) + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    reached_at = np.searchsorted(RECALL_LEVELS * hits, num_targets * np.arange(RECALL_LEVELS))
    return float(np.append(best_from_here, 0.0)[reached_at].mean())
