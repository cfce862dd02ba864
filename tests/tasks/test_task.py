"""Which tasks run, and what they ask of the ground truth before anything is predicted."""

import json

import pytest

from dynrefer.registry import registry
from dynrefer.tasks.task import choose_tasks
from tests.tasks.test_benchmarks import instances


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
    with pytest.raises(KeyError, match="did you mean 'region_captioning'"):
        choose_tasks("region_caption", ["attribute_detection"], "vg1.2")


@pytest.mark.parametrize("name", registry.names("task"))
def test_every_task_says_what_it_needs(name):
    task = registry.get("task", name)()
    assert task.name == name and task.headline
    assert task.decoders and task.decoders <= {"caption", "tags", "attributes", "classes"}


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


WRONG = [
    *(
        ("attribute_detection", "ovad_result", value, message)
        for value, message in (
            ({"att_vec": [1]}, "att_vec is 1 labels, the vocabulary has 2 attributes"),
            ([1, 0], r" is \[1, 0\], must be an object"),
        )
    ),
    *(
        ("region_recognition", "coco_result", value, message)
        for value, message in (
            ({"category": "horse"}, "category is 'horse', which is not in the class vocabulary"),
            ({"category": 1}, "category is 1, which is not"),
            ({"category": ["dog"]}, r"category is \['dog'\], which is not"),
            ("dog", " is 'dog', must be an object"),
        )
    ),
    *(
        (
            "imagenet_s",
            "imagenet_s_result",
            {"category_id": value},
            f"category_id is {value}, no in",
        )
        for value in (3, -1, True, 1.0, float("nan"))
    ),
    *(
        ("dense_captioning", "grit_result", value, message)
        for value, message in (
            ({"score": float("nan")}, "score must be a finite number, is nan"),
            ({"score": "high"}, "score must be a finite number, is 'high'"),
            ({"score": True}, "score must be a finite number, is True"),
            ({"score": [0.5]}, r"score must be a finite number, is \[0.5\]"),
            ({"score": 1e39}, r"score must be a finite number, is 1e\+39"),
            (0.5, " is 0.5, must be an object"),
        )
    ),
]


@pytest.mark.parametrize(("name", "part", "value", "message"), WRONG)
def test_wrong_labels_are_named(make_truth, name, part, value, message):
    def change(annotation):
        if annotation["id"] == 12:
            annotation["extra_info"][part] = value

    task, truth = registry.get("task", name)(), make_truth(change)
    with pytest.raises(ValueError, match=rf"truth0.json: region 12: extra_info\.{part}.*{message}"):
        task.check(truth)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("attribute_detection", "ovad_result"),
        ("region_recognition", "coco_result"),
        ("dense_captioning", "grit_result"),
    ],
)
@pytest.mark.parametrize("value", [None, {}])
def test_a_label_that_is_null_is_none(make_truth, perfect, name, part, value):
    """Exporters write null for every object that a record does not have."""

    def change(annotation):
        if annotation["id"] == 12:
            annotation["extra_info"][part] = value

    task, truth = registry.get("task", name)(), make_truth(change)
    task.check(truth)
    (region,) = (region for region in truth.regions() if region.id == 12)
    assert task.region_words(perfect, region, truth).said
    assert set(task.region_scores(perfect, truth)) >= {10, 11, 13}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("attribute_detection", "no region has extra_info.ovad_result.att_vec"),
        ("region_recognition", "no region has extra_info.coco_result.category"),
        ("imagenet_s", "no region has extra_info.imagenet_s_result.category_id"),
        ("region_captioning", "no region has a caption"),
        ("dense_captioning", "no region has a caption"),
        ("lvis_detection", "needs the annotations of LVIS, build_info.instances"),
    ],
)
def test_nothing_to_judge_by(make_truth, name, message):
    def forget(annotation):
        annotation["extra_info"], annotation["caption"] = {}, ""

    with pytest.raises(ValueError, match=rf"truth0.json: .*{message}"):
        registry.get("task", name)().check(make_truth(forget))


@pytest.mark.parametrize("labels", [[0, 0], [-1, -1], [0, -1]])
def test_attributes_without_a_positive_label(make_truth, labels):
    def change(annotation):
        annotation["extra_info"]["ovad_result"]["att_vec"] = labels

    message = r"truth0.json: no extra_info.ovad_result.att_vec has a positive label \(1\)"
    with pytest.raises(ValueError, match=message):
        registry.get("task", "attribute_detection")().check(make_truth(change))


@pytest.mark.parametrize("name", ["region_recognition", "lvis_detection"])
def test_instances_of_other_images_and_classes(make_truth, tmp_path, name):
    content = instances()
    for image in content["images"]:
        image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    for category in content["categories"]:
        category["frequency"] = "f"
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    task = registry.get("task", name)()
    task.check(make_truth(instances=path))
    for change, message in (
        (
            {"images": content["images"][1:], "annotations": content["annotations"][2:]},
            r"instances.json: has no image 1, which region 10 of .*truth\d.json is in",
        ),
        ({"annotations": []}, r"instances.json: has no annotation of the images of .*truth\d.json"),
        (
            {"categories": content["categories"][:2], "annotations": content["annotations"][:2]},
            "instances.json: no category is named Bird",
        ),
        (
            {"categories": [*content["categories"], content["categories"][2] | {"id": 9}]},
            "instances.json: several categories are named Bird",
        ),
    ):
        path.write_text(json.dumps(content | change))
        with pytest.raises(ValueError, match=message):
            task.check(make_truth(instances=path))
