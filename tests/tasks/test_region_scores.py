from dataclasses import replace

import pytest

from dynrefer.datasets.annotations import RegionRecord
from dynrefer.registry import registry
from dynrefer.tasks.region_scores import (
    class_margin,
    label_precision,
    most_overlapping,
    token_f1,
)


@pytest.mark.parametrize(
    ("caption", "references", "score"),
    [
        ("a red dog", ["a red dog"], 1.0),
        ("A red, dog!", ["a red dog"], 1.0),
        ("a red dog", ["a dog"], 0.8),  # precision 2/3, recall 1
        ("a red dog", ["two cats", "a dog"], 0.8),  # the best reference counts
        ("dog dog dog", ["a dog"], 0.4),  # a word counts as often as it occurs in both
        ("a dog a cat", ["a dog a cat"], 1.0),
        ("a cat", ["the dog"], 0.0),
        ("", ["a dog"], 0.0),
        ("a dog", [], 0.0),
        ("a dog", ["!?"], 0.0),
        ("", ["!?"], 0.0),
        ("un café", ["un café noir"], 0.8),
    ],
)
def test_token_f1(caption, references, score):
    assert token_f1(caption, references) == pytest.approx(score)


@pytest.mark.parametrize(
    ("scores", "labels", "precision"),
    [
        ([0.9, 0.1], [1, 0], 1.0),
        ([0.1, 0.9], [1, 0], 0.5),
        ([0.9, 0.5, 0.1], [1, 0, 1], (1 + 2 / 3) / 2),
        ([0.1, 0.9, 0.5], [1, -1, 0], 0.5),  # what is not labelled does not count
        ([0.5, 0.5], [1, 0], 0.5),
        ([0.9, 0.1], [0, -1], None),
        ([], [], None),
    ],
)
def test_label_precision(scores, labels, precision):
    assert label_precision(scores, labels) == (precision and pytest.approx(precision))


@pytest.mark.parametrize(
    ("logits", "label", "margin"),
    [([3.0, 1.0, 2.0], 0, 1.0), ([3.0, 1.0, 2.0], 1, -2.0), ([2.0, 2.0], 0, 0.0), ([5.0], 0, 0.0)],
)
def test_class_margin(logits, label, margin):
    assert class_margin(logits, label) == margin


def region(box, *captions):
    return RegionRecord(1, 1, box, captions[0] if captions else "", captions, {})


def test_the_region_that_is_overlapped_most():
    near, far, silent = (
        region((0, 0, 10, 10), "near"),
        region((50, 50, 60, 60), "far"),
        region((0, 0, 10, 5)),
    )
    predicted = region((0, 0, 10, 5))
    assert most_overlapping(predicted, [far, near, silent]) == (near, 0.5)  # only with captions
    assert most_overlapping(predicted, [far]) == (None, 0.0)
    assert most_overlapping(predicted, [silent]) == (None, 0.0)
    assert most_overlapping(predicted, []) == (None, 0.0)
    twin = region((0, 0, 10, 10), "twin")
    assert most_overlapping(predicted, [near, twin])[0] is near  # the first of equals
    touching = region((10, 0, 20, 10), "only the edge")
    assert most_overlapping(predicted, [touching]) == (None, 0.0)


def scores_of(name, predictions, truth):
    """Region scores of a task, and its words of every region."""
    task = registry.get("task", name)()
    words = {one.id: task.region_words(predictions, one, truth) for one in truth.regions()}
    return task.region_scores(predictions, truth), words


def test_captions_of_regions(make_truth, perfect):
    def without_some(annotation):
        if annotation["id"] == 13:
            annotation["caption"] = ""

    perfect[11]["caption"], perfect[12]["caption"] = "a dog", ""
    scores, words = scores_of("region_captioning", perfect, make_truth(without_some))
    assert scores == {10: 1.0, 11: pytest.approx(0.4), 12: 0.0}
    assert words[11].said == ["a dog"] and words[11].true == ["a big cat"]
    assert words[12].said == ["(empty)"] and words[13].true == []


