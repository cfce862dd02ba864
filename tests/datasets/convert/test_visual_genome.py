"""Visual Genome: splits, words, boxes, older key names, tags on the way, memory."""

import json
import tracemalloc
from pathlib import Path

import pytest

from dynrefer.datasets.annotations import AnnotationIndex, json_stream
from dynrefer.datasets.annotations.fields import BadRecord
from dynrefer.datasets.convert.visual_genome import clean_phrase, place_box
from tests.datasets.convert.sources import HEIGHT, WIDTH, RegionCaptions, VisualGenome

IMAGE = {"id": 1, "file_name": "1.jpg", "width": WIDTH, "height": HEIGHT}


@pytest.fixture
def source(tmp_path):
    return VisualGenome(tmp_path)


def annotations(path: Path) -> list[dict]:
    return json.loads(path.read_text())["annotations"]


def test_each_split_gets_its_images_in_the_order_of_the_file(source, tmp_path):
    source.write()
    writers = source.convert_all()
    ids = {split: [r["id"] for r in annotations(w.out)] for split, w in writers.items()}
    assert ids == {"train": [11, 12, 21, 22], "val": [31, 32], "test": [41, 42]}
    first = annotations(writers["train"].out)[0]
    box, caption = [15, 5, 20, 10], "a red dog no 11"
    assert first == {"id": 11, "image_id": 1, "bbox": box, "caption": caption, "extra_info": {}}
    images = json.loads((tmp_path / "out.json").read_text())["images"]
    assert [image["file_name"] for image in images] == ["VG_100K_2/1.jpg", "VG_100K/2.jpg"]
    assert writers["train"].counts["source images in no split"] == 1
    assert writers["train"].expected == {"images": 77_398}


def test_only_the_wanted_splits_are_written(source, tmp_path):
    source.write()
    assert list(source.convert_all("val")) == ["val"]
    assert not (tmp_path / "out.json").exists()


def test_vgcoco_keeps_images_of_coco_alone(source):
    source.version = "vgcoco"
    source.write()
    writers = source.convert_all("train", "test")
    assert [r["id"] for r in annotations(writers["train"].out)] == [11, 12]
    assert writers["train"].counts["images not of COCO"] == 1


def test_images_in_one_folder_as_in_the_published_layout(source, tmp_path):
    for path in sorted((tmp_path / "images").rglob("*.jpg")):
        path.rename(tmp_path / "images" / path.name)
    source.write()
    index = AnnotationIndex.open(source.convert().out)
    assert [index.image(j).file_name for j in range(2)] == ["1.jpg", "2.jpg"]


def test_keys_of_version_1_0(source):
    for record in source.content["images"]:
        record["id"] = record.pop("image_id")
    for region in (r for record in source.content["regions"] for r in record["regions"]):
        region["id"], region["image"] = region.pop("region_id"), region.pop("image_id")
    source.version = "vg1.0"
    source.write()
    assert source.convert().counts["regions"] == 4


@pytest.mark.parametrize(
    ("phrase", "words"),
    [
        ("A Red dog, no. 1!", "a red dog no 1"),
        ("  two\tspaces \n", "two spaces"),
        ("½ a café at 90° …™", "half a cafe at 90 degree"),
        ("black-and-white", "blackandwhite"),
        ("?!", ""),
    ],
)
def test_phrases_are_cleaned_as_published(phrase, words):
    assert clean_phrase(phrase) == words


def test_long_phrases_are_dropped_and_empty_ones_in_training_only(source):
    for record in source.content["regions"]:
        record["regions"][0]["phrase"] = "?!"
    source.content["regions"][1]["regions"][0]["phrase"] = "word " * 15
    source.content["regions"][1]["regions"][1]["phrase"] = "word " * 16
    source.write()
    writers = source.convert_all()
    assert [r["id"] for r in annotations(writers["train"].out)] == [12, 21]
    report = json.loads(Path(f"{writers['train'].out}.report.json").read_text())
    counts = {reason: entry["count"] for reason, entry in report["dropped"].items()}
    assert counts == {"empty phrase": 1, "more than 15 words": 1}
    assert annotations(writers["val"].out)[0]["caption"] == ""
    changed = json.loads(Path(f"{writers['val'].out}.report.json").read_text())["changed"]
    assert changed == {"empty phrase kept for evaluation": {"count": 1, "first": ["region 31"]}}


