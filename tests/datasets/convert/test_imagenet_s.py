"""ImageNet-S: classes in the order of their first image, masks as regions."""

import json

import pytest

from dynrefer.datasets.annotations import AnnotationIndex
from dynrefer.datasets.convert.imagenet_s import read_class_names
from dynrefer.vocabulary import load_classes
from tests.datasets.convert.sources import ImageNetS


@pytest.fixture
def source(tmp_path):
    return ImageNetS(tmp_path)


def test_masks_names_and_classes(source, tmp_path):
    source.write()
    writer = source.convert()
    first, second, _ = json.loads(writer.out.read_text())["annotations"]
    assert first["extra_info"] == {"imagenet_s_result": {"category_word": "n02", "category_id": 0}}
    assert (first["caption"], second["caption"]) == ("great white shark", "tench")
    assert second["extra_info"]["imagenet_s_result"]["category_id"] == 1
    assert AnnotationIndex.open(writer.out).region(0).box == (2, 0, 3, 3)
    names = load_classes(tmp_path / "out_class.json").names
    assert names == ("great white shark", "tench")
    assert writer.expected == {"images": 12_419, "regions": 12_419, "classes": 919}


def test_classes_are_numbered_in_the_order_of_their_first_image(source, tmp_path):
    for record, word in zip(source.content, ("n02", "n02", "n01"), strict=True):
        record["category_word"] = word
    source.write()
    regions = json.loads(source.convert().out.read_text())["annotations"]
    results = [region["extra_info"]["imagenet_s_result"] for region in regions]
    assert [result["category_id"] for result in results] == [0, 0, 1]
    assert load_classes(tmp_path / "out_class.json").names == ("great white shark", "tench")


def test_an_empty_mask_stands_for_the_whole_image(source):
    source.content[0]["mask"] = {"size": [4, 4], "counts": [16]}
    source.write()
    writer = source.convert()
    assert AnnotationIndex.open(writer.out).region(0).box == (0, 0, 4, 4)
    assert "changed: 1 x empty mask, the whole image instead, e.g. image 0" in writer.table()


@pytest.mark.parametrize(
    "mask", [None, {}, {"size": [4]}, {"size": [4, 4], "counts": [1]}, {"size": [0, 4]}]
)
def test_bad_masks_are_named(source, mask):
    source.content[0]["mask"] = mask
    source.write()
    writer = source.convert()
    assert "e.g. image 0: " in writer.table() and writer.counts["regions"] == 2


def test_a_class_without_a_name_is_an_error(source):
    source.content[1]["category_word"] = "n03"
    source.write()
    with pytest.raises(ValueError, match="names.txt: has no name for class 'n03' of .*919.json"):
        source.convert()


def test_lists_of_names(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("n01 tench, Tinca tinca\n\nn02\tshark\n")
    assert read_class_names(path) == {"n01": "tench", "n02": "shark"}
    path.write_text("n01 tench\nn02\n")
    with pytest.raises(ValueError, match="names.txt: line 2 is 'n02', must be an id and its names"):
        read_class_names(path)
