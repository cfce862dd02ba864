"""Result files: our own, and those of the published code as its evaluation writes them."""

import json
import re

import pytest

from dynrefer.models.dynrefer import RegionPrediction
from dynrefer.tasks import captioning
from dynrefer.tasks.attributes import AttributeDetection
from dynrefer.tasks.captioning import RegionCaptioning
from dynrefer.tasks.dense_captioning import DenseCaptioning
from dynrefer.tasks.recognition import RegionRecognition
from dynrefer.tasks.results import read_predictions, write_predictions
from tests.metrics.loops import WordOverlap
from tests.tasks.conftest import VOCABULARIES


def test_result_files_round_trip(tmp_path):
    predictions = [
        RegionPrediction(3, "img", caption='a dog\u2028 "ä"', score=0.25, ratios=[0.0, 0.5]),
        RegionPrediction("b", 2, attributes=[0.1, 0.2], tags=[]),
    ]
    path = tmp_path / "results" / "a.jsonl"
    write_predictions(path, predictions)
    read = read_predictions(path)
    assert list(read) == [3, "b"]
    assert read[3] == {
        "id": 3,
        "image_id": "img",
        "caption": 'a dog\u2028 "ä"',
        "score": 0.25,
        "ratios": [0.0, 0.5],
    }
    assert read["b"]["tags"] == [] and "caption" not in read["b"]
    assert [file.name for file in path.parent.iterdir()] == ["a.jsonl"]


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.jsonl"
    write_predictions(path, [RegionPrediction(1, 1)])

    def stopped():
        yield RegionPrediction(2, 1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_predictions(path, stopped())
    assert list(read_predictions(path)) == [1]


@pytest.fixture
def lines(tmp_path):
    """Writes a result file of given lines."""

    def write(*values):
        path = tmp_path / "a.jsonl"
        path.write_text("".join(json.dumps(value) + "\n" for value in values))
        return path

    return write


@pytest.mark.parametrize(
    ("line", "match"),
    [
        (b'{"id": 2, ', "line 3 is not JSON"),
        (b'{"id": 2, "caption": "\xff"}', "line 3 is not JSON"),
        (b"[" * 100_000, "line 3 is not JSON"),
        (b"\x00", "line 3 is not JSON"),
        (b"[2]", r"line 3 is \[2\], must be an object with an 'id'"),
        (b"null", "line 3 is None, must be an object"),
        (b'{"image_id": 2}', "line 3 is {'image_id': 2}, must be an object with an 'id'"),
        (b'{"id": [2]}', r"line 3: 'id' is \[2\], must be a whole number or a text"),
        (b'{"id": null}', "line 3: 'id' is None"),
        (b'{"id": true}', "line 3: 'id' is True"),
        (b'{"id": 2.0}', "line 3: 'id' is 2.0"),
        (b'{"id": 1}', "line 3: region 1 comes twice"),
    ],
)
def test_lines_that_cannot_be_read(tmp_path, line, match):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"id": 1, "caption": "x"}\r\n\n' + line + b"\n")
    with pytest.raises(ValueError, match=rf"a.jsonl: {match}"):
        read_predictions(path)


@pytest.mark.parametrize("ratios", [[0.0, 2.0], ["0", "1"], {"a": 1}, "0.1", [0.1] * 12, 0.5])
def test_ratios_that_are_none(lines, ratios):
    path = lines({"id": 7, "score": 1, "ratios": [0, 0.5]}, {"id": 8, "score": 1, "ratios": ratios})
    message = "a.jsonl: line 2: region 8: 'ratios' must be 11 numbers from 0 to 1 at most, is "
    with pytest.raises(ValueError, match=message):
        read_predictions(path)


