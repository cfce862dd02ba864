"""Dense captioning where the boxes are a detector's: another file says what is true."""

import json

import numpy as np
import pytest

from dynrefer.datasets.annotations import AnnotationIndex
from dynrefer.metrics.dense_captions import DenseCaptionImage, dense_caption_map
from dynrefer.tasks import dense_captioning
from dynrefer.tasks.dense_captioning import DenseCaptioning
from dynrefer.tasks.ground_truth import GroundTruth
from tests.metrics.loops import WordOverlap
from tests.tasks.conftest import VOCABULARIES

TRUE = {
    1: [([0, 0, 20, 20], "a red dog"), ([30, 30, 30, 20], "a big cat")],
    2: [([5, 5, 40, 40], "a bird")],
    3: [([10, 10, 20, 20], "a fish")],
}
# Image -> id, box xywh, detector's score; image 3 has none.
FOUND = {
    1: [(1, [1, 1, 20, 20], 0.9), (2, [31, 29, 30, 20], 0.2), (3, [0, 40, 9, 9], 0.6)],
    2: [(4, [4, 5, 40, 40], 0.5)],
}
SAID = {1: "a red dog", 2: "a cat", 3: "a red dog", 4: "one bird of many feathers"}


@pytest.fixture(autouse=True)
def no_java(monkeypatch):
    monkeypatch.setattr(dense_captioning, "Meteor", WordOverlap)


def write(path, images, annotations):
    records = [{"id": i, "file_name": f"{i}.png", "width": 64, "height": 64} for i in images]
    path.write_text(json.dumps({"images": records, "annotations": annotations}))
    return AnnotationIndex.open(path)


@pytest.fixture
def truth_of(tmp_path):
    def make(scores=True, images=(1, 2), change=lambda annotation: None, **options):
        annotated, found = [], []
        for image_id, regions in TRUE.items():
            for box, caption in regions:
                annotated.append(
                    {"id": len(annotated), "image_id": image_id, "bbox": box, "caption": caption}
                )
        for image_id, boxes in FOUND.items():
            for id_, box, score in boxes:
                extra = {"grit_result": {"score": score}} if scores else {}
                found.append({"id": id_, "image_id": image_id, "bbox": box, "extra_info": extra})
                change(found[-1])
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        return GroundTruth(
            write(folder / "found.json", images, found),
            VOCABULARIES,
            annotated=write(folder / "true.json", TRUE, annotated),
            **options,
        )

    return make


def predictions(confidence=lambda id_: id_ / 10):
    return {id_: {"id": id_, "caption": SAID[id_], "score": confidence(id_)} for id_ in SAID}


def by_hand(images, scores):
    """The metric of the given images, with the predictions' scores by id."""
    return dense_caption_map(
        [
            DenseCaptionImage(
                [corners(box) for box, _ in TRUE[image]],
                [caption for _, caption in TRUE[image]],
                np.array([corners(box) for _, box, _ in FOUND.get(image, [])]).reshape(-1, 4),
                [SAID[id_] for id_, _, _ in FOUND.get(image, [])],
                [scores[id_] for id_, _, _ in FOUND.get(image, [])],
            )
            for image in images
        ],
        WordOverlap(),
    )


def corners(box):
    x, y, w, h = box
    return [x, y, x + w, y + h]


DETECTOR = {id_: score for boxes in FOUND.values() for id_, _, score in boxes}
CAPTION = {id_: id_ / 10 for id_ in SAID}


def test_the_detectors_score_takes_the_captions_place(truth_of):
    metrics = DenseCaptioning().evaluate(predictions(), truth_of())
    expected = by_hand(TRUE, DETECTOR)
    assert metrics["mAP"] == pytest.approx(100 * expected["map"])
    assert metrics["detection mAP"] == pytest.approx(100 * expected["detmap"])
    assert 10 < metrics["mAP"] < metrics["detection mAP"] < 90
    product = by_hand(TRUE, {id_: DETECTOR[id_] * CAPTION[id_] for id_ in SAID})
    assert product["map"] != expected["map"] != by_hand(TRUE, CAPTION)["map"]


def test_boxes_without_a_score_have_the_captions(truth_of):
    metrics = DenseCaptioning().evaluate(predictions(), truth_of(scores=False))
    assert metrics["mAP"] == pytest.approx(100 * by_hand(TRUE, CAPTION)["map"])


def test_images_without_a_box_count_as_missed(truth_of):
    """Whether the detector's file lists them or not."""
    listed = DenseCaptioning().evaluate(predictions(), truth_of(images=(1, 2, 3)))
    assert listed == DenseCaptioning().evaluate(predictions(), truth_of())
    assert listed["mAP"] < 100 * by_hand([1, 2], DETECTOR)["map"]


def test_a_limit_of_images_holds_on_both_sides(truth_of):
    first = {id_: value for id_, value in predictions().items() if id_ < 4}
    metrics = DenseCaptioning().evaluate(first, truth_of(max_images=1))
    assert metrics["mAP"] == pytest.approx(100 * by_hand([1], DETECTOR)["map"])


def test_every_box_needs_a_prediction(truth_of):
    said = predictions()
    del said[3]
    with pytest.raises(ValueError, match="dense_captioning: region 3 has no prediction"):
        DenseCaptioning().evaluate(said, truth_of())


def test_images_that_the_truth_does_not_have(truth_of):
    truth = truth_of(images=(1, 2, 9))
    with pytest.raises(ValueError, match=r"found.json: 1 images are not in .*true.json, .* id 9"):
        DenseCaptioning().evaluate(predictions(), truth)


def test_a_detectors_score_of_nothing_is_a_score(truth_of):
    def change(annotation):
        if annotation["id"] == 3:
            annotation["extra_info"]["grit_result"]["score"] = 0

    metrics = DenseCaptioning().evaluate(predictions(), truth_of(change=change))
    expected, captions = (by_hand(TRUE, DETECTOR | {3: score}) for score in (0, CAPTION[3]))
    assert metrics["mAP"] == pytest.approx(100 * expected["map"])
    assert expected["map"] != captions["map"]


@pytest.mark.parametrize("score", ["high", True, [0.5]])
def test_scores_that_are_no_numbers(truth_of, score):
    def change(annotation):
        annotation["extra_info"]["grit_result"]["score"] = score

    with pytest.raises(ValueError, match="region 1: extra_info.grit_result.score must be a finite"):
        DenseCaptioning().evaluate(predictions(), truth_of(change=change))


def test_annotated_boxes_are_their_own_truth(make_truth):
    pairs = list(make_truth().annotated_images())
    assert len(pairs) == 2 and all(annotated == predicted for annotated, predicted in pairs)
