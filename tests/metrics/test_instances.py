"""Instances files: what COCO's and LVIS's scorers read, and every way to lack it."""

import json

import pytest

from dynrefer.metrics.instances import read_instances


def content():
    image = {"id": 7, "neg_category_ids": [2], "not_exhaustive_category_ids": []}
    box = {"id": 1, "image_id": 7, "category_id": 2, "bbox": [0, 0, 5, 0], "area": 0}
    return {
        "images": [image, {**image, "id": "b"}],
        "annotations": [box | {"iscrowd": 0}, box | {"iscrowd": 1}],
        "categories": [{"id": 2, "name": "dog", "frequency": "f"}],
    }


@pytest.mark.parametrize("of_lvis", [False, True])
def test_a_file(tmp_path, of_lvis):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content()))
    read = read_instances(path, of_lvis)
    assert (list(read.images), list(read.categories), read.source) == ([7, "b"], [2], str(path))
    assert read.annotations == content()["annotations"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [', "instances.json: broken JSON at line 1"),
        ("[]", "instances.json is not a COCO instances file: it has no list 'images'"),
        ('{"images": [], "categories": []}', "has no list 'annotations'"),
        ('{"images": {}}', "has no list 'images'"),
    ],
)
def test_broken_files_are_named(tmp_path, text, message):
    path = tmp_path / "instances.json"
    with pytest.raises(FileNotFoundError, match="no file at .*instances.json; .*build_info.inst"):
        read_instances(path)
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_instances(path)


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("images", "id", 1.0, "id is 1.0, must be a whole number or a text"),
        ("images", "id", None, "id is None"),
        ("images", "id", 7, r"images\[1\]: id 7 comes twice"),
        ("annotations", "image_id", 8, "image_id is 8, must be the id of one of its 2 images"),
        ("annotations", "image_id", [7], r"image_id is \[7\]"),
        ("annotations", "category_id", "2", "category_id is '2', must be the id of one of its 1"),
        ("annotations", "bbox", None, "bbox is None, must be x, y, width, height"),
        ("annotations", "bbox", [0, 0, 5, float("nan")], "bbox is"),
        ("annotations", "area", None, "area is None, must be a finite number, 0 or more"),
        ("annotations", "area", -1, "area is -1"),
        ("annotations", "bbox", [0, 0, 5, -1], "bbox is"),
        ("annotations", "iscrowd", 2, "iscrowd is 2, must be 0 or 1"),
        ("annotations", "iscrowd", None, "iscrowd is None, must be 0 or 1"),
        ("categories", "name", None, "name is None, must be a name"),
        ("categories", "id", False, "id is False"),
        ("images", "neg_category_ids", None, "neg_category_ids is None, must be a list of ids"),
        ("images", "not_exhaustive_category_ids", [None], "must be a list of ids"),
        ("categories", "frequency", "x", "frequency is 'x', must be 'r', 'c' or 'f'"),
    ],
)
def test_broken_records_are_named(section, key, value, message):
    of_lvis = "ids" in key or key == "frequency"
    for change in ({key: value}, None):
        broken = content()
        if change is None:
            del broken[section][-1][key]
            message = rf"instances: {section}\[\d\] has no {key}"
        else:
            broken[section][-1] |= change
        with pytest.raises(ValueError, match=message):
            read_instances(broken, of_lvis)
    broken[section][-1] = None
    with pytest.raises(ValueError, match=rf"{section}\[\d\] is None, must be an object"):
        read_instances(broken, of_lvis)


def test_lvis_needs_no_crowds_and_coco_no_frequencies():
    lvis, coco = content(), content()
    for box in lvis["annotations"]:
        del box["iscrowd"]
    del coco["categories"][0]["frequency"]
    assert read_instances(lvis, of_lvis=True).annotations and read_instances(coco).categories
