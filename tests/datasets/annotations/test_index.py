"""The annotation index: records as read, bad records, where it lies, and many processes at once."""

import json
import logging
import math
import multiprocessing
import os
import pickle
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from torch.utils.data import DataLoader

from dynrefer import files
from dynrefer.datasets.annotations import AnnotationIndex
from dynrefer.datasets.annotations.index_files import write_index
from tests.datasets.files import image_record, region_record, write_annotations
from tests.shared import shared_path


@pytest.fixture
def annotation_file(tmp_path):
    """Three images, the second without regions, regions not grouped by image."""
    images = [image_record(5), image_record(3), image_record("b")]
    owners = ["b", 5, "b", 5, 5]
    regions = [region_record(10 + i, owner) for i, owner in enumerate(owners)]
    return write_annotations(tmp_path, images, regions)


def index_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if ".index-" in path.name)


def open_one(folder: Path, annotation: dict, **options) -> AnnotationIndex:
    good = region_record("good", 1)
    path = write_annotations(folder, [image_record(1)], [annotation, good])
    return AnnotationIndex.open(path, **options)


def first_box(folder: Path, **changes) -> tuple:
    return open_one(folder, region_record("first", 1, **changes)).region(0).box


def test_regions_are_grouped_by_image_in_the_order_of_the_file(annotation_file):
    index = AnnotationIndex.open(annotation_file)
    assert (len(index), index.num_images) == (5, 3)
    assert [index.image(j).id for j in range(3)] == [5, 3, "b"]
    assert [index.region(i).id for i in range(5)] == [11, 13, 14, 10, 12]
    assert [index.regions_of_image(j) for j in range(3)] == [range(3), range(3, 3), range(3, 5)]
    assert [index.image_of_region(i) for i in range(5)] == [0, 0, 0, 2, 2]
    assert index.region_counts.tolist() == [3, 0, 2]
    assert index.source == annotation_file
    assert not index.bad_records.counts


def test_records_hold_what_the_file_says(tmp_path):
    extra = {"parser_result": {"tag_set1": [3]}, "note": "é"}
    record = region_record(1, 1, (8, 6, 20.5, 16), caption="A dog.", extra_info=extra)
    record["captions"] = ["one dog", "A dog.", "the dog", "one dog"]
    index = open_one(tmp_path, record)
    region, image = index.region(0), index.image(0)
    assert region.box == (8, 6, 28.5, 22)
    assert region.caption == "A dog."
    assert region.captions == ("A dog.", "one dog", "the dog", "one dog")
    assert region.extra_info == extra
    assert (image.file_name, image.width, image.height) == ("1.png", 64, 48)
    assert index.region(1).captions == ("A red dog no. good",)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ()),
        ({"caption": ""}, ()),
        ({"caption": "...", "captions": [" ", "a dog"]}, ("a dog",)),
        ({"captions": ["one", "two"]}, ("one", "two")),
        ({"caption": None, "captions": None}, ()),
        ({"caption": "one", "captions": None}, ("one",)),
        ({"caption": "one", "captions": []}, ("one",)),
        ({"caption": None, "captions": ["two"]}, ("two",)),
        ({"caption": "one", "captions": ["two", "one"]}, ("one", "two")),
        ({"caption": "", "captions": ["", "two"]}, ("two",)),
    ],
)
def test_captions_may_be_absent_where_they_are_not_required(tmp_path, fields, expected):
    record = {"id": 1, "image_id": 1, "bbox": [1, 1, 5, 5], **fields}
    region = open_one(tmp_path, record).region(0)
    assert region.captions == expected
    assert region.caption == (expected[0] if expected else "")


@pytest.mark.parametrize("position", [-1, 5])
def test_a_position_outside_is_an_index_error(annotation_file, position):
    index = AnnotationIndex.open(annotation_file)
    for read in (index.region, index.image, index.regions_of_image, index.image_of_region):
        with pytest.raises(IndexError, match=f"position {position} is outside 0.."):
            read(position)


