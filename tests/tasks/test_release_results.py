"""Result files of the published code, as its evaluation writes them."""

import json

import pytest

from dynrefer.tasks import captioning
from dynrefer.tasks.attributes import AttributeDetection
from dynrefer.tasks.captioning import RegionCaptioning
from dynrefer.tasks.recognition import RegionRecognition
from dynrefer.tasks.task import read_predictions
from tests.tasks.conftest import VOCABULARIES

PREDICTED = {
    "caption": "a red dog",
    "score": 0.25,
    "tag_set1": ["dog", "grass"],
    "tag_set2": ["dog", "grass"],
    "attr": [0.9, 0.1],
    "cls": [1.5, -2.0, 0.5],
}
READ = {
    "caption": "a red dog",
    "score": 0.25,
    "tags": ["dog", "grass"],
    "attributes": [0.9, 0.1],
    "class_logits": [1.5, -2.0, 0.5],
}


def write(path, content):
    path.write_text(json.dumps(content))
    return path


def annotation(id_, extra_info):
    return {
        "id": id_,
        "image_id": 1,
        "bbox": [0, 0, 9, 9],
        "caption": "x",
        "extra_info": extra_info,
    }


def test_an_annotation_file_with_predictions(tmp_path):
    """What the release writes: its annotation file, with the prediction in each annotation."""
    content = {
        "dataset": {"image_root": "data/x"},
        "images": [{"id": 1}],
        "annotations": [
            annotation(4, {"coco_result": {"category": "dog"}, "pred_result": PREDICTED}),
            annotation(5, {"coco_result": {"category": "dog"}}),
        ],
        "attrs": [{"annotations": []}],
    }
    assert read_predictions(write(tmp_path / "val.json", content)) == {4: {"id": 4, **READ}}


def test_a_list_of_annotations_and_one_of_predictions(tmp_path):
    annotations = write(tmp_path / "a.json", [annotation(4, {"pred_result": PREDICTED})])
    predictions = write(tmp_path / "val_rank0.json", [{"id": 4, **PREDICTED}])
    assert read_predictions(annotations) == read_predictions(predictions) == {4: {"id": 4, **READ}}


def test_several_captions_of_a_region(tmp_path):
    several = PREDICTED | {"caption": ["a red dog", "a dog"], "score": [0.25, 0.75]}
    assert read_predictions(write(tmp_path / "a.json", [{"id": 4, **several}]))[4] == {
        "id": 4,
        **READ,
    }


def test_fields_that_did_not_run(tmp_path):
    path = write(tmp_path / "a.json", [annotation("r1", {"pred_result": {"cls": [1.0]}})])
    assert read_predictions(path) == {"r1": {"id": "r1", "class_logits": [1.0]}}


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ([], "none of its 0 entries holds a prediction"),
        ({"annotations": [annotation(1, {})]}, "none of its 1 entries holds a prediction"),
        ([{"id": 1, "image_id": 2, "caption": "x"}], "none of its 1 entries"),
        ([{"cls": [1.0]}], "entry 0 is .*; an object with an 'id' is expected"),
        ([3], "entry 0 is 3; an object"),
        ([{"id": 1, **PREDICTED}] * 2, "entry 1: region 1 comes twice"),
        ([annotation(1, [])], r"entry 0: 'extra_info' is \[\], must be an object"),
        ([annotation(1, {"pred_result": "a dog"})], "entry 0: 'pred_result' is 'a dog', must be"),
        ({"images": []}, "'annotations'"),
        ({"annotations": {}}, "annotations.*must be an array"),
    ],
)
def test_files_that_hold_no_predictions(tmp_path, content, match):
    with pytest.raises(ValueError, match=rf"a.json.*{match}"):
        read_predictions(write(tmp_path / "a.json", content))


def test_files_that_are_cut_off_or_missing(tmp_path):
    path = write(tmp_path / "a.json", {"annotations": [annotation(1, {"pred_result": PREDICTED})]})
    path.write_text(path.read_text()[:-30])
    with pytest.raises(ValueError, match=r"a.json"):
        read_predictions(path)
    with pytest.raises(FileNotFoundError, match="no result file at"):
        read_predictions(tmp_path / "b.json")


def test_it_scores_like_our_own_file(make_truth, perfect, tmp_path, monkeypatch):
    truth = make_truth()
    monkeypatch.setattr(
        captioning, "caption_metrics", lambda references, said: {"same": float(said[10] == "x")}
    )
    theirs = {ours: name for name, ours in (("attr", "attributes"), ("cls", "class_logits"))}
    perfect[10] |= {"caption": "x", "attributes": [0.2, 0.3], "class_logits": [0.0, 1.0, 0.0]}
    annotations = [
        annotation(
            id_, {"pred_result": {theirs.get(key, key): one[key] for key in one if key != "id"}}
        )
        for id_, one in perfect.items()
    ]
    read = read_predictions(write(tmp_path / "val.json", {"annotations": annotations}))
    for task in (AttributeDetection(), RegionRecognition(), RegionCaptioning()):
        assert task.evaluate(read, truth) == task.evaluate(perfect, truth)
    assert RegionRecognition().evaluate(read, truth)["accuracy"] == 75
    assert len(VOCABULARIES.classes) == 3
