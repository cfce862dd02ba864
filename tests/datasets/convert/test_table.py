"""Tables of image, box and caption: CSV and JSON lines."""

import json

import pytest

from dynrefer.datasets.annotations import AnnotationIndex
from dynrefer.datasets.convert.table import convert_table
from tests.datasets.convert.sources import Csv, JsonLines

HEADER = "image,x,y,width,height,caption\n"


@pytest.fixture
def convert_csv(tmp_path):
    source = Csv(tmp_path)

    def convert(text: str):
        source.path(source.main).write_text(text, encoding="utf-8")
        return source.convert()

    return convert


def test_csv_and_json_lines_give_the_same_file(tmp_path):
    contents = []
    for kind in (Csv, JsonLines):
        source = kind(tmp_path)
        source.write()
        contents.append(source.convert().out.read_text())
    assert contents[0] == contents[1]
    content = json.loads(contents[0])
    assert content["annotations"][0] == {
        "id": 11,
        "image_id": 1,
        "bbox": [4, 5, 20, 10],
        "caption": "A red dog, no. 0",
        "extra_info": {},
    }
    size = {"width": 64, "height": 48}
    assert content["images"] == [
        {"id": 1, "file_name": "1.png", **size},
        {"id": 2, "file_name": "2.png", **size},
    ]


def test_corners_quotes_and_rows_as_ids(convert_csv):
    header = "\ufeffimage,caption,x1,y1,x2,y2,note\n"
    writer = convert_csv(header + '1.png,"a ""red"", old\ndog",4.5,5,24.5,15,x\n')
    region = AnnotationIndex.open(writer.out).region(0)
    assert (region.id, region.caption) == (1, 'a "red", old\ndog')
    assert region.box == (4.5, 5, 24.5, 15)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1.png,4,5,20,10", "row 1: broken row: has more or fewer cells"),
        ("1.png,4,5,20,10,dog,cat", "row 1: broken row: has more or fewer cells"),
        ("1.png,4,5,20,x,dog", "row 1: wrong type: could not convert string to float: 'x'"),
        ("1.png,4,5,nan,10,dog", "row 1: box is not finite"),
        ("1.png,4,5,0,10,dog", "row 1: box has no area"),
        ("none.png,4,5,20,10,dog", "row 1: image absent from disk: none.png under"),
        ("text.png,4,5,20,10,dog", "row 1: image cannot be read: text.png"),
    ],
)
def test_bad_rows_are_named(convert_csv, tmp_path, row, message):
    (tmp_path / "images/text.png").write_text("no image")
    writer = convert_csv(HEADER + row + "\n2.png,4,5,20,10,good\n")
    assert message in writer.table() and writer.counts["regions"] == 1


def test_a_quote_that_never_ends_is_named(convert_csv):
    writer = convert_csv(HEADER + '1.png,4,5,20,10,good\n1.png,4,5,20,10,"bad\n')
    assert "row 2: broken row: unexpected end of data" in writer.table()


@pytest.mark.parametrize("header", ["image,caption,x,y\n", "x,y,width,height,caption\n", ""])
def test_missing_columns_are_an_error(convert_csv, header):
    with pytest.raises(ValueError, match="regions.csv: needs the columns image, caption and x"):
        convert_csv(header)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": [1, 2, 3]}, "'bbox' is [1, 2, 3], must be 4 numbers"),
        ({"captions": ["a", 1]}, "must be a list of texts"),
        ({"extra_info": []}, "'extra_info' is [], must be an object"),
        ({"caption": 3}, "'caption' is 3, must be a text"),
        ({"width": "20"}, "'x, y, width, height' is [4, 5, '20', 10]"),
        ({"image": None}, "'image' is None"),
    ],
)
def test_bad_json_lines_are_named(tmp_path, change, message):
    source = JsonLines(tmp_path)
    source.content[0] |= change
    source.write()
    writer = source.convert()
    assert message in writer.table() and writer.counts["regions"] == 3