# Boxes


@pytest.mark.parametrize(
    ("polygons", "box"),
    [
        ([[10, 5, 30, 5, 30, 25.5]], (10, 5, 30, 25.5)),
        ([[10, 5, 12, 8], [20, 30, 25, 40]], (10, 5, 25, 40)),
        ([[10, 5, 10, 25]], (9, 5, 10, 25)),  # no width: the far edge stays
        ([[10.2, 5, 10.8, 5.5]], (9.8, 4.5, 10.8, 5.5)),
        ([[0, 0, 0, 0]], (0, 0, 1, 1)),  # at the origin the near edge stays
        ([[4, 4, 5, 5]], (4, 4, 5, 5)),
    ],
)
def test_the_box_of_polygons(tmp_path, polygons, box):
    assert first_box(tmp_path, segmentation=polygons) == pytest.approx(box)


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize(
    ("rows", "columns", "box"),
    [
        (slice(5, 20), slice(10, 31), (10, 5, 30, 19)),  # last index, not the edge after it
        (slice(0, 48), slice(0, 64), (0, 0, 63, 47)),
        (slice(7, 8), slice(12, 13), (12, 7, 13, 8)),
        (slice(47, 48), slice(60, 64), (60, 47, 63, 48)),
    ],
)
def test_the_box_of_a_mask(tmp_path, rows, columns, box, compressed):
    mask = np.zeros((48, 64), dtype=np.uint8, order="F")
    mask[rows, columns] = 1
    if compressed:
        counts = coco_mask.encode(mask)["counts"].decode()
    else:
        flat = np.concatenate([[0], mask.ravel(order="F"), [2]])
        counts = np.diff(np.flatnonzero(np.diff(flat)), prepend=0).tolist()
        counts[-1] = 64 * 48 - sum(counts[:-1])
    assert first_box(tmp_path, segmentation={"size": [48, 64], "counts": counts}) == box


def test_masks_and_polygons_of_coco_have_the_published_boxes(tmp_path):
    path = shared_path("data/coco_sample/annotations/instances_val2017.json")
    content = json.loads(path.read_text())
    copied = write_annotations(tmp_path, content["images"], content["annotations"])
    index = AnnotationIndex.open(copied)
    boxes = {index.region(i).id: index.region(i).box for i in range(len(index))}
    assert len(boxes) == len(content["annotations"])
    for annotation in content["annotations"]:
        segmentation = annotation["segmentation"]
        if isinstance(segmentation, list):
            points = np.concatenate(segmentation).reshape(-1, 2)
            expected = [*points.min(0), *points.max(0)]
        else:
            pixels = coco_mask.decode(coco_mask.frPyObjects(segmentation, *segmentation["size"]))
            rows, columns = np.nonzero(pixels)
            expected = [columns.min(), rows.min(), columns.max(), rows.max()]
        assert boxes[annotation["id"]] == tuple(expected)


@pytest.mark.parametrize("density", [0.0005, 0.005, 0.5])
def test_random_masks_have_the_box_of_their_pixels(tmp_path, density):
    rng, expected, regions = np.random.default_rng(0), [], []
    for number in range(50):
        mask = np.asfortranarray(rng.random((48, 64)) < density, dtype=np.uint8)
        mask[tuple(rng.integers(0, 48, 2))] = 1
        segmentation = {"size": [48, 64], "counts": coco_mask.encode(mask)["counts"].decode()}
        regions.append(region_record(number, 1, segmentation=segmentation))
        rows, columns = np.nonzero(mask)
        x1, y1 = int(columns.min()), int(rows.min())
        expected.append((x1, y1, max(columns.max(), x1 + 1), max(rows.max(), y1 + 1)))
    index = AnnotationIndex.open(write_annotations(tmp_path, [image_record(1)], regions))
    assert [index.region(i).box for i in range(50)] == expected