def test_blank_lines_are_skipped(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('\n{"id": 1, "caption": "x"}\n  \n\n{"id": 2, "caption": ""}\n\t\n')
    assert read_predictions(path) == {
        1: {"id": 1, "caption": "x"},
        2: {"id": 2, "caption": ""},
    }


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_file_without_a_prediction(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(FileNotFoundError, match=rf"no result file at .*{name}"):
        read_predictions(path)
    path.write_text("[]" if name == "a.json" else "\n")
    with pytest.raises(ValueError, match=rf"{name}: no entry holds a prediction"):
        read_predictions(path)


def test_ids_stay_what_they_are(lines):
    """The number 1 and the text "1" are two regions."""
    path = lines({"id": 1, "score": 1}, {"id": "1", "score": 2})
    assert list(read_predictions(path)) == [1, "1"]


def test_ids_of_another_kind_are_those_of_the_annotations(lines, make_truth, perfect):
    said = [one | {"id": str(id_)} for id_, one in perfect.items()]
    truth = make_truth()
    read = read_predictions(lines(*said), truth)
    assert set(read) == set(perfect)
    assert RegionRecognition().evaluate(read, truth)["accuracy"] == 100

    def rename(annotation):
        annotation["id"] = {10: "10", 11: "11", 12: 12, 13: "0013"}[annotation["id"]]

    read = read_predictions(lines(*perfect.values(), {"id": "12", "score": 1}), make_truth(rename))
    assert set(read) == {"10", "11", 12, 13, "12"}
    with pytest.raises(ValueError, match="a.jsonl: .* region '0013' has no prediction"):
        RegionRecognition().evaluate(read, make_truth(rename))


def test_an_id_that_is_annotated_is_taken_from_no_other(lines, make_truth):
    """Number and text are both annotated: a prediction of the one says nothing of the other."""

    def rename(annotation):
        annotation["id"] = {10: 10, 11: "10"}.get(annotation["id"], annotation["id"])

    read = read_predictions(
        lines({"id": 10, "score": 1}, {"id": 12, "score": 1}), make_truth(rename)
    )
    assert set(read) == {10, 12}


def test_limits_are_within(make_truth, perfect):
    for prediction in perfect.values():
        prediction["attributes"] = [0, 1.0]
    assert AttributeDetection().evaluate(perfect, make_truth())["mAP all"] > 0


def test_a_file_of_other_regions(lines, make_truth):
    path = lines({"id": 1, "caption": "x"}, {"id": "b", "caption": "y"})
    with pytest.raises(
        ValueError, match=r"a.jsonl: none of its 2 regions is in .*truth1.json \(e.g"
    ):
        read_predictions(path, make_truth())


@pytest.mark.parametrize(
    ("task", "field", "value", "match"),
    [
        (
            RegionRecognition,
            "class_logits",
            None,
            r"region 12 has no class_logits \(4 predictions\)",
        ),
        (RegionRecognition, "class_logits", [1.0], r"must be 3 finite numbers, is \[1.0\]"),
        (RegionRecognition, "class_logits", "abc", "must be 3 finite numbers, is 'abc'"),
        (RegionRecognition, "class_logits", [1, 2, float("nan")], "finite numbers, holds nan"),
        (RegionRecognition, "class_logits", [1, 2, "3"], "must be 3 finite numbers, holds '3'"),
        (RegionRecognition, "class_logits", [1, None, 2], "must be 3 finite numbers, holds None"),
        (RegionRecognition, "class_logits", [1, True, 2], "must be 3 finite numbers, holds True"),
        (RegionRecognition, "class_logits", [1, 1e300, 2], r"finite numbers, holds 1e\+300"),
        (RegionRecognition, "class_logits", [1, 10**400, 2], "finite numbers, holds 1000"),
        (AttributeDetection, "attributes", [0.5, 1.5], "must be 2 numbers from 0 to 1, holds 1.5"),
        (AttributeDetection, "attributes", [-0.1, 1], "must be 2 numbers from 0 to 1, holds -0.1"),
        (AttributeDetection, "attributes", [float("nan"), 0], "from 0 to 1, holds nan"),
        (AttributeDetection, "attributes", {"a": 1, "b": 0}, "must be 2 numbers from 0 to 1, is {"),
        (RegionCaptioning, "caption", 3, "must be a text, is 3"),
        (RegionCaptioning, "caption", ["a dog"], "must be a text, is "),
        (RegionCaptioning, "caption", "dog \ud83d", r"'caption' holds half a character, '\\ud83d'"),
        (DenseCaptioning, "score", "high", "must be a finite number, is 'high'"),
        (DenseCaptioning, "score", float("nan"), "must be a finite number, is nan"),
        (DenseCaptioning, "score", None, "region 12 has no score"),
        (DenseCaptioning, "score", True, "must be a finite number, is True"),
    ],
)
def test_fields_that_cannot_be_scored(
    lines, make_truth, perfect, monkeypatch, task, field, value, match
):
    monkeypatch.setattr("dynrefer.tasks.dense_captioning.Meteor", WordOverlap)
    perfect[12][field] = value
    truth = make_truth()
    what = "region 12" if value is None else f"region 12: '{field}'"
    read = read_predictions(lines(*perfect.values()), truth)
    with pytest.raises(ValueError, match=rf"a.jsonl: {task.name}: {what} ") as error:
        task().evaluate(read, truth)
    assert re.search(match, str(error.value))
    with pytest.raises(ValueError, match=rf"^{task.name}: {what} "):  # the model's have no file
        task().evaluate(dict(read), truth)


# The release's files

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
    assert read_predictions(write(tmp_path / "val.JSON", content)) == {4: {"id": 4, **READ}}


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
        ([], "no entry holds a prediction"),
        ({"annotations": [annotation(1, {})]}, "no entry holds a prediction"),
        ([{"id": 1, "image_id": 2, "caption": "x"}], "no entry holds"),
        ([{"cls": [1.0]}], "entry 0 is .*, must be an object with an 'id'"),
        ([3], "entry 0 is 3, must be an object"),
        ([{"id": 1.0, **PREDICTED}], "entry 0: 'id' is 1.0, must be a whole number or a text"),
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
