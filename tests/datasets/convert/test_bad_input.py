"""Bad input of every converter: named, counted, and nothing lost without a word."""

import json
from pathlib import Path

import pytest

from dynrefer.datasets.annotations import AnnotationIndex
from dynrefer.datasets.convert.writing import AnnotationWriter
from tests.datasets.convert import sources
from tests.datasets.convert.sources import BAD_BYTE, WIDTH, Source

every_converter = pytest.mark.parametrize("kind", sources.ALL, ids=lambda kind: kind.__name__)


def first_region(source: Source) -> dict:
    """The first region's record; COCO-style where a format has another place for boxes."""
    content = source.content
    if isinstance(source, sources.VisualGenome):
        return content["regions"][0]["regions"][0]
    if isinstance(source, sources.RefCocoG):
        return content["instances"]["annotations"][0]
    return content["annotations"][0] if isinstance(content, dict) else content[0]


def put_outside(source: Source) -> int:
    region = first_region(source)
    if "x" in region:
        region["x"] = WIDTH + 5
    elif "bbox" in region:
        region["bbox"][0] = WIDTH + 5
        region.pop("segmentation", None)
    else:
        region["mask"] = {"size": [4, 4], "counts": [16, 99]}
    return 2 if isinstance(source, sources.RefCocoG) else 1


def point_to_no_image(source: Source) -> int:
    if isinstance(source, sources.RefCocoG):
        source.content["refs"][0]["image_id"] = 99
        return 2
    first_region(source)["image_id"] = 99
    return 1


def repeat_id(source: Source) -> int:
    content = source.content
    if isinstance(source, sources.VisualGenome):
        regions = content["regions"][0]["regions"]
        regions[1]["region_id"] = regions[0]["region_id"]
    elif isinstance(source, sources.RefCocoG):
        sentences = content["refs"][0]["sentences"]
        sentences[1]["sent_id"] = sentences[0]["sent_id"]
    else:
        records = content["annotations"] if isinstance(content, dict) else content
        records[1]["id"] = records[0]["id"]
    return 1


def spoil_text(source: Source) -> int:
    """A byte that is not UTF-8 in a text of one region; returns how many regions that costs."""
    content, region = source.content, first_region(source)
    if isinstance(source, sources.RefCocoG):
        content["refs"][0]["sentences"][0]["sent"] = "dog \udcff"
    elif isinstance(source, (sources.Coco, sources.Ovad)):
        content["images"][0]["file_name"] = BAD_BYTE
        return 2
    elif isinstance(source, sources.ImageNetS):
        region["image_pth"] = BAD_BYTE
    else:
        region["phrase" if "phrase" in region else "caption"] = f"dog {BAD_BYTE}"
    return 1


def report_of(writer: AnnotationWriter) -> dict:
    return json.loads(Path(f"{writer.out}.report.json").read_text())