def test_attributes_of_regions(make_truth, perfect):
    perfect[11]["attributes"] = [0.9, 0.1]  # of labels 0 and 1
    scores, words = scores_of("attribute_detection", perfect, make_truth())
    assert scores == {10: 1.0, 11: 0.5, 12: 1.0, 13: 1.0}
    assert words[11].said == ["color:red 0.90 (wrong)", "size:big/large 0.10 (right)"]
    assert words[11].true == ["size:big/large 0.10 (rank 2)"]
    assert words[12].said[1] == "size:big/large 0.10 (not labelled)"


def test_ranks_are_among_the_labelled_attributes(make_truth, perfect):
    """An attribute that is not labelled has no place before a positive one."""
    perfect[12]["attributes"] = [0.5, 0.9]  # of labels 1 and -1
    _, words = scores_of("attribute_detection", perfect, make_truth())
    assert words[12].said == ["size:big/large 0.90 (not labelled)", "color:red 0.50 (right)"]
    assert words[12].true == ["color:red 0.50 (rank 1)"]


def test_of_equal_scores_the_first_is_shown_first(make_truth, perfect):
    perfect[11] |= {"attributes": [0.5, 0.5], "class_logits": [1.0, 1.0, 1.0]}
    _, words = scores_of("attribute_detection", perfect, make_truth())
    assert words[11].true == ["size:big/large 0.50 (rank 2)"]
    _, words = scores_of("region_recognition", perfect, make_truth())
    assert words[11].said == ["dog 1.00", "cat 1.00", "Bird 1.00"]


def test_attributes_without_labels(make_truth, perfect):
    def unlabelled(annotation):
        if annotation["id"] == 10:
            annotation["extra_info"]["ovad_result"]["att_vec"] = [0, -1]
        if annotation["id"] == 11:
            del annotation["extra_info"]["ovad_result"]

    task = registry.get("task", "attribute_detection")()
    assert set(task.region_scores(perfect, make_truth(unlabelled))) == {12, 13}


def test_classes_of_regions(make_truth, perfect):
    perfect[11]["class_logits"] = [3.0, 1.0, 0.0]  # dog, cat (the label), bird
    scores, words = scores_of("region_recognition", perfect, make_truth())
    assert scores == {10: 2.0, 11: -2.0, 12: 2.0, 13: 2.0}
    assert words[11].said == ["dog 3.00", "cat 1.00", "Bird 0.00"]
    assert words[11].true == ["cat 1.00"]


def test_classes_without_labels(make_truth, perfect):
    def unlabelled(annotation):
        del annotation["extra_info"]["coco_result"]

    scores, words = scores_of("region_recognition", perfect, make_truth(unlabelled))
    assert scores == {} and words[10].true == [] and words[10].said[0] == "dog 2.00"


def test_missing_predictions_are_named(make_truth, perfect):
    del perfect[12]["caption"]
    task = registry.get("task", "region_captioning")()
    with pytest.raises(ValueError, match="region_captioning: region 12 has no caption"):
        task.region_scores(perfect, make_truth())


@pytest.fixture
def detections(make_truth):
    """The boxes of a detector, without captions: the annotated ones, moved or lost."""
    boxes = {10: [0, 0, 20, 10], 11: [30, 30, 30, 20], 12: [46, 46, 10, 10], 13: [50, 0, 14, 30]}

    def moved(annotation):
        annotation["id"] += 100
        annotation["bbox"] = boxes[annotation["id"] - 100]
        annotation["caption"] = ""

    return replace(make_truth(moved), annotated=make_truth().index)


def test_captions_of_a_detectors_boxes(detections):
    said = {110: "a red dog", 111: "a cat", 112: "a bird", 113: "two mice"}
    predictions = {id_: {"id": id_, "caption": text} for id_, text in said.items()}
    scores, words = scores_of("dense_captioning", predictions, detections)
    # half the box; two words of three and two; no overlap; no common word
    assert scores == {110: 0.5, 111: pytest.approx(0.8), 112: 0.0, 113: 0.0}
    task = registry.get("task", "dense_captioning")()
    for one in detections.regions():
        assert task.region_score(predictions, one, detections) == scores[one.id]
    assert words[110].true == ["a red dog (IoU 0.50)"] and words[110].said == ["a red dog"]
    assert words[112].true == [] and words[113].true == ["a dog (IoU 1.00)"]


def test_dense_captions_of_annotated_boxes(make_truth, perfect):
    dense, _ = scores_of("dense_captioning", perfect, make_truth())
    assert dense == scores_of("region_captioning", perfect, make_truth())[0]
