"""ImageNet-S and LVIS as tasks."""

import json

import pytest

from dynrefer.metrics.box_ap import lvis_box_metrics
from dynrefer.metrics.instances import read_instances
from dynrefer.tasks.recognition import ImageNetS, LvisDetection
from tests.tasks.conftest import REGIONS

NAMES = ("dog", "cat", "Bird")


def with_index(annotation):
    """The release's label of ImageNet-S: the class's index."""
    category = annotation["extra_info"].pop("coco_result")["category"]
    annotation["extra_info"]["imagenet_s_result"] = {"category_id": NAMES.index(category)}


def test_class_mean_accuracy_counts_classes_not_regions(make_truth, perfect):
    assert ImageNetS().evaluate(perfect, make_truth(with_index))["class-mean top-1"] == 100
    perfect[10]["class_logits"] = [0.0, 1.0, 0.5]  # one of two dogs: 1/2, 1, 1
    metrics = ImageNetS().evaluate(perfect, make_truth(with_index))
    assert metrics["class-mean top-1"] == pytest.approx(100 * 2.5 / 3)
    assert metrics["accuracy"] == 75 and metrics["class-mean top-5"] == 100


def test_labels_that_are_no_class(make_truth, perfect):
    def outside(annotation):
        with_index(annotation)
        annotation["extra_info"]["imagenet_s_result"]["category_id"] = 3

    with pytest.raises(ValueError, match="region 10: .*category_id is 3, no index of the 3 cla"):
        ImageNetS().evaluate(perfect, make_truth(outside))
    with pytest.raises(ValueError, match="no region has extra_info.imagenet_s_result.category_id"):
        ImageNetS().evaluate(perfect, make_truth())


def lvis(names=("dog", "cat", "bird")):
    """What LVIS says of the regions; nothing of birds in image 1, not all dogs in image 2."""
    classes = {name: number for number, name in enumerate(names, start=5)}
    images = [
        {"id": 1, "neg_category_ids": [], "not_exhaustive_category_ids": []},
        {"id": 2, "neg_category_ids": [6], "not_exhaustive_category_ids": [5]},
        {"id": 3, "neg_category_ids": [], "not_exhaustive_category_ids": []},
    ]
    annotations = [
        {
            "id": id_,
            "image_id": image_id,
            "category_id": classes.get(category.lower(), 5),
            "bbox": box,
            "area": box[2] * box[3],
        }
        for id_, image_id, box, _, _, category in REGIONS
    ]
    categories = [
        {"id": number, "name": name, "frequency": "rcf"[number % 3]}
        for name, number in classes.items()
    ]
    return {"images": images, "annotations": annotations, "categories": categories}


@pytest.fixture
def lvis_file(tmp_path):
    path = tmp_path / "lvis.json"
    path.write_text(json.dumps(lvis()))
    return path


def test_lvis_box_ap(make_truth, perfect, lvis_file):
    truth = make_truth(instances=lvis_file)
    metrics = LvisDetection().evaluate(perfect, truth)
    assert metrics["AP"] == pytest.approx(100) and metrics["APr"] == pytest.approx(100)
    assert "APl" not in metrics
    perfect[13]["class_logits"] = [0.0, 9.0, 0.0]  # cats are certainly not in image 2
    perfect[10]["class_logits"] = [0.0, 0.0, 9.0]  # of birds image 1 says nothing
    metrics = LvisDetection().evaluate(perfect, truth)
    best = {10: (7, 9.0), 11: (6, 2.0), 12: (7, 2.0), 13: (6, 9.0)}
    found = [
        {"image_id": i, "category_id": best[id_][0], "bbox": box, "score": best[id_][1]}
        for id_, i, box, _, _, _ in REGIONS
    ]
    expected = lvis_box_metrics(read_instances(lvis(), of_lvis=True), found)
    kept = {name: 100 * value for name, value in expected.items() if value >= 0}
    assert metrics == pytest.approx(kept)
    assert metrics["AP"] == pytest.approx(50)  # dogs 0, cats 1/2, birds 1


def test_lvis_of_the_first_images(make_truth, perfect, lvis_file):
    first = {id_: perfect[id_] for id_ in (10, 11)}
    metrics = LvisDetection().evaluate(first, make_truth(instances=lvis_file, max_images=1))
    assert metrics["AP"] == pytest.approx(100)


def test_categories_that_the_file_lacks(make_truth, perfect, tmp_path):
    path = tmp_path / "lvis.json"
    path.write_text(json.dumps(lvis(("dog", "cat", "small_bird"))))
    with pytest.raises(ValueError, match="lvis.json: no category is named Bird"):
        LvisDetection().evaluate(perfect, make_truth(instances=path))


def test_lvis_needs_its_annotations(make_truth, perfect):
    with pytest.raises(
        ValueError, match="truth0.json: lvis_detection needs the annotations of LVIS"
    ):
        LvisDetection().evaluate(perfect, make_truth())


def test_boxes_of_a_detector_have_no_score_of_their_own(make_truth, perfect, lvis_file):
    truth = make_truth(instances=lvis_file)
    region = next(truth.regions())
    assert LvisDetection().region_score(perfect, region, truth) is None
    assert ImageNetS().region_score(perfect, region, make_truth(with_index)) is None
    labelled = make_truth(with_index)
    assert ImageNetS().region_score(perfect, next(labelled.regions()), labelled) == 2.0
