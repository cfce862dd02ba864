"""Region recognition: accuracy of the class given the box."""

import numpy as np


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


def _correct(logits: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """bool [N]: the label is among the k largest logits (of equal ones, the first)."""
    logits, labels = np.asarray(logits), np.asarray(labels)
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not logits.size:
        valid = "logits must be [regions, classes] and labels [regions], not empty"
        raise ValueError(f"{valid}, got {logits.shape} and {labels.shape}")
    if np.isnan(logits).any():
        row, column = np.argwhere(np.isnan(logits))[0]
        raise ValueError(f"logit of region {row}, class {column} is NaN")
    outside = (labels < 0) | (labels >= logits.shape[1])
    if outside.any():
        row, last = int(np.argmax(outside)), logits.shape[1] - 1
        raise ValueError(f"label of region {row} is {labels[row]}; classes are 0 to {last}")
    best = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    return (best == labels[:, None]).any(axis=1)
