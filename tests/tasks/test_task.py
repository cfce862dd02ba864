import json

import pytest

from dynrefer.models.dynrefer import RegionPrediction
from dynrefer.registry import registry
from dynrefer.tasks.recognition import RegionRecognition
from dynrefer.tasks.task import choose_tasks, read_predictions, write_predictions


@pytest.mark.parametrize(
    ("dataset", "task"),
    [
        ("vg1.0", "dense_captioning"),
        ("vg1.2", "dense_captioning"),
        ("vgcoco", "dense_captioning"),
        ("vg_reg", "region_captioning"),
        ("vgcoco_reg", "region_captioning"),
        ("refcocog", "region_captioning"),
        ("ovad", "attribute_detection"),
        ("coco", "region_recognition"),
    ],
)
def test_the_releases_datasets_name_their_benchmark(dataset, task):
    assert [chosen.name for chosen in choose_tasks("dynrefer", None, dataset)] == [task]


def test_explicit_tasks_go_first():
    names = ["region_recognition", "dense_captioning"]
    assert [task.name for task in choose_tasks("dynrefer", names, "ovad")] == names
    assert [task.name for task in choose_tasks("attribute_detection", None, "vg1.2")] == [
        "attribute_detection"
    ]


def test_datasets_that_name_no_benchmark():
    with pytest.raises(ValueError, match="no benchmark by the name of dataset 'shapes'; list"):
        choose_tasks("dynrefer", None, "shapes")
    with pytest.raises(KeyError, match="did you mean 'region_captioning'"):
        choose_tasks("region_caption", None, "vg1.2")


@pytest.mark.parametrize("name", registry.names("task"))
def test_every_task_says_what_it_needs(name):
    task = registry.get("task", name)()
    assert task.name == name and task.headline
    assert task.decoders and task.decoders <= {"caption", "tags", "attributes", "classes"}


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


def test_no_predictions(tmp_path):
    write_predictions(tmp_path / "a.jsonl", [])
    assert read_predictions(tmp_path / "a.jsonl") == {}


@pytest.mark.parametrize(
    ("line", "match"),
    [
        (b'{"id": 2, ', "line 2 is not JSON"),
        (b"", "line 2 is not JSON"),
        (b'{"id": 2, "caption": "\xff"}', "line 2 is not JSON"),
        (b"[2]", "line 2 has no 'id'"),
        (b'{"image_id": 2}', "line 2 has no 'id'"),
        (b'{"id": [2]}', "line 2 has no 'id'"),
        (b'{"id": null}', "line 2 has no 'id'"),
        (b'{"id": 1}', "line 2: region 1 comes twice"),
    ],
)
def test_result_files_that_cannot_be_read(tmp_path, line, match):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"id": 1}\n' + line + b"\n")
    with pytest.raises(ValueError, match=rf"a.jsonl: {match}"):
        read_predictions(path)


def test_missing_result_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no result file at .*a.jsonl"):
        read_predictions(tmp_path / "a.jsonl")


def test_regions_by_image(make_truth):
    truth = make_truth()
    assert [[region.id for region in regions] for regions in truth.images()] == [[10, 11], [12, 13]]
    assert [region.id for region in truth.regions()] == [10, 11, 12, 13]
    assert truth.is_whole


@pytest.mark.parametrize(
    ("limit", "ids", "whole"), [(1, [10, 11], False), (3, [10, 11, 12, 13], True)]
)
def test_regions_of_the_first_images(make_truth, limit, ids, whole):
    truth = make_truth(max_images=limit)
    assert [region.id for region in truth.regions()] == ids and truth.is_whole is whole


@pytest.mark.parametrize(
    ("field", "value", "count", "match"),
    [
        ("class_logits", None, 3, r"region 10 has no class_logits \(1 predictions\)"),
        ("class_logits", [1.0], 3, r"'class_logits' must be 3 numbers, is \[1.0\]"),
        ("class_logits", "abc", 3, "must be 3 numbers"),
        ("caption", 3, None, "'caption' must be a text, is 3"),
        ("score", "high", None, "'score' must be a number, is 'high'"),
    ],
)
def test_fields_of_the_wrong_kind(make_truth, field, value, count, match):
    region = next(iter(make_truth().regions()))
    with pytest.raises(ValueError, match=f"region_recognition: region 10.*{match}|{match}"):
        RegionRecognition().field_of({10: {field: value}}, region, field, count)


def test_a_region_without_prediction(make_truth):
    region = next(iter(make_truth().regions()))
    with pytest.raises(ValueError, match=r"region 10 has no prediction \(1 predictions\)"):
        RegionRecognition().field_of({11: {}}, region, "caption")


def test_ids_stay_what_they_are(tmp_path):
    """The number 1 and the text "1" are two regions."""
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"id": id_}) for id_ in (1, "1")))
    assert list(read_predictions(path)) == [1, "1"]
