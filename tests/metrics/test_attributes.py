from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynrefer.metrics.attributes import attribute_metrics, average_precision
from tests.metrics import loops
from tests.metrics.conftest import DATA

ATTRIBUTES = [
    {"name": "color:red", "type": "color", "parent_type": "color", "freq_set": "head"},
    {"name": "size:big/large", "type": "size", "parent_type": "size", "freq_set": "tail"},
]


@pytest.fixture(scope="module")
def ovad():
    with np.load(DATA / "ovad.npz") as arrays:
        return arrays["scores"], arrays["labels"]


def test_mean_average_precision_agrees_with_the_published_code(reference, ovad):
    case = reference("ovad.json")
    result = attribute_metrics(*ovad, case["attributes"])
    expected = {key.removeprefix("PCt0.3_ap/"): value for key, value in case["expected"].items()}
    assert result["map"] == pytest.approx(expected, abs=1e-6)


def test_decisions_agree_with_the_published_evaluator(reference, ovad):
    scores, labels = ovad
    # The evaluator picks among equal scores at random, so the case has none.
    distinct = scores.astype(np.float64) - 1e-6 * np.arange(scores.shape[1])
    case = reference("ovad_decisions.json")
    attributes = reference("ovad.json")["attributes"]
    for threshold, top_k in ((0.3, 8), (0.5, 15)):
        result = attribute_metrics(distinct, labels, attributes, threshold, top_k)
        for kind, number in (("threshold", threshold), ("top_k", top_k)):
            for pooling, groups in case[f"{kind} {number}"].items():
                assert set(result[kind][pooling]) == set(groups)
                for group, expected in groups.items():
                    assert result[kind][pooling][group] == pytest.approx(expected, abs=1e-6)


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.2, 0.5, 1.0]), st.booleans()), min_size=1))
def test_average_precision_agrees_with_a_plain_loop(pairs):
    scores, positive = (np.array(column) for column in zip(*pairs, strict=True))
    if positive.any():
        expected = loops.average_precision(scores.tolist(), positive.tolist())
        assert average_precision(scores, positive) == pytest.approx(expected)
    else:
        assert np.isnan(average_precision(scores, positive))


def test_unlabelled_boxes_and_attributes_without_a_positive_are_left_out():
    scores = np.array([[0.9, 0.1], [0.8, 0.7], [0.7, 0.9]], dtype=np.float32)
    labels = np.array([[1, 0], [-1, 0], [1, -1]])
    result = attribute_metrics(scores, labels, ATTRIBUTES)
    assert result["ap"] == {"color:red": 100.0}
    assert result["map"] == {"all": 100.0, "head": 100.0, "color": 100.0, "single": 100.0}
    assert "recall" not in result["threshold"]["per_class"]["tail"]


def test_attributes_may_be_objects_and_without_a_frequency():
    objects = [SimpleNamespace(**(attribute | {"freq_set": ""})) for attribute in ATTRIBUTES]
    scores, labels = np.array([[0.9, 0.1], [0.2, 0.7]]), np.array([[1, 1], [0, 0]])
    result = attribute_metrics(scores, labels, objects, top_k=1)
    assert result["map"] == {
        "all": 75.0,
        "color": 100.0,
        "size": 50.0,
        "single": 100.0,
        "multiple": 50.0,
    }
    best = {"f1": 50.0, "precision": 50.0, "recall": 50.0}
    assert result["top_k"]["overall"]["all"] == best
    assert result["threshold"]["overall"]["all"] == best


def test_a_score_equal_to_the_threshold_is_negative():
    scores, labels = np.array([[0.5, 0.75]]), np.array([[1, 1]])
    result = attribute_metrics(scores, labels, ATTRIBUTES, threshold=0.5)
    assert result["threshold"]["overall"]["all"]["recall"] == 50.0


def test_a_score_of_nothing_is_never_among_the_first():
    scores, labels = np.array([[0.0, 1.0], [0.0, 0.0]]), np.array([[0, 1], [0, 1]])
    result = attribute_metrics(scores, labels, ATTRIBUTES, top_k=2)["top_k"]["overall"]["all"]
    assert result["precision"] == 100.0 and result["recall"] == 50.0


def test_of_equal_scores_the_earlier_attribute_is_among_the_first():
    scores, labels = np.array([[0.5, 0.5]]), np.array([[1, 0]])
    result = attribute_metrics(scores, labels, ATTRIBUTES, top_k=1)["top_k"]["overall"]["all"]
    assert result["precision"] == result["recall"] == 100.0


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([[0.1, np.nan]], [[1, 0]], "score of row 0, attribute 'size:big/large' is nan"),
        ([[0.1, 0.2], [1.5, 0]], [[1, 0], [1, 0]], "row 1, attribute 'color:red' is 1.5"),
        ([[0.1, 0.2]], [[1, 2]], "label of row 0, attribute 'size:big/large' is 2"),
        ([[0.1, 0.2]], [[1, 0.9]], "label of row 0, attribute 'size:big/large' is 0.9"),
        ([[0.1, 0.2]], [[1]], r"got \(1, 2\) and \(1, 1\)"),
        ([[0.1]], [[1]], r"\[boxes, 2 attributes\].*got \(1, 1\)"),
        (np.zeros((0, 2)), np.zeros((0, 2)), r"got \(0, 2\)"),
    ],
)
def test_arrays_that_do_not_fit_are_named(scores, labels, message):
    with pytest.raises(ValueError, match=message):
        attribute_metrics(np.array(scores), np.array(labels), ATTRIBUTES)
