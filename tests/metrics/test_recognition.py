import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynrefer.metrics.recognition import class_mean_accuracy, top1_accuracy


@given(st.lists(st.tuples(st.lists(st.integers(0, 3), min_size=4, max_size=4), st.integers(0, 3))))
def test_accuracies_agree_with_plain_loops(rows):
    if not rows:
        with pytest.raises(ValueError, match="not empty"):
            top1_accuracy(np.zeros((0, 4)), np.zeros(0, dtype=int))
        return
    logits, labels = np.array([row for row, _ in rows], float), np.array([c for _, c in rows])
    hits = [row.index(max(row)) == label for row, label in rows]
    by_class = [[h for h, (_, c) in zip(hits, rows, strict=True) if c == k] for k in range(4)]
    expected = np.mean([np.mean(group) for group in by_class if group])
    assert top1_accuracy(logits, labels) == pytest.approx(np.mean(hits))
    assert class_mean_accuracy(logits, labels) == pytest.approx(expected)
    assert class_mean_accuracy(logits, labels, k=4) == 1.0


def test_of_equal_logits_the_first_class_counts():
    logits, labels = np.zeros((2, 80)), np.array([0, 79])
    assert top1_accuracy(logits, labels) == 0.5
    assert class_mean_accuracy(logits, labels, k=79) == 0.5


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ([[0.1, np.nan]], [0], "logit of region 0, class 1 is NaN"),
        ([[0.1, 0.2]], [2], "label of region 0 is 2; classes are 0 to 1"),
        ([[0.1, 0.2]], [0, 1], r"got \(1, 2\) and \(2,\)"),
    ],
)
def test_logits_that_do_not_fit_are_named(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        top1_accuracy(np.array(logits), np.array(labels))