def dropped_lines(writer: AnnotationWriter) -> list[dict]:
    path = Path(f"{writer.out}.dropped.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


@every_converter
def test_good_input_converts_whole_and_opens_strictly(kind, tmp_path):
    source = kind(tmp_path)
    source.write()
    writer = source.convert()
    assert writer.counts["regions"] == source.regions
    assert report_of(writer)["dropped"] == {}
    assert not Path(f"{writer.out}.dropped.jsonl").exists()
    index = AnnotationIndex.open(writer.out)
    assert len(index) == source.regions
    assert index.image_root.resolve() == (tmp_path / "images").resolve()
    assert all(index.image(j).path.is_file() for j in range(index.num_images))


@every_converter
def test_again_gives_the_same_bytes_and_leaves_the_file_alone(kind, tmp_path):
    source = kind(tmp_path)
    source.write()
    out = source.convert().out
    content, written = out.read_bytes(), out.stat().st_mtime_ns
    source.convert()
    assert (out.read_bytes(), out.stat().st_mtime_ns) == (content, written)
    assert [path for path in tmp_path.iterdir() if path.name.endswith(".part")] == []


SPOILERS = [
    (put_outside, {"box outside its image", "wrong type"}, ()),
    # The others have images by name.
    (point_to_no_image, {"unknown image id"}, (sources.ImageNetS, sources.JsonLines)),
    # The others number their regions themselves.
    (repeat_id, {"duplicate id"}, (sources.ImageNetS, sources.PredictedBoxes, sources.Lvis)),
    # Detections of LVIS have no text.
    (spoil_text, {"text is not UTF-8"}, (sources.Lvis,)),
]
SPOILT = [
    pytest.param(kind, spoil, reasons, id=f"{kind.__name__}: {spoil.__name__}")
    for spoil, reasons, others in SPOILERS
    for kind in sources.ALL
    if not issubclass(kind, others)
]


@pytest.mark.parametrize(("kind", "spoil", "reasons"), SPOILT)
def test_a_bad_record_is_named_and_counted_and_the_others_stay(kind, spoil, reasons, tmp_path):
    source = kind(tmp_path)
    lost = spoil(source)
    source.write()
    writer = source.convert()
    assert writer.counts["regions"] == source.regions - lost
    report = report_of(writer)
    (reason,) = set(report["dropped"]) & reasons
    case = report["dropped"][reason]
    assert case["count"] >= 1 and case["first"][0] in writer.table()
    drops = dropped_lines(writer)
    assert len(drops) == sum(entry["count"] for entry in report["dropped"].values())
    assert set(report["dropped"]) <= {reason, "image left out"}
    assert len(AnnotationIndex.open(writer.out)) == writer.counts["regions"]


@every_converter
def test_an_absent_image_is_named_and_its_regions_counted(kind, tmp_path):
    source = kind(tmp_path)
    source.write()
    before = source.convert().counts["regions"]
    missing = sorted((tmp_path / "images").rglob("1.*"))
    for path in missing:
        path.unlink()
    writer = source.convert()
    report = report_of(writer)
    assert missing[0].name in report["dropped"]["image absent from disk"]["first"][0]
    regions = [drop for drop in dropped_lines(writer) if not drop["record"].startswith("image ")]
    if kind is sources.ImageNetS:  # the image is the region
        regions = [{}]
    per_drop = 2 if kind is sources.RefCocoG else 1
    assert writer.counts["regions"] == before - per_drop * len(regions) < before


# What the converters share: one of each kind of file stands for all.
of_each_file = pytest.mark.parametrize(
    "kind",
    (sources.Coco, sources.PredictedBoxes, sources.RefCocoG, sources.JsonLines, sources.Csv),
    ids=lambda kind: kind.__name__,
)


@of_each_file
def test_missing_file(kind, tmp_path):
    source = kind(tmp_path)
    with pytest.raises(FileNotFoundError, match=source.main):
        source.convert()


@of_each_file
@pytest.mark.parametrize("content", [b'{"hello": 1}', b"\x89PNG\r\n\x1a\n\x00\xff", b""], ids=str)
def test_wrong_file(kind, content, tmp_path):
    source = kind(tmp_path)
    source.write()
    source.path(source.main).write_bytes(content)
    with pytest.raises(ValueError, match=r"(?s)no usable region|" + source.main):
        source.convert()
    assert not source.path("out.json").exists()
    assert [path for path in tmp_path.iterdir() if path.name.endswith(".part")] == []


@of_each_file
def test_truncated_file_leaves_the_earlier_result(kind, tmp_path):
    source = kind(tmp_path)
    source.write()
    out = source.convert().out
    good = out.read_bytes()
    path = source.path(source.main)
    path.write_bytes(path.read_bytes()[:-25])
    if issubclass(kind, sources.JsonLines):  # rows stand for themselves
        writer = source.convert()
        assert writer.counts["regions"] == source.regions - 1
        assert set(report_of(writer)["dropped"]) <= {"not JSON", "broken row"}
        return
    with pytest.raises(ValueError, match=source.main):
        source.convert()
    assert out.read_bytes() == good


def test_missing_folder_of_images(tmp_path):
    source = sources.Coco(tmp_path)
    source.write()
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="no folder of images at .*images.*--images"):
        source.convert()
