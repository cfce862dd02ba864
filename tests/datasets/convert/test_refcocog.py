"""RefCOCOg: a region a sentence as published, or an object with all its sentences."""

import json
from pathlib import Path

import pytest

from dynrefer.datasets.annotations import AnnotationIndex
from tests.datasets.convert.sources import RefCocoG


@pytest.fixture
def source(tmp_path):
    return RefCocoG(tmp_path)


def annotations(path: Path) -> list[dict]:
    return json.loads(path.read_text())["annotations"]


def test_a_region_for_each_sentence(source):
    source.write()
    writers = source.convert_all()
    ids = {split: [r["id"] for r in annotations(w.out)] for split, w in writers.items()}
    assert ids == {"train": [101, 102, 201, 202], "val": [301, 302], "test": [401, 402]}
    first = annotations(writers["train"].out)[0]
    assert first == {
        "id": 101,
        "image_id": 1,
        "bbox": [4, 5, 20, 10],
        "caption": "dog 1 of 1",
        "extra_info": {"refcocog": {"ref_id": 1, "ann_id": 11}},
    }
    assert dict(writers["val"].counts) == {"images": 1, "regions": 2, "refs": 1, "sentences": 2}
    assert writers["val"].expected == {"refs": 2_573, "sentences": 4_896}


def test_an_object_with_all_its_sentences(source):
    source.write()
    writer = source.convert_all("train", by="region")["train"]
    region = AnnotationIndex.open(writer.out).region(0)
    assert (region.id, region.captions) == (1, ("dog 1 of 1", "dog 2 of 1"))
    with pytest.raises(ValueError, match="by is 'refs'; valid: sentence, region"):
        source.convert_all("train", by="refs")


def test_images_and_objects_of_other_splits_do_not_matter(source, tmp_path):
    source.content["refs"][3]["image_id"] = 5
    source.content["instances"]["images"].append({"id": 5})  # without a size
    source.write()
    table = source.convert_all("train")["train"].table()
    assert "dropped" not in table


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("ann_id", 77, "ref 1: unknown annotation id: 77 is not in the instances file"),
        ("image_id", 2, "ref 1: unknown image id: says 2, its object is in 1"),
        ("split", "training", "ref 1: unknown split: 'training'"),
        ("split", ["train"], r"ref 1: unknown split: ['train']"),
        ("sentences", [], "ref 1: no sentence: none of its sentences can be used"),
        ("sentences", [{"sent_id": 1}], "sentence 1 of ref 1: missing key: 'sent'"),
        ("sentences", "dog", "ref 1: wrong type: 'sentences' is 'dog'"),
        ("ref_id", None, "ref at position 0: wrong type: 'ref_id' is None"),
    ],
)
def test_bad_refs_are_named(source, key, value, message):
    source.content["refs"][0][key] = value
    source.write()
    writer = source.convert()
    dropped = json.loads(Path(f"{writer.out}.report.json").read_text())["dropped"]
    assert any(message in entry["first"][0] for entry in dropped.values())
    assert writer.counts["regions"] == 2


def test_an_object_listed_twice_keeps_its_first_box(source):
    objects = source.content["instances"]["annotations"]
    objects.append({**objects[0], "bbox": [0, 0, 1, 1]})
    source.write()
    writer = source.convert()
    assert annotations(writer.out)[0]["bbox"] == [4, 5, 20, 10]
    assert "annotation 11: duplicate id" in writer.table()


def test_another_pickle_is_refused(source):
    source.content["refs"] = {"refs": []}
    source.write()
    with pytest.raises(ValueError, match="refs.p: must hold a list of refs, holds a dict"):
        source.convert()
