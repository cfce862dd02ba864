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
