"""Annotation files as the release's own converters write them: they load as they are."""

import json

import pytest

from dynrefer.datasets.annotations import AnnotationIndex

POLYGON = [[10.0, 20.0, 10.0, 60.0, 50.0, 60.0, 50.0, 20.0]]


def annotation(id_, image_id, segmentation, caption="a dog", **extra_info):
    x1, y1, x2, y2 = 10.0, 20.0, 50.0, 60.0
    return {
        "id": id_,
        "image_id": image_id,
        "bbox": [x1, y1, x2, y2],  # corners in some of its files: the segmentation counts
        "segmentation": segmentation,
        "area": 1600.0,
        "iscrowd": 0,
        "category_id": 1,
        "caption": caption,
        "extra_info": extra_info,
    }


def image(id_, name="1.jpg"):
    return {"id": id_, "file_name": name, "width": 100, "height": 80, "coco_url": "http://x"}


def opened(tmp_path, images, annotations, **sections):
    dataset = {"name": "vg", "type": "test", "image_root": "data/vg/images"}
    content = {"dataset": dataset, "images": images, "annotations": annotations, **sections}
    (tmp_path / "test.json").write_text(json.dumps(content))
    return AnnotationIndex.open(tmp_path / "test.json")


@pytest.mark.parametrize(
    ("segmentation", "box"),
    [
        (POLYGON, (10, 20, 50, 60)),
        ([*POLYGON, [0, 0, 5, 0, 5, 5]], (0, 0, 50, 60)),
        ([[-3.5, 20, -3.5, 60, 120.25, 60, 120.25, 20]], (-3.5, 20, 120.25, 60)),
        ([[10, 20, 10, 60, 10.5, 60, 10.5, 20]], (9.5, 20, 10.5, 60)),
        ([[0, 0, 0, 0, 0, 0, 0, 0]], (0, 0, 1, 1)),
        # A mask, rows 2 and 3 of columns 1 and 2: its ends are inclusive.
        ({"size": [80, 100], "counts": [82, 2, 78, 2, 7836]}, (1, 2, 2, 3)),
    ],
)
def test_the_region_is_the_segmentations_box(tmp_path, segmentation, box):
    index = opened(tmp_path, [image(1)], [annotation(5, 1, segmentation)])
    assert index.region(0).box == box and not index.bad_records.counts


def test_sections_and_keys_of_every_benchmark(tmp_path):
    extra = [
        {"parser_result": {"tag_set1": [1], "tag_set2": [], "graph": {"entities": []}}},
        {"grit_result": {"score": 0.5, "caption": "a cat"}},
        {"ovad_result": {"att_vec": [1, 0, -1]}, "coco_result": {"category": "dog"}},
        {"yolow_result": {"label": 3, "score": 0.25}},
        {"imagenet_s_result": {"category_word": "n01440764", "category_id": 0}},
        {"pred_result": {"caption": "a dog", "score": 0.1, "attr": [0.5], "cls": [1.0]}},
    ]
    annotations = [annotation(i, 1, POLYGON, **one) for i, one in enumerate(extra)]
    sections = {"attrs": [{"id": 0}], "cats": [], "categories": [{"id": 1}], "info": {}}
    index = opened(tmp_path, [image(1)], annotations, **sections)
    assert [index.region(i).extra_info for i in range(len(index))] == extra


def test_one_image_an_expression(tmp_path):
    """Region captioning: the same file under an id for each region, captions in any state."""
    captions = ["the dog", "", "A dog's tail, wagging...", "ein Hündchen"]
    annotations = [annotation(i, 7 + i, POLYGON, caption) for i, caption in enumerate(captions)]
    index = opened(tmp_path, [image(7 + i) for i in range(4)], annotations)
    assert [index.region(i).caption for i in range(4)] == captions
    assert [index.region(i).captions for i in range(2)] == [("the dog",), ()]
    assert len({index.image(j).path for j in range(4)}) == 1
    assert str(index.image(0).path) == "data/vg/images/1.jpg"


def test_images_without_a_region_and_regions_in_any_order(tmp_path):
    annotations = [annotation(i, image_id, POLYGON) for i, image_id in ((9, 2), (3, 1), (4, 2))]
    index = opened(tmp_path, [image(1), image(3), image(2)], annotations)
    assert index.region_counts.tolist() == [1, 0, 2]
    assert [index.region(i).id for i in range(3)] == [3, 9, 4]