def test_json_lines_with_several_captions_and_labels(tmp_path):
    source = JsonLines(tmp_path)
    extra = {"coco_result": {"category": "dog"}}
    row = {"image": "1.png", "bbox": [1, 2, 3, 4], "captions": ["a", "b"], "extra_info": extra}
    source.content = [row]
    source.write()
    with source.path(source.main).open("a") as file:
        file.write('\n[1]\n{"image":\n')
    writer = source.convert()
    region = AnnotationIndex.open(writer.out).region(0)
    assert (region.captions, region.extra_info) == (("a", "b"), extra)
    assert "row 2: wrong type: must be an object" in writer.table()
    assert "row 3: not JSON" in writer.table()


def test_other_files_are_refused(tmp_path):
    source = JsonLines(tmp_path)
    with pytest.raises(ValueError, match="regions.tsv: must be a .csv or a .jsonl file"):
        convert_table(tmp_path / "regions.tsv", tmp_path / "out.json", source.images)


IDS = "id,image,x,y,width,height,caption\n"


@pytest.mark.parametrize(
    ("written", "ids"),
    [
        (["7", "12"], [7, 12]),
        (["007", "7", "1.0", "x"], ["007", 7, "1.0", "x"]),
        (["", "9", ""], [1, 9, 3]),
        (["", "1", "", " "], [5, 1, 3, 4]),
        (["3", "", "", "2", "5"], [3, 6, 7, 2, 5]),
    ],
)
def test_ids_stay_as_written_and_blank_ones_get_free_numbers(convert_csv, written, ids):
    rows = [f"{identity},1.png,4,5,20,10,dog\n" for identity in written]
    writer = convert_csv(IDS + "".join(rows))
    regions = json.loads(writer.out.read_text())["annotations"]
    assert [region["id"] for region in regions] == ids


@pytest.mark.parametrize(
    ("fields", "captions"),
    [
        ({"caption": "a dog", "captions": []}, ("a dog",)),
        ({"caption": "a dog", "captions": None}, ("a dog",)),
        ({"caption": None, "captions": ["a dog"]}, ("a dog",)),
        ({"caption": "a dog", "captions": ["two dogs", "a dog"]}, ("a dog", "two dogs")),
        ({"caption": ""}, ()),
        ({}, ()),
    ],
)
def test_captions_mean_what_they_mean_to_the_index(tmp_path, fields, captions):
    source = JsonLines(tmp_path)
    source.content = [{"image": "1.png", "bbox": [1, 2, 3, 4], "id": None, **fields}]
    source.write()
    region = AnnotationIndex.open(source.convert().out).region(0)
    assert (region.id, region.captions) == (1, captions)


def test_endings_in_capitals(tmp_path):
    source = Csv(tmp_path)
    source.main = "REGIONS.CSV"
    source.write()
    assert source.convert().counts["regions"] == 4


def test_the_source_is_not_written_over(tmp_path):
    source = JsonLines(tmp_path)
    source.write()
    before = source.path(source.main).read_bytes()
    with pytest.raises(ValueError, match="regions.jsonl is read and would be written"):
        convert_table(source.path(source.main), source.path(source.main), source.images)
    assert source.path(source.main).read_bytes() == before


def test_a_column_twice_is_refused(convert_csv):
    with pytest.raises(
        ValueError, match="each once; has image, x, y, width, height, caption, caption"
    ):
        convert_csv(HEADER.replace("caption", "caption,caption"))


@pytest.mark.parametrize(
    "name", ["../secret.png", "/etc/passwd", "a" * 300 + ".png", "nul\0.png", "images"]
)
def test_names_that_no_folder_of_images_has_are_dropped(tmp_path, name):
    source = JsonLines(tmp_path)
    source.content[0]["image"] = name
    source.write()
    assert source.convert().counts["regions"] == 3
