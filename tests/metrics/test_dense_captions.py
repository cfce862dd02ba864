import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynrefer.metrics.dense_captions import (
    IOU_THRESHOLDS,
    METEOR_THRESHOLDS,
    DenseCaptionImage,
    dense_caption_map,
    merge_ground_truth,
)
from tests.metrics import loops

WORDS = ("red", "red dog", "a red dog", "blue cat", "")
SQUARE = [0, 0, 10, 10]


@st.composite
def boxes(draw, least_side):
    x, y = draw(st.integers(0, 6)), draw(st.integers(0, 6))
    sides = st.integers(least_side, 12)
    return [x, y, x + draw(sides), y + draw(sides)]


@st.composite
def images(draw):
    truth = draw(st.lists(st.tuples(boxes(1), st.sampled_from(WORDS)), max_size=6))
    scores = st.sampled_from([0.1, 0.5, 0.9])  # few values, so that many are equal
    predicted = draw(st.lists(st.tuples(boxes(0), st.sampled_from(WORDS), scores), max_size=8))
    columns = [[row[column] for row in truth] for column in (0, 1)]
    columns += [[row[column] for row in predicted] for column in (0, 1, 2)]
    return DenseCaptionImage(*columns)


def test_dense_captions_agree_with_the_published_code(reference, meteor):
    case = reference("densecap.json")
    result = dense_caption_map((DenseCaptionImage(**r) for r in case["records"]), meteor)
    expected = case["expected"]
    assert result["map"] == pytest.approx(expected["map"], abs=1e-6)
    assert result["detmap"] == pytest.approx(expected["detmap"], abs=1e-6)
    for part in ("ap_breakdown", "det_breakdown"):
        assert result[part] == pytest.approx(expected[part], abs=1e-6)


@settings(deadline=None)
@given(st.lists(images(), min_size=1, max_size=4))
def test_dense_captions_agree_with_plain_loops(records):
    if not any(len(record.target_boxes) for record in records):
        with pytest.raises(ValueError, match="at least one ground truth"):
            dense_caption_map(records, loops.WordOverlap())
        return
    result = dense_caption_map(records, loops.WordOverlap())
    expected = loops.dense_caption_map(records, loops.WordOverlap())
    assert result["ap_breakdown"] == pytest.approx(expected["ap_breakdown"])
    assert result["det_breakdown"] == pytest.approx(expected["det_breakdown"])
    assert result["map"] == pytest.approx(expected["map"])
    assert result["detmap"] == pytest.approx(expected["detmap"])


@given(st.lists(boxes(1), max_size=8), st.sampled_from([0.3, 0.5, 0.7]))
def test_merging_agrees_with_plain_loops(given_boxes, threshold):
    captions = [str(index) for index in range(len(given_boxes))]
    array = np.array(given_boxes, dtype=np.float64).reshape(-1, 4)
    merged, pooled = merge_ground_truth(array, captions, threshold)
    expected = loops.merge_ground_truth(given_boxes, captions, threshold)
    assert pooled == [group for _, group in expected]
    np.testing.assert_allclose(merged, np.array([b for b, _ in expected]).reshape(-1, 4))


def test_merging_averages_boxes_and_pools_captions():
    pair = np.array([[0.0, 0, 10, 10], [50, 50, 60, 60], [0, 0, 10, 8]])
    merged, captions = merge_ground_truth(pair, ["a", "b", "c"])
    assert merged.tolist() == [[0, 0, 10, 9], [50, 50, 60, 60]]
    assert captions == [["a", "c"], ["b"]]


def test_an_overlap_equal_to_the_threshold_merges():
    halves = np.array([[0.0, 0, 10, 10], [0, 0, 10, 5]])
    assert merge_ground_truth(halves, ["a", "b"], 0.5)[1] == [["a", "b"]]
    assert merge_ground_truth(halves, ["a", "b"], 0.51)[1] == [["a"], ["b"]]


def test_what_is_merged_is_gone():
    """The third box overlaps the fourth, which stays alone, and is not left over beside it."""
    row = np.array([[x, 0.0, x + 10, 10] for x in (0, 2, 4, 6)])
    merged, captions = merge_ground_truth(row, list("abcd"), 0.6)
    assert captions == [["a", "b", "c"], ["d"]]
    assert merged.tolist() == [[2, 0, 12, 10], [6, 0, 16, 10]]


class Constant(loops.WordOverlap):
    """METEOR that says the same of all."""

    def __init__(self, score):
        super().__init__()
        self.score = score

    def scores(self, references, candidates):
        return self.score, [self.score] * len(candidates)


