"""Each task's metrics of a tiny ground truth."""

import json

import pytest

from dynrefer.tasks import captioning, dense_captioning
from dynrefer.tasks.attributes import AttributeDetection
from dynrefer.tasks.captioning import RegionCaptioning
from dynrefer.tasks.dense_captioning import DenseCaptioning
from dynrefer.tasks.recognition import RegionRecognition
from tests.metrics.loops import WordOverlap
from tests.tasks.conftest import REGIONS

TASKS = [AttributeDetection, RegionCaptioning, DenseCaptioning, RegionRecognition]


@pytest.fixture(autouse=True)
def no_java(monkeypatch):
    monkeypatch.setattr(dense_captioning, "Meteor", WordOverlap)
    monkeypatch.setattr(
        captioning,
        "caption_metrics",
        lambda references, captions: {
            "CIDEr": sum(captions[id_] in references[id_] for id_ in references) / len(references)
        },
    )


@pytest.mark.parametrize("task", TASKS)
def test_perfect_predictions_score_a_hundred(make_truth, perfect, task):
    metrics = task().evaluate(perfect, make_truth())
    assert metrics[task.headline] == pytest.approx(100)


@pytest.mark.parametrize("task", TASKS)
def test_every_region_needs_a_prediction(make_truth, perfect, task):
    del perfect[12]
    with pytest.raises(ValueError, match=rf"{task.name}: region 12 has no prediction \(3 pred"):
        task().evaluate(perfect, make_truth())


@pytest.mark.parametrize("task", TASKS)
def test_only_the_first_images_count(make_truth, perfect, task):
    first = {id_: perfect[id_] for id_ in (10, 11)}
    metrics = task().evaluate(first, make_truth(max_images=1))
    assert metrics[task.headline] == pytest.approx(100)


def test_attributes(make_truth, perfect):
    perfect[13]["attributes"] = [0.95, 0.9]  # red, wrongly, and surest of all
    metrics = AttributeDetection().evaluate(perfect, make_truth())
    assert metrics["AP color:red"] == pytest.approx(200 / 3)  # both others at one score
    assert metrics["AP size:big/large"] == 100
    assert metrics["mAP all"] == pytest.approx((metrics["AP color:red"] + 100) / 2)
    assert (metrics["mAP head"], metrics["mAP tail"]) == (metrics["AP color:red"], 100)
    assert metrics["recall at 0.5"] == 100 and metrics["precision at 0.5"] == pytest.approx(80)


def test_regions_without_labels_are_left_out(make_truth, perfect):
    def forget(annotation):
        if annotation["id"] == 13:
            annotation["extra_info"] = {}

    perfect[13] = {"id": 13, "caption": "x"}
    truth = make_truth(forget)
    assert AttributeDetection().evaluate(perfect, truth)["mAP all"] == 100
    assert RegionRecognition().evaluate(perfect, truth)["accuracy"] == 100


@pytest.mark.parametrize(
    ("task", "key", "match"),
    [
        (AttributeDetection, "ovad_result", "no region has extra_info.ovad_result.att_vec"),
        (RegionRecognition, "coco_result", "no region has extra_info.coco_result.category"),
    ],
)
def test_no_region_has_labels(make_truth, perfect, task, key, match):
    with pytest.raises(ValueError, match=rf"truth\d+.json: {match}"):
        task().evaluate(perfect, make_truth(lambda a: a["extra_info"].pop(key)))


def test_labels_of_another_vocabulary(make_truth, perfect):
    def longer(annotation):
        annotation["extra_info"]["ovad_result"]["att_vec"].append(1)

    with pytest.raises(ValueError, match="region 10: .* is 3 labels, the vocabulary has 2 attr"):
        AttributeDetection().evaluate(perfect, make_truth(longer))

    def other(annotation):
        annotation["extra_info"]["coco_result"]["category"] = "horse"

    with pytest.raises(ValueError, match="region 10: .*category is 'horse', which is not in the c"):
        RegionRecognition().evaluate(perfect, make_truth(other))


