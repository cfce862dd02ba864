"""Annotation files and their reports: all or nothing, the same again, everything dropped named."""

import json
from pathlib import Path

import pytest

from dynrefer.datasets.annotations.fields import BadRecord
from dynrefer.datasets.annotations.json_stream import iterate_items, read_members
from dynrefer.datasets.convert.writing import AnnotationWriter, ImageFolder

IMAGE = {"id": "é", "file_name": "é.jpg", "width": 64, "height": 48, "coco_id": 5}
REGION = {"id": 1, "image_id": "é", "bbox": [1, 2, 3, 4], "caption": "ein Café ☕"}


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images").mkdir()
    return ImageFolder(tmp_path / "images")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "new" / "out.json"


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_file_is_plain_json_with_images_before_annotations(images, out):
    with AnnotationWriter(out, images, sections={"attrs": [1]}) as writer:
        writer.add(IMAGE, REGION)
        writer.add(IMAGE, {**REGION, "id": "2"})
    content = json.loads(out.read_text(encoding="utf-8"))
    assert list(content) == ["dataset", "attrs", "images", "annotations"]
    assert content["dataset"] == {"image_root": "../images"}
    assert content["images"] == [IMAGE]
    assert content["annotations"] == [REGION, {**REGION, "id": "2"}]
    assert list(iterate_items(out, "annotations")) == content["annotations"]
    assert read_members(out, without=("annotations",))["images"] == [IMAGE]
    assert files(out.parent) == ["out.json", "out.json.report.json"]


def test_what_no_reader_could_use_is_dropped_and_named(images, out):
    with AnnotationWriter(out, images) as writer:
        writer.add(IMAGE, REGION)
        writer.add(IMAGE, REGION)
        writer.add(IMAGE, {**REGION, "id": 2, "bbox": [99, 2, 3, 4]})
        writer.add(IMAGE, {**REGION, "id": 3, "captions": "dog"})
        writer.drop("image 7", BadRecord("text is not UTF-8", "'file_name' is 'caf\udce9'"))
    assert writer.counts == {"images": 1, "regions": 1}
    lines = Path(f"{out}.dropped.jsonl").read_text(encoding="utf-8").splitlines()
    reasons = ["duplicate id", "box outside the image", "wrong type", "text is not UTF-8"]
    assert [json.loads(line)["reason"] for line in lines] == reasons
    assert "dropped: 1 x text is not UTF-8, e.g. image 7" in writer.table()
    writer.table().encode()


def test_counts_stand_beside_the_expected_ones(images, out):
    with AnnotationWriter(out, images, expected={"images": 1, "regions": 1_000}) as writer:
        writer.add(IMAGE, REGION)
        writer.change("region 1", "box clipped")
        writer.counts["classes"] = 1_234_567
    lines = writer.table().splitlines()
    assert [line.split() for line in lines[2:]] == [
        ["images", "1", "1"],
        ["regions", "1", "1,000", "differs"],
        ["classes", "1,234,567", "-"],
        ["changed:", "1", "x", "box", "clipped,", "e.g.", "region", "1"],
    ]
    assert json.loads(Path(f"{out}.report.json").read_text()) == {
        "converted": {"images": 1, "regions": 1, "classes": 1_234_567},
        "expected": {"images": 1, "regions": 1_000},
        "dropped": {},
        "changed": {"box clipped": {"count": 1, "first": ["region 1"]}},
    }


def test_first_cases_of_each_reason_are_kept(images, out):
    with AnnotationWriter(out, images) as writer:
        writer.add(IMAGE, REGION)
        for number in range(100):
            writer.drop(f"region {number}", BadRecord("often", "x"))
        writer.drop("region 100", BadRecord("seldom", "x"))
    dropped = json.loads(Path(f"{out}.report.json").read_text())["dropped"]
    assert [entry["count"] for entry in dropped.values()] == [100, 1]
    assert [len(entry["first"]) for entry in dropped.values()] == [5, 1]
    assert len(Path(f"{out}.dropped.jsonl").read_text().splitlines()) == 101


def test_after_an_error_nothing_has_changed(images, out):
    with AnnotationWriter(out, images) as writer:
        writer.add(IMAGE, REGION)
        writer.drop("region 2", BadRecord("bad", "x"))
    before = {path: path.read_bytes() for path in out.parent.iterdir()}
    with pytest.raises(RuntimeError), AnnotationWriter(out, images) as writer:
        writer.add(IMAGE, {**REGION, "caption": "other"})
        raise RuntimeError
    with (
        pytest.raises(ValueError, match=r"(?s)no usable region for.*bad"),
        AnnotationWriter(out, images) as writer,
    ):
        writer.drop("region 1", BadRecord("bad", "x"))
    assert {path: path.read_bytes() for path in out.parent.iterdir()} == before


def test_a_list_of_drops_goes_when_nothing_is_dropped_any_more(images, out):
    for bad in (True, False):
        with AnnotationWriter(out, images) as writer:
            writer.add(IMAGE, REGION)
            if bad:
                writer.drop("region 2", BadRecord("bad", "x"))
        assert Path(f"{out}.dropped.jsonl").exists() is bad


def test_image_roots_are_relative_where_folders_lie_near(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = ImageFolder("data/vg/images", check=False)
    assert folder.recorded_for(Path("data/vg/vg1.2_test.json")) == "images"
    assert folder.recorded_for(Path("data/vg/pred_bboxes/vg1.2_test.json")) == "../images"
    far = ImageFolder("/somewhere/images", check=False)
    assert far.recorded_for(Path("data/vg/vg1.2_test.json")) == "/somewhere/images"


def test_images_are_found_by_the_first_name_that_is_there(images):
    (images.root / "b.jpg").touch()
    assert images.find("a.jpg", "b.jpg") == "b.jpg"
    with pytest.raises(BadRecord, match="image absent from disk: a.jpg or c.jpg under"):
        images.find("a.jpg", "c.jpg")
    assert ImageFolder(images.root, check=False).find("a.jpg", "b.jpg") == "a.jpg"