@pytest.mark.parametrize("iou", IOU_THRESHOLDS)
@pytest.mark.parametrize("score", METEOR_THRESHOLDS)
def test_thresholds_that_are_met_exactly(iou, score):
    """An IoU that is the threshold is enough, a METEOR that is the threshold is not."""
    image = DenseCaptionImage([SQUARE], ["a"], [[0, 0, 10, round(10 * iou)]], ["a"], [0.5])
    result = dense_caption_map([image], Constant(score))
    assert result["det_breakdown"] == {
        f"iou_{least}": float(least <= iou) for least in IOU_THRESHOLDS
    }
    assert result["ap_breakdown"] == {
        f"iou_{least}_meteor_{words}": float(least <= iou and words < score)
        for least in IOU_THRESHOLDS
        for words in METEOR_THRESHOLDS
    }


def test_of_equal_overlaps_the_first_box_is_taken():
    two, between = [SQUARE, [10, 0, 20, 10]], [5, 0, 15, 10]
    image = DenseCaptionImage(two, ["a", "b"], [between, SQUARE], ["a", "a"], [0.9, 0.8])
    assert dense_caption_map([image], loops.WordOverlap())["det_breakdown"]["iou_0.3"] == 0.51
    image = DenseCaptionImage(two, ["a", "b"], [between, two[1]], ["a", "b"], [0.9, 0.8])
    assert dense_caption_map([image], loops.WordOverlap())["det_breakdown"]["iou_0.3"] == 1.0


def test_boxes_and_scores_are_of_single_precision():
    """0.7 is a little less there, and what differs by 1e-9 comes in the given order."""
    image = DenseCaptionImage([[0, 0, 1, 1]], ["a"], [[0, 0, 1, 0.7]], ["a"], [0.5])
    assert dense_caption_map([image], loops.WordOverlap())["det_breakdown"]["iou_0.7"] == 0
    boxes, scores = [[50, 50, 60, 60], SQUARE], [0.5, 0.5 + 1e-9]
    image = DenseCaptionImage([SQUARE], ["a"], boxes, ["b", "a"], scores)
    assert dense_caption_map([image], loops.WordOverlap())["detmap"] == 0.5


def test_perfect_predictions_score_one():
    image = DenseCaptionImage([SQUARE], ["a red dog"], [SQUARE], ["a red dog"], [0.3])
    result = dense_caption_map([image], loops.WordOverlap())
    assert result["map"] == result["detmap"] == 1.0


def test_images_without_predictions_or_ground_truth_count():
    full = DenseCaptionImage([SQUARE], ["dog"], [SQUARE], ["dog"], [0.5])
    unpredicted = DenseCaptionImage([SQUARE], ["dog"], [], [], [])
    unlabelled = DenseCaptionImage([], [], [SQUARE], ["dog"], [0.9])
    assert dense_caption_map([full, unpredicted], loops.WordOverlap())["detmap"] == 0.51
    assert dense_caption_map([full, unlabelled], loops.WordOverlap())["detmap"] == 0.5
    assert dense_caption_map([unpredicted], loops.WordOverlap())["detmap"] == 0.0


def test_equal_pairs_are_scored_once_and_lost_predictions_never():
    image = DenseCaptionImage(
        [SQUARE, [50, 50, 60, 60]],
        ["dog", "cat"],
        [SQUARE, SQUARE, [50, 50, 52, 52], [80, 80, 90, 90]],
        ["dog", "second claim", "overlaps too little", "overlaps nothing"],
        [0.9, 0.8, 0.7, 0.6],
    )
    scorer = loops.WordOverlap()
    dense_caption_map([image, image], scorer)
    assert scorer.asked == [("dog", ("dog",))]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            ([SQUARE], ["a", "b"], [], [], []),
            r"image 7: .*target_text are not equally long: \[1, 2\]",
        ),
        (([], [], [SQUARE], ["a"], []), r"not equally long: \[1, 1, 0\]"),
        (([], [], [SQUARE], ["a"], [np.nan]), r"image 7: scores\[0\] is nan"),
        (([], [], [[0, 0, 5]], ["a"], [0.1]), r"boxes has shape \(1, 3\), not \[N, 4\]"),
        (([], [], [[5, 0, 0, 5]], ["a"], [0.1]), r"boxes\[0\] is \[5.0, 0.0, 0.0, 5.0\]"),
        (([SQUARE, [1, 1, 1, 4]], ["a", "b"], [], [], []), r"target_boxes\[1\] is \[1.0, 1.0"),
        (([[0, 0, np.inf, 1]], ["a"], [], [], []), r"target_boxes\[0\] is \[0.0, 0.0, inf"),
    ],
)
def test_broken_records_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        DenseCaptionImage(*values, image_id=7)