def test_predictions_of_another_vocabulary(make_truth, perfect):
    perfect[11]["attributes"] = [0.5]
    perfect[11]["class_logits"] = [0.5] * 4
    with pytest.raises(ValueError, match="attribute_detection: region 11: 'attributes' must be 2"):
        AttributeDetection().evaluate(perfect, make_truth())
    with pytest.raises(ValueError, match="region_recognition: region 11: 'class_logits' must be 3"):
        RegionRecognition().evaluate(perfect, make_truth())


def test_recognition_counts_regions(make_truth, perfect):
    perfect[13]["class_logits"] = [0.0, 0.1, 0.0]
    assert RegionRecognition().evaluate(perfect, make_truth())["accuracy"] == 75


def instances(names=("dog", "cat", "Bird")):
    classes = {name: number for number, name in enumerate(names, start=5)}
    annotations = [
        {
            "id": id_,
            "image_id": image_id,
            "category_id": classes.get(category, 5),
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
        }
        for id_, image_id, box, _, _, category in REGIONS
    ]
    return {
        "images": [{"id": number, "width": 64, "height": 64} for number in (1, 2, 3)],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in classes.items()],
    }


def test_box_map(make_truth, perfect, tmp_path):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(instances()))
    metrics = RegionRecognition().evaluate(perfect, make_truth(instances=path))
    assert metrics["box AP"] == pytest.approx(100)
    assert "box APl" not in metrics and min(metrics.values()) >= 0  # no box is large
    perfect[11]["class_logits"] = [5.0, 0.0, 0.0]
    worse = RegionRecognition().evaluate(perfect, make_truth(instances=path))
    assert worse["box AP"] < 67 and worse["accuracy"] == 75
    for id_ in perfect:
        perfect[id_]["class_logits"] = [0.0, float(id_ != 11), 0.0]
    wrong = RegionRecognition().evaluate(perfect, make_truth(instances=path))
    assert wrong["box AP"] == 0 and "box APl" not in wrong
    limited = make_truth(instances=path, max_images=1)
    assert set(RegionRecognition().evaluate(perfect, limited)) == {"accuracy"}


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (instances(("dog", "cat")), "no category is named Bird"),
        ({"images": [], "annotations": []}, "COCO instances file: .* no list 'categories'"),
        ([], "is not a COCO instances file"),
    ],
)
def test_instances_that_do_not_fit(make_truth, perfect, tmp_path, content, match):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"instances.json.*{match}"):
        RegionRecognition().evaluate(perfect, make_truth(instances=path))


def test_captions_of_regions_without_reference_do_not_count(make_truth, perfect):
    def forget(annotation):
        if annotation["id"] == 11:
            annotation["caption"] = ""

    perfect[11] = {"id": 11}
    assert RegionCaptioning().evaluate(perfect, make_truth(forget))["CIDEr"] == 100
    perfect[10]["caption"] = "something else"
    score = RegionCaptioning().evaluate(perfect, make_truth(forget))["CIDEr"]
    assert score == pytest.approx(200 / 3)


def test_several_references_of_a_region(make_truth, perfect):
    def more(annotation):
        annotation["captions"] = [annotation["caption"], "another"]

    perfect[10]["caption"] = perfect[13]["caption"] = "another"
    assert RegionCaptioning().evaluate(perfect, make_truth(more))["CIDEr"] == 100
    assert DenseCaptioning().evaluate(perfect, make_truth(more))["mAP"] == pytest.approx(100)


def test_dense_captioning_needs_place_and_words(make_truth, perfect):
    perfect[10]["caption"] = "nothing alike"
    metrics = DenseCaptioning().evaluate(perfect, make_truth())
    assert metrics["detection mAP"] == pytest.approx(100)
    assert metrics["mAP"] < 90
    assert metrics["AP iou_0.5_meteor_0"] == metrics["AP iou_0.7_meteor_0.25"]
    assert sum(name.startswith("AP iou") for name in metrics) == 30
