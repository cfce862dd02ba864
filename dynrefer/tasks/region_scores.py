"""How well single regions were predicted: cheap scores that order the regions of a report.

They are not the benchmarks' metrics, which have no value for one region alone or need Java for it.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dynrefer.datasets.annotations import RegionRecord
from dynrefer.metrics.attributes import average_precision
from dynrefer.metrics.dense_captions import pairwise_iou

WORD = re.compile(r"\w+")


class RegionWords(NamedTuple):
    """What a report says of one region: lines of what was predicted, and of what is true."""

    said: list[str]
    true: list[str]


def token_f1(caption: str, references: Sequence[str]) -> float:
    """Harmonic mean of the shares of common words, against the best reference, in [0, 1].

    Words in lower case, each as often as it occurs; 0 where there is no reference with a word.
    """
    words = _words(caption)
    every = [(true, 2 * (words & true).total()) for true in map(_words, references)]
    scores = (common / (words + true).total() for true, common in every if common)
    return max(scores, default=0.0)


def _words(text: str) -> Counter[str]:
    return Counter(WORD.findall(text.lower()))


def most_overlapping(
    region: RegionRecord, annotated: Sequence[RegionRecord]
) -> tuple[RegionRecord | None, float]:
    """The annotated region with captions that a region overlaps most, and their IoU.

    None and 0 where it overlaps none.
    """
    targets = [target for target in annotated if target.captions]
    if not targets:
        return None, 0.0
    box = np.array([region.box], dtype=np.float64)
    iou = pairwise_iou(box, np.array([target.box for target in targets], dtype=np.float64))[0]
    best = int(iou.argmax())
    return (targets[best], float(iou[best])) if iou[best] > 0 else (None, 0.0)


def label_precision(scores: Sequence[float], labels: Sequence[int]) -> float | None:
    """Average precision of the positive labels in the order of the scores, in [0, 1].

    Labels are 1, 0 or -1 (not labelled, left out); None where no label is positive.
    """
    kept = np.asarray(labels) >= 0
    positive = np.asarray(labels)[kept] == 1
    return average_precision(np.asarray(scores)[kept], positive) if positive.any() else None


def class_margin(logits: Sequence[float], label: int) -> float:
    """The labelled class's logit minus the largest other one: above 0 where the class is right.

    0 where there is no other class.
    """
    others = [value for index, value in enumerate(logits) if index != label]
    return logits[label] - max(others, default=logits[label])