def test_a_box_may_reach_past_the_border(tmp_path):
    assert first_box(tmp_path, bbox=[-5, -5, 100, 6]) == (-5, -5, 95, 1)


@pytest.mark.parametrize("segmentation", [[], [[]], None])
def test_an_empty_segmentation_leaves_the_box_to_bbox(tmp_path, segmentation):
    assert first_box(tmp_path, segmentation=segmentation, bbox=[1, 2, 3, 4]) == (1, 2, 4, 6)


def test_one_polygon_may_stand_alone(tmp_path):
    assert first_box(tmp_path, segmentation=[10, 5, 30, 5, 30, 25.5]) == (10, 5, 30, 25.5)


def test_null_is_as_good_as_an_absent_key(tmp_path):
    extra = {"parser_result": {"tag_set1": None, "tag_set2": [1.0]}, "ovad_result": None}
    record = region_record(1, 1, extra_info=extra)
    images = [image_record(1, width=64.0), image_record(2)]
    regions = [record, region_record(2, 1, extra_info=None), region_record(3, 2)]
    path = write_annotations(tmp_path, images, regions, dataset=None)
    index = AnnotationIndex.open(path)
    assert [index.region(i).extra_info for i in (0, 1)] == [
        {"parser_result": {"tag_set2": [1]}},
        {},
    ]
    assert index.image(0).width == 64 and index.image(0).path == tmp_path / "1.png"


# Bad records