@pytest.mark.parametrize(
    ("box", "placed", "change"),
    [
        ([3, 4, 10, 10], [3, 4, 10, 10], None),
        ([1, 1, 63, 47], [1, 1, 63, 47], None),
        ([0, 0, 10, 10], [1, 1, 9, 9], "box moved to start at pixel 1"),
        ([-5, 4, 10, 10], [1, 4, 4, 10], "box clipped to its image"),
        ([60, 40, 30, 30], [60, 40, 4, 8], "box clipped to its image"),
        ([0, 0, 999, 999], [1, 1, 63, 47], "box clipped to its image"),
    ],
)
def test_boxes_are_placed_as_published(box, placed, change):
    assert place_box(box, IMAGE, training=True) == (placed, change)
    assert place_box(box, IMAGE, training=False) == (placed, change)


@pytest.mark.parametrize("box", [[10, 10, 0, 5], [10, 10, 5, 0], [0, 5, 1, 5]])
def test_empty_boxes_are_dropped_in_training_and_a_pixel_wide_in_evaluation(box):
    with pytest.raises(BadRecord, match="no area"):
        place_box(box, IMAGE, training=True)
    placed, change = place_box(box, IMAGE, training=False)
    assert min(placed[2:]) == 1 and change == "empty box widened to a pixel"


@pytest.mark.parametrize("box", [[64, 4, 5, 5], [4, 48, 5, 5], [-9, 4, 5, 5], [4, -9, 5, 5]])
@pytest.mark.parametrize("training", [True, False])
def test_boxes_outside_are_dropped_everywhere(box, training):
    with pytest.raises(BadRecord, match="outside its image"):
        place_box(box, IMAGE, training)


def test_a_region_that_says_another_image_is_dropped(source):
    source.content["regions"][0]["regions"][0]["image_id"] = 2
    source.write()
    assert "unknown image id: says image 2, stands with 1" in source.convert().table()


def test_images_without_regions_and_records_without_a_split_are_named(source):
    source.content["regions"][0]["regions"] = []
    source.content["regions"].append({"regions": []})
    source.content["images"].append({"width": 1, "height": 1})
    source.write()
    drops = Path(f"{source.convert_all()['train'].out}.dropped.jsonl").read_text()
    assert '"image 1","reason":"image without a region"' in drops
    assert "regions of image at position 5" in drops and "image at position 5" in drops


def test_split_files_are_checked(source):
    source.content["splits"]["val"] = [3, 1]
    source.write()
    with pytest.raises(ValueError, match="splits.json: image 1 is in train and val"):
        source.convert_all()
    source.content["splits"] = {"train": [1, "2"], "val": [], "test": []}
    source.write()
    with pytest.raises(ValueError, match="splits.json: 'train' must be a list of image ids"):
        source.convert_all()


def test_a_split_without_a_region_leaves_all_files_unwritten(source, tmp_path):
    source.content["splits"]["test"] = [99]
    source.write()
    with pytest.raises(ValueError, match=r"(?s)no usable region for.*test.json.*image 99"):
        source.convert_all()
    assert not (tmp_path / "out.json").exists()


def test_a_step_completes_annotations_on_their_way(source):
    source.write()

    def number(stream):
        for position, annotation in enumerate(stream):
            yield {**annotation, "extra_info": {"position": position}}

    writers = source.convert_all(step=number)
    assert [r["extra_info"]["position"] for r in annotations(writers["test"].out)] == [6, 7]


def test_memory_does_not_hold_the_regions(source, tmp_path, monkeypatch):
    image, region = source.content["images"][0], source.content["regions"][0]["regions"][0]
    numbers = range(1, 31)
    source.content = {
        "images": [{**image, "image_id": n} for n in numbers],
        "regions": [
            {
                "id": n,
                "regions": [
                    {**region, "image_id": n, "region_id": n * 200 + k} for k in range(200)
                ],
            }
            for n in numbers
        ],
        "splits": {"train": list(numbers[2:]), "val": [1], "test": [2]},
    }
    source.place_images(*(f"VG_100K/{n}.jpg" for n in numbers))
    source.write()
    monkeypatch.setattr(json_stream, "CHUNK", 1 << 14)
    tracemalloc.start()
    try:
        assert source.convert().counts["regions"] == 28 * 200
        # In memory as JSON the regions would take some 700 bytes each; ids and a chunk stay.
        assert tracemalloc.get_traced_memory()[1] < 5_600 * 500
    finally:
        tracemalloc.stop()


def test_region_captions_keep_ids_and_captions(tmp_path):
    source = RegionCaptions(tmp_path)
    source.content["annotations"][0]["bbox"] = [60, 40, 30.5, 30]
    source.write()
    writer = source.convert()
    first = annotations(writer.out)[0]
    assert (first["id"], first["caption"], first["bbox"]) == (11, "A red dog no. 0", [60, 40, 4, 8])
    assert writer.expected == {"images": 5_000, "regions": 5_000}
    assert "changed: 1 x box clipped to its image, e.g. annotation 11" in writer.table()
