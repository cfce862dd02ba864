"""COCO and OVAD: classes, attributes, the real sample."""

import json

import numpy as np
import pytest
from pycocotools.coco import COCO

from dynrefer.datasets.annotations import AnnotationIndex
from dynrefer.datasets.convert.coco import convert_coco, convert_ovad
from dynrefer.datasets.convert.writing import ImageFolder
from tests.datasets.convert.sources import Coco, Ovad
from tests.shared import shared_path


def test_objects_carry_their_class_and_segmentation(tmp_path):
    source = Coco(tmp_path)
    source.write()
    content = json.loads(source.convert().out.read_text())
    assert content["annotations"][0] == {
        "id": 11,
        "image_id": 1,
        "bbox": [4, 5, 20, 10],
        "segmentation": [[4, 5, 24, 5, 24, 15]],
        "caption": "person",
        "extra_info": {"coco_result": {"category": "person", "category_id": 1}},
    }
    assert "segmentation" not in content["annotations"][1]
    assert [image["id"] for image in content["images"]] == [1, 2]  # the third has no object
    assert [category["name"] for category in content["categories"]] == ["person", "dog"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category_id": 5}, "annotation 11: unknown category id: 5"),
        ({"segmentation": "x"}, "region 11: wrong type: 'segmentation' must be a list of polygons"),
        ({"segmentation": [[1, 2, 3]]}, "region 11: wrong type"),
        ({"bbox": [1, 2, 3]}, "'bbox' is [1, 2, 3], must be 4 numbers"),
        ({"bbox": [1, 2, True, 4]}, "must be 4 numbers"),
        ({"bbox": [1, 2, float("nan"), 4]}, "box is not finite"),
        ({"image_id": None}, "wrong type: 'image_id' is None"),
    ],
)
def test_bad_objects_are_named(tmp_path, change, message):
    source = Coco(tmp_path)
    source.content["annotations"][0] |= change
    source.write()
    writer = source.convert()
    assert message in writer.table() and writer.counts["regions"] == 3


def test_bad_images_are_named(tmp_path):
    source = Coco(tmp_path)
    images = source.content["images"]
    images[0]["width"] = 0
    images.append({**images[1]})
    images.append("image")
    source.write()
    table = source.convert().table()
    assert "image 1: image has no area: 0 x 48 pixels" in table
    assert "image 2: duplicate id" in table
    assert "image at position 4: wrong type: must be an object" in table
    assert "2 x image left out, e.g. annotation 11: image left out: image 1: image has no" in table


def test_categories_are_checked(tmp_path):
    source = Coco(tmp_path)
    source.content["categories"].append({"id": 1, "name": "cat"})
    source.write()
    with pytest.raises(ValueError, match="instances.json: category 1: duplicate id"):
        source.convert()


def test_regions_carry_their_labels(tmp_path):
    source = Ovad(tmp_path)
    source.content["annotations"][1]["att_vec"] = [1, 0]
    source.content["annotations"][2]["att_vec"] = [1, 0, 2]
    source.content["annotations"][3]["bbox"] = [60, 5, 20, 10]
    source.write()
    writer = source.convert()
    content = json.loads(writer.out.read_text())
    assert content["annotations"][0]["extra_info"] == {"ovad_result": {"att_vec": [1, 0, -1]}}
    assert content["annotations"][0]["caption"] == "person"
    assert content["annotations"][1]["bbox"] == [60, 5, 4, 10]
    assert content["attrs"] == source.content["attributes"]
    assert "dropped: 2 x wrong label, e.g. annotation 12" in writer.table()
    assert "changed: 1 x box clipped to its image, e.g. annotation 14" in writer.table()


def test_ovad_needs_attributes(tmp_path):
    source = Ovad(tmp_path)
    del source.content["attributes"]
    source.write()
    with pytest.raises(ValueError, match="ovad.json: needs 'attributes'; other members"):
        source.convert()


def test_without_a_look_at_the_images(tmp_path):
    source = Coco(tmp_path)
    source.write()
    images = ImageFolder(tmp_path / "elsewhere", check=False)
    writer = convert_coco(source.path("instances.json"), tmp_path / "out.json", images)
    assert writer.counts["regions"] == 4
    content = json.loads(writer.out.read_text())
    assert content["dataset"] == {"image_root": "elsewhere"}


@pytest.fixture
def sample():
    return shared_path("data/coco_sample")


def test_real_coco_sample(sample, tmp_path):
    instances = sample / "annotations/instances_val2017.json"
    writer = convert_coco(instances, tmp_path / "coco.json", ImageFolder(sample / "images"))
    truth = COCO(instances)
    index = AnnotationIndex.open(writer.out)
    assert len(index) == len(truth.anns) == 382
    for i in range(len(index)):
        region = index.region(i)
        annotation = truth.anns[region.id]
        assert region.caption == truth.cats[annotation["category_id"]]["name"]
        # The tight box of the segmentation, COCO's own box but for rounding and crowds.
        x, y, width, height = annotation["bbox"]
        if not annotation["iscrowd"]:
            assert np.allclose(region.box, [x, y, x + width, y + height], atol=0.02)


def test_real_ovad_sample(sample, tmp_path):
    source = sample / "annotations/ovad_sample.json"
    writer = convert_ovad(source, tmp_path / "ovad.json", ImageFolder(sample / "images"))
    records = {r["id"]: r for r in json.loads(source.read_text())["annotations"]}
    index = AnnotationIndex.open(writer.out)
    assert len(index) == len(records) == 172
    for i in range(len(index)):
        region = index.region(i)
        vector = region.extra_info["ovad_result"]["att_vec"]
        assert vector == records[region.id]["att_vec"] and len(vector) == 117