BAD_REGIONS = {
    "no id": ({"id": ...}, "missing key", "annotation at position 1: missing key: 'id'"),
    "no image id": ({"image_id": ...}, "missing key", "annotation 7: missing key: 'image_id'"),
    "no box": ({"bbox": ...}, "missing key", "'bbox'"),
    "list as id": ({"id": [7]}, "wrong type", r"'id' is \[7\]"),
    "unknown image": ({"image_id": 99}, "unknown image id", "99 is not among"),
    "repeated id": ({"id": "good"}, "duplicate id", "annotation 'good': duplicate id"),
    "NaN": ({"bbox": [math.nan, 1, 2, 3]}, "box is not finite", r"'bbox' is \[nan, 1, 2, 3\]"),
    "infinite": ({"bbox": [1, 1, math.inf, 3]}, "box is not finite", "inf"),
    "NaN polygon": ({"segmentation": [[1, math.nan]]}, "box is not finite", "'segmentation'"),
    "no width": ({"bbox": [1, 2, 0, 3]}, "box has no area", r"\[1, 2, 0, 3\]"),
    "negative": ({"bbox": [9, 9, 3, -3]}, "box has no area", r"\[9, 9, 3, -3\]"),
    "outside": ({"bbox": [64, 2, 5, 5]}, "box outside the image", "in 64 x 48 pixels"),
    "above": ({"bbox": [4, -9, 5, 9]}, "box outside the image", r"xyxy \[4, -9, 9, 0\]"),
    "three numbers": ({"bbox": [1, 2, 3]}, "wrong type", "must be 4 numbers"),
    "text in box": ({"bbox": ["1", 2, 3, 4]}, "wrong type", "must be 4 numbers"),
    "flat polygon": ({"segmentation": [1, 2, 3, 4]}, "wrong type", "must be a list of polygons"),
    "odd polygon": ({"segmentation": [[1, 2, 3]]}, "wrong type", "not pairs of x and y"),
    "empty mask": (
        {"segmentation": {"size": [48, 64], "counts": [64 * 48]}},
        "box has no area",
        "no pixel",
    ),
    "mask of another size": (
        {"segmentation": {"size": [64, 48], "counts": [0, 64 * 48]}},
        "wrong type",
        r"must be the image's \[48, 64\]",
    ),
    "short mask": (
        {"segmentation": {"size": [48, 64], "counts": [3, 4]}},
        "wrong type",
        "must add up to 3072 pixels",
    ),
    "damaged mask": (
        {"segmentation": {"size": [48, 64], "counts": "zzzz~~~~"}},
        "wrong type",
        "must add up to 3072 pixels",
    ),
    "no counts": ({"segmentation": {"size": [48, 64]}}, "missing key", "'counts'"),
    "empty caption": ({"caption": " ... "}, "empty caption", "'caption' is ' ... '"),
    "no caption": ({"caption": ...}, "empty caption", "'caption' is ''"),
    "null caption": ({"caption": None}, "empty caption", "'caption' is None"),
    "number as caption": ({"caption": 4}, "wrong type", "'caption' is 4, must be a text"),
    "text as captions": ({"captions": "a dog"}, "wrong type", "must be a list of texts"),
    "null among captions": ({"captions": ["a dog", None]}, "wrong type", "a list of texts"),
    "list as extra": ({"extra_info": []}, "wrong type", "'extra_info'"),
    "half an emoji": ({"caption": "a \ud83d"}, "text is not UTF-8", r"'caption' is 'a \\ud83d'"),
    "half an emoji deep": ({"extra_info": {"x": "\ud83d"}}, "text is not UTF-8", r"x.*\\ud83d"),
    "negative tag": (
        {"extra_info": {"parser_result": {"tag_set1": [-1]}}},
        "wrong type",
        "'tag_set1' holds -1",
    ),
    **{
        f"attributes {labels}": (
            {"extra_info": {"ovad_result": {"att_vec": labels}}},
            "wrong label",
            rf"'att_vec' {re.escape(message)}",
        )
        for labels, message in (
            ([1, None], "holds None at position 1, must be 1, 0 or -1"),
            ([0.9, 0], "holds 0.9 at position 0"),
            ([1, 2], "holds 2 at position 1"),
            ([0, float("nan")], "holds nan at position 1"),
            ([True, 0], "holds True at position 0"),
            (["1", 0], "holds '1' at position 0"),
            ([[1], 0], "holds [1] at position 0"),
            ("10", "is '10', must be a list"),
            ({"a": 1}, "is {'a': 1}, must be a list"),
        )
    },
    "box in shares": (
        {"bbox": [0.1, 0.2, 0.9, 0.3]},
        "box in shares of the image",
        r"xyxy \[0.1, 0.2, 1.0, 0.5\], must be in pixels",
    ),
    "polygon in shares": (
        {"segmentation": [[0.1, 0.2, 0.9, 0.2, 0.9, 0.8]]},
        "box in shares of the image",
        "must be in pixels",
    ),
    "huge number": ({"bbox": [10**400, 1, 2, 3]}, "box is not finite", "'bbox' is"),
    "tag as name": (
        {"extra_info": {"parser_result": {"tag_set2": ["dog"]}}},
        "wrong type",
        "'tag_set2' holds 'dog', must be whole numbers from 0",
    ),
}


@pytest.mark.parametrize("case", BAD_REGIONS)
def test_a_bad_region_is_named_with_its_reason(tmp_path, case):
    changes, reason, message = BAD_REGIONS[case]
    record = {**region_record(7, 1), **changes}
    record = {key: value for key, value in record.items() if value is not ...}
    good = region_record("good", 1)
    path = write_annotations(tmp_path, [image_record(1)], [good, record])
    with pytest.raises(ValueError, match=f"(?s)train.json: 1 bad records .*{message}") as caught:
        AnnotationIndex.open(path, require_caption=True)
    assert "bad_records: skip" in str(caught.value)
    assert not index_folders(tmp_path)
    index = AnnotationIndex.open(path, bad_records="skip", require_caption=True)
    assert [index.region(i).id for i in range(len(index))] == ["good"]
    assert index.bad_records.counts == {reason: 1}
    assert [len(cases) for cases in index.bad_records.named.values()] == [1]


