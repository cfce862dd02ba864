"""A detector's boxes: on Visual Genome, to be described, and on LVIS, to be recognised."""

import json

import pytest

from dynrefer.datasets.annotations import AnnotationIndex
from dynrefer.datasets.convert.detections import recorded_images
from tests.datasets.convert.sources import Lvis, PredictedBoxes


@pytest.fixture
def source(tmp_path):
    return PredictedBoxes(tmp_path)


def test_boxes_carry_the_score_of_the_detector(source):
    source.content[0]["caption"] = "a dog"
    source.content[1]["bbox"] = [60, 5, 20, 10]
    source.write()
    writer = source.convert()
    first, second = json.loads(writer.out.read_text())["annotations"][:2]
    result = {"score": 0.9, "caption": "a dog"}
    box = [4, 5, 20, 10]
    assert first == {
        "id": 1,
        "image_id": 1,
        "bbox": box,
        "caption": "",
        "extra_info": {"grit_result": result},
    }  # noqa: E501
    assert (second["id"], second["bbox"]) == (2, [60, 5, 4, 10])
    assert writer.counts["images without a box"] == 0


def test_a_box_that_fills_its_image_is_not_changed(source):
    source.content[0]["bbox"] = [0, 0, 64, 48]
    source.write()
    writer = source.convert()
    assert json.loads(writer.out.read_text())["annotations"][0]["bbox"] == [0, 0, 64, 48]
    assert "changed" not in writer.table()


def test_an_object_with_annotations_is_as_good_as_a_list(source):
    source.content = {"annotations": source.content}
    source.write()
    assert source.convert().counts["regions"] == 4


def test_corners_and_a_least_score(source):
    for detection in source.content:
        x, y, width, height = detection["bbox"]
        detection["bbox"] = [x, y, x + width, y + height]
    source.content[1]["score"] = 0.75  # just enough
    source.write()
    writer = source.convert(box_format="xyxy", min_score=0.75)
    index = AnnotationIndex.open(writer.out)
    assert [index.region(i).box for i in range(len(index))] == [(4, 5, 24, 15), (5, 5, 25, 15)]
    assert "dropped: 2 x score below 0.75" in writer.table()
    with pytest.raises(ValueError, match="box_format is 'cxcywh'; valid: xywh, xyxy"):
        source.convert(box_format="cxcywh")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": None}, "wrong type: 'score' is None"),
        ({"score": float("inf")}, "score is not finite"),
        ({"bbox": [5, 5, 0, 3]}, "box has no area"),
        ({"bbox": [-20, 5, 20, 10]}, "box outside its image"),
        ({"bbox": [5, -10, 20, 10]}, "box outside its image"),
        ({"bbox": [64, 5, 20, 10]}, "box outside its image"),
        ({"bbox": [5, 48, 20, 10]}, "box outside its image"),
        ({"image_id": "1"}, "unknown image id: '1' is not among the images"),
    ],
)
def test_bad_detections_are_named(source, change, message):
    source.content[0] |= change
    source.write()
    writer = source.convert()
    assert message in writer.table()
    ids = [region["id"] for region in json.loads(writer.out.read_text())["annotations"]]
    assert ids == [2, 3, 4]


def test_images_without_a_box_are_counted(source):
    source.content = [d for d in source.content if d["image_id"] == 1]
    source.write()
    assert source.convert().counts["images without a box"] == 1


def test_images_lie_where_the_ground_truth_says(source, tmp_path):
    assert recorded_images(tmp_path / "truth.json").root == tmp_path / "images"
    (tmp_path / "bad.json").write_text('{"dataset": {"image_root": 5}, "images": []}')
    with pytest.raises(ValueError, match="bad.json: wrong type: 'image_root' is 5"):
        recorded_images(tmp_path / "bad.json")


def test_lvis_labels_are_places_among_the_categories_by_id(tmp_path):
    source = Lvis(tmp_path)
    source.content.append({**source.content[0], "category_id": 99})
    source.write()
    writer = source.convert()
    content = json.loads(writer.out.read_text())
    results = [region["extra_info"]["yolow_result"]["label"] for region in content["annotations"]]
    assert results == [1, 0, 1, 0]  # categories 7, 3, 7, 3
    assert [category["id"] for category in content["categories"]] == [3, 7]
    assert [image["file_name"] for image in content["images"]] == ["val2017/1.jpg", "2.jpg"]
    assert "unknown category id: 99" in writer.table()