@pytest.mark.parametrize(
    ("box", "side"), [([0, 0, 1, 1], 64), ([0.5, 0.5, 0.5, 0.5], 15), ([0.5, 0.5, 0.6, 0.5], 64)]
)
def test_small_boxes_that_may_be_meant_so(tmp_path, box, side):
    """A whole pixel, in an image of few pixels, beyond the first pixel."""
    image = image_record(1, width=side, height=15)
    path = write_annotations(tmp_path, [image], [region_record(1, 1, bbox=box)])
    assert len(AnnotationIndex.open(path)) == 1


def test_a_record_that_is_no_object_is_bad(tmp_path):
    path = write_annotations(tmp_path, [image_record(1)], ["x", region_record(1, 1)])
    with pytest.raises(ValueError, match="annotation at position 0: wrong type: must be an object"):
        AnnotationIndex.open(path)


@pytest.mark.parametrize(
    ("image", "reason", "message"),
    [
        ({"id": 2}, "missing key", "image 2: missing key: 'file_name'"),
        (image_record(2, width="64"), "wrong type", "image 2: wrong type: 'width' is '64'"),
        (image_record(2, height=0), "image has no area", "64 x 0 pixels"),
        (image_record(2, width=0), "image has no area", "0 x 48 pixels"),
        (image_record(2, width=64.5), "wrong type", "'width' is 64.5, must be a whole number"),
        (image_record(2, width=2**31), "image too large", "pixels"),
        (image_record(1), "duplicate id", "image 1: duplicate id"),
    ],
)
def test_bad_images(tmp_path, image, reason, message):
    regions = [region_record(1, 1), region_record(2, 2)]
    path = write_annotations(tmp_path, [image_record(1), image], regions)
    with pytest.raises(ValueError, match=message):
        AnnotationIndex.open(path)
    index = AnnotationIndex.open(path, bad_records="skip")
    assert index.bad_records.counts == {reason: 1, "unknown image id": 1}
    assert (len(index), index.num_images) == (1, 1)


def test_strict_lists_the_first_five_and_counts_all(tmp_path):
    regions = [region_record(i, i % 2) for i in range(100)]
    path = write_annotations(tmp_path, [image_record(1)], regions)
    with pytest.raises(ValueError, match=r"50 bad records \(50 x unknown image id\)") as caught:
        AnnotationIndex.open(path)
    assert str(caught.value).count("\n") == 5


def test_skip_logs_the_count_at_every_opening_and_names_the_first(tmp_path, caplog):
    regions = [region_record(i, i % 2) for i in range(100)]
    path = write_annotations(tmp_path, [image_record(1)], regions)
    for _ in range(2):
        with caplog.at_level(logging.WARNING):
            caplog.clear()
            index = AnnotationIndex.open(path, bad_records="skip")
        assert "50 bad records (50 x unknown image id)" in caplog.text
        assert len(index.bad_records.named["unknown image id"]) == 5
        assert index.bad_records.counts.total() == 50


def test_a_file_without_a_usable_region_is_refused(tmp_path):
    path = write_annotations(tmp_path, [image_record(1)], [region_record(1, 2)])
    with pytest.raises(ValueError, match="train.json: holds no usable region; 1 bad records"):
        AnnotationIndex.open(path, bad_records="skip")
    assert [entry.name for entry in tmp_path.iterdir()] == ["train.json"]


# Bad files


def test_a_missing_file_names_the_setting(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.json.*build_info.annotations"):
        AnnotationIndex.open(tmp_path / "absent.json")


def test_broken_json_names_its_place(tmp_path):
    path = tmp_path / "train.json"
    path.write_text('{"images": [],\n "annotations": [}')
    with pytest.raises(ValueError, match=r"train.json: Expecting value \(at character 32\)"):
        AnnotationIndex.open(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["train.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "must be an object"),
        ('{"images": []}', r"has no key 'annotations'; its keys are \['images'\]"),
        ('{"annotations": []}', r"has no key 'images'; its keys are \['annotations'\]"),
        ('{"images": 1, "annotations": []}', "'images' must be an array"),
    ],
)
def test_both_sections_are_needed(tmp_path, content, message):
    (tmp_path / "train.json").write_text(content)
    with pytest.raises(ValueError, match=f"train.json: {message}"):
        AnnotationIndex.open(tmp_path / "train.json")


@pytest.mark.parametrize("dataset", [[1], {"image_root": 3}, {"image_root": "\ud83d"}])
def test_the_image_root_must_be_text(tmp_path, dataset):
    images, regions = [image_record(1)], [region_record(1, 1)]
    path = write_annotations(tmp_path, images, regions, dataset=dataset)
    with pytest.raises(ValueError, match="'dataset' must be an object, its 'image_root'"):
        AnnotationIndex.open(path)


def test_an_unknown_policy_is_refused(annotation_file):
    with pytest.raises(ValueError, match="bad_records is 'ignore', must be 'strict' or 'skip'"):
        AnnotationIndex.open(annotation_file, bad_records="ignore")


# The image root


def test_a_recorded_root_is_looked_for_beside_the_file_first(annotation_file, monkeypatch):
    elsewhere = annotation_file.parent / "elsewhere"
    (elsewhere / "images").mkdir(parents=True)
    monkeypatch.chdir(elsewhere)
    assert AnnotationIndex.open(annotation_file).image(0).path == Path("images/5.png")
    (annotation_file.parent / "images").mkdir()
    beside = annotation_file.parent / "images" / "5.png"
    assert AnnotationIndex.open(annotation_file).image(0).path == beside


def test_a_given_root_wins(annotation_file, tmp_path):
    (annotation_file.parent / "images").mkdir()
    index = AnnotationIndex.open(annotation_file, image_root=tmp_path / "mine")
    assert index.image(0).path == tmp_path / "mine" / "5.png"


def test_without_a_recorded_root_images_lie_beside_the_file(tmp_path):
    images, regions = [image_record(1)], [region_record(1, 1)]
    path = write_annotations(tmp_path, images, regions, dataset={})
    assert AnnotationIndex.open(path).image(0).path == tmp_path / "1.png"


@pytest.mark.parametrize(
    "name", ["../../../etc/passwd", "/etc/passwd", "a/../../b.png", "../images2/b.png"]
)
def test_a_name_that_leads_out_of_the_root_is_a_bad_record(tmp_path, name):
    records = [
        image_record(1, file_name=name),
        image_record(2),
        image_record(3, file_name="x/../3"),
    ]
    regions = [region_record(i, i) for i in (1, 2, 3)]
    path = write_annotations(tmp_path, records, regions)
    with pytest.raises(ValueError, match="image 1: file outside the image root: '.* in .*images"):
        AnnotationIndex.open(path)
    index = AnnotationIndex.open(path, bad_records="skip")
    assert [index.image(j).id for j in range(index.num_images)] == [2, 3]
    assert AnnotationIndex.open(path, image_root="/").num_images == 3


@pytest.mark.parametrize("name", ["", ".", "x/.."])
def test_the_folder_of_images_is_no_image(tmp_path, name):
    path = write_annotations(tmp_path, [image_record(1, file_name=name)], [region_record(1, 1)])
    with pytest.raises(ValueError, match="image 1: file outside the image root"):
        AnnotationIndex.open(path)


def test_an_absolute_recorded_root_is_taken_as_it_is(tmp_path):
    images, regions = [image_record(1)], [region_record(1, 1)]
    dataset = {"image_root": "/data/coco"}
    path = write_annotations(tmp_path, images, regions, dataset=dataset)
    assert AnnotationIndex.open(path).image(0).path == Path("/data/coco/1.png")


# Where the index lies


def test_the_index_is_made_once(annotation_file, monkeypatch):
    AnnotationIndex.open(annotation_file)
    (folder,) = index_folders(annotation_file.parent)
    assert folder.name.startswith("train.json.index-")
    monkeypatch.setattr("dynrefer.datasets.annotations.index.write_index", None)
    assert len(AnnotationIndex.open(annotation_file)) == 5


def test_the_index_is_on_the_disk_before_it_has_its_name(annotation_file, monkeypatch):
    synced, sync = [], files.sync
    monkeypatch.setattr(files, "sync", lambda path: synced.append(path.name) or sync(path))
    index = AnnotationIndex.open(annotation_file)
    assert {path.name for path in index.directory.iterdir()} <= set(synced)
    assert synced[-1] == annotation_file.parent.name


def test_other_users_may_read_the_index(annotation_file):
    before = os.umask(0o022)
    try:
        AnnotationIndex.open(annotation_file)
    finally:
        os.umask(before)
    (folder,) = index_folders(annotation_file.parent)
    assert folder.stat().st_mode & 0o777 == 0o755
    assert all(file.stat().st_mode & 0o044 == 0o044 for file in folder.iterdir())


@pytest.mark.parametrize("damage", ["emptied", "cut", "gone", "other numbers", "layout"])
@pytest.mark.parametrize("name", ["summary.json", "regions.jsonl", "region_starts.npy"])
def test_a_damaged_index_is_made_again_with_a_notice(annotation_file, caplog, name, damage):
    AnnotationIndex.open(annotation_file)
    (folder,) = index_folders(annotation_file.parent)
    path = folder / name
    content = path.read_bytes()
    changed = {
        "emptied": b"",
        "cut": content[:-3],
        "other numbers": content[:-9] + bytes(9),
        "layout": b"{}",
    }
    path.unlink()
    if damage in changed:
        path.write_bytes(changed[damage])
    with caplog.at_level(logging.WARNING):
        index = AnnotationIndex.open(annotation_file)
    if (name, damage) != ("regions.jsonl", "other numbers"):  # found where that line is read
        assert f"{folder} is damaged (" in caplog.text and "is made again" in caplog.text
        assert [index.region(i).id for i in range(5)] == [11, 13, 14, 10, 12]
        assert path.read_bytes() == content


def test_a_line_of_the_index_that_is_damaged_names_it(annotation_file):
    index = AnnotationIndex.open(annotation_file)
    path = index.directory / "regions.jsonl"
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(ValueError, match=r"regions.jsonl: line 3 is damaged; delete .*index-"):
        index.region(2)


def test_policies_have_indexes_of_their_own(tmp_path):
    record = region_record(1, 1, caption="")
    index = open_one(tmp_path, record)
    assert len(index) == 2
    assert len(AnnotationIndex.open(index.source, "", "skip")) == 2
    assert len(AnnotationIndex.open(index.source, "", "skip", require_caption=True)) == 1
    assert len(AnnotationIndex.open(index.source)) == 2


def test_a_changed_file_is_indexed_again(annotation_file):
    assert len(AnnotationIndex.open(annotation_file)) == 5
    status = annotation_file.stat()
    content = annotation_file.read_text().replace("dog no. 10", "cat no. 10")
    annotation_file.write_text(content)
    os.utime(annotation_file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert annotation_file.stat().st_size == status.st_size
    assert AnnotationIndex.open(annotation_file).region(3).caption == "A red cat no. 10"


def test_the_cache_takes_the_index_of_a_folder_that_cannot_be_written(
    annotation_file, tmp_path, monkeypatch
):
    make = tempfile.mkdtemp

    def refuse(prefix, dir):  # noqa: A002 - the name is tempfile's
        if Path(dir) == annotation_file.parent:
            raise PermissionError(13, "Permission denied", str(dir))
        return make(prefix=prefix, dir=dir)

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert len(AnnotationIndex.open(annotation_file)) == 5
    assert not index_folders(annotation_file.parent)
    (folder,) = index_folders(tmp_path / "cache" / "dynrefer")
    monkeypatch.setattr("dynrefer.datasets.annotations.index.write_index", None)
    assert AnnotationIndex.open(annotation_file).directory == folder


def test_a_full_disk_is_no_reason_for_the_cache(annotation_file, tmp_path, monkeypatch):
    def fail(prefix, dir):  # noqa: A002
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "mkdtemp", fail)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(OSError, match="No space left"):
        AnnotationIndex.open(annotation_file)
    assert not (tmp_path / "cache").exists()


def test_same_names_in_two_folders_do_not_meet_in_the_cache(tmp_path, monkeypatch):
    make = tempfile.mkdtemp
    cache = tmp_path / "cache"

    def refuse(prefix, dir):  # noqa: A002
        if cache not in Path(dir).parents:
            raise PermissionError(13, "Permission denied", str(dir))
        return make(prefix=prefix, dir=dir)

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    captions = ["a dog", "a cat"]
    for folder, caption in zip("ab", captions, strict=True):
        record = region_record(1, 1, caption=caption)
        path = write_annotations(tmp_path / folder, [image_record(1)], [record])
        os.utime(path, ns=(0, 0))
    opened = [AnnotationIndex.open(tmp_path / folder / "train.json") for folder in "ab"]
    assert [index.region(0).caption for index in opened] == captions


# Many processes


def test_pickling_carries_paths_alone(annotation_file):
    index = AnnotationIndex.open(annotation_file, image_root="mine")
    pickled = pickle.dumps(index)
    assert len(pickled) < 1000
    copy = pickle.loads(pickled)
    assert [copy.region(i) for i in range(5)] == [index.region(i) for i in range(5)]
    assert copy.image(2) == index.image(2)


class Captions:
    def __init__(self, index):
        self.index = index

    def __len__(self):
        return len(self.index)

    def __getitem__(self, i):
        return self.index.region(i).caption


def test_workers_read_the_same_records(annotation_file):
    captions = Captions(AnnotationIndex.open(annotation_file))
    loader = DataLoader(captions, batch_size=2, num_workers=2, collate_fn=list)
    assert sum(loader, []) == [captions[i] for i in range(5)]


def _open_at_the_same_time(path, barrier, results):
    barrier.wait()
    index = AnnotationIndex.open(path)
    results.put([index.region(i).id for i in range(len(index))])


def test_processes_that_make_the_index_together_agree(tmp_path):
    regions = [region_record(i, 1) for i in range(2000)]
    path = write_annotations(tmp_path, [image_record(1)], regions)
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(3), context.Queue()
    processes = [
        context.Process(target=_open_at_the_same_time, args=(path, barrier, results))
        for _ in range(3)
    ]
    for process in processes:
        process.start()
    read = [results.get(timeout=30) for _ in processes]
    for process in processes:
        process.join()
    assert read == [list(range(2000))] * 3
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(list(tmp_path.iterdir())) == 2


def test_the_loser_of_the_race_uses_the_winners_index(annotation_file, monkeypatch, caplog):
    module = "dynrefer.datasets.annotations.index.write_index"

    def write_after_another(*arguments):
        write_index(*arguments)
        monkeypatch.setattr(module, write_index)
        AnnotationIndex.open(annotation_file)

    monkeypatch.setattr(module, write_after_another)
    with caplog.at_level(logging.INFO):
        assert len(AnnotationIndex.open(annotation_file)) == 5
    assert "another process made" in caplog.text
    assert len(list(annotation_file.parent.iterdir())) == 2


def test_many_regions_open_without_the_file(tmp_path, monkeypatch):
    regions = [region_record(i, i % 400) for i in range(20_000)]
    path = write_annotations(tmp_path, [image_record(i) for i in range(400)], regions)
    AnnotationIndex.open(path)
    monkeypatch.setattr("dynrefer.datasets.annotations.index.write_index", None)
    index = AnnotationIndex.open(path)
    assert len(index) == 20_000
    assert index.region(12_345).id == 246 + 400 * 45
    assert index.image(index.image_of_region(12_345)).id == 246
