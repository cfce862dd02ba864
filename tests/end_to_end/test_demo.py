import json
import os
import sys

import numpy as np
import pytest
from PIL import Image

from dynrefer.command_line import entry_point
from dynrefer.commands import demo, parsers
from dynrefer.predictor import RegionPredictor
from dynrefer.runners.checkpointing import Position, save_checkpoint
from tests.processes import ROOT, run_command
from tests.tiny_model import tiny_config, tiny_model


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with checkpoint, image and mask."""
    folder = tmp_path_factory.mktemp("demo")
    config = tiny_config(folder)
    save_checkpoint(folder / "checkpoints", tiny_model(config), config, Position(), {})
    pixels = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "image.png")
    mask = np.zeros((50, 60), dtype=np.uint8)
    mask[10:40, 20:45] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    Image.fromarray(mask * 0).save(folder / "empty.png")
    Image.new("L", (3, 2), 255).save(folder / "small.png")
    Image.new("F", (60, 50)).save(folder / "float.tiff")
    return folder


def arguments_for(files, *more):
    checkpoint = str(files / "checkpoints" / "last")
    return ["--image", str(files / "image.png"), "--checkpoint", checkpoint, *map(str, more)]


def in_process(arguments):
    entry_point(demo.main, parsers.demo().parse_args(arguments))


def test_json_and_picture(files, tmp_path):
    out = tmp_path / "out.png"
    more = ["--box", 1, 2, 20, 30, "--mask", files / "mask.png", "--control", "red,star"]
    arguments = arguments_for(files, *more, "--top", 2, "--json", "--out", out)
    result = run_command(sys.executable, ROOT / "demo.py", *arguments, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    regions = json.loads(result.stdout)
    assert [region["id"] for region in regions] == [0, 1]
    assert [region["box"] for region in regions] == [[1, 2, 20, 30], [20, 10, 45, 40]]
    predictor = RegionPredictor.from_checkpoint(files / "checkpoints" / "last", "cpu")
    expected = predictor.predict(
        files / "image.png", [[1, 2, 20, 30], [20, 10, 45, 40]], controls=[["red", "star"]] * 2
    )
    for region, wanted in zip(regions, expected, strict=True):
        assert region["caption"] == wanted.prediction.caption
        assert region["tags"] == wanted.prediction.tags
        assert region["class"] == wanted.prediction.class_name
        assert region["score"] == pytest.approx(wanted.prediction.score, rel=1e-3)
        assert region["class_score"] == pytest.approx(max(wanted.prediction.class_logits), abs=1e-4)
        assert [view["box"] for view in region["views"]] == [list(b) for b in wanted.view_boxes]
        assert [view["ratio"] for view in region["views"]][0] == 0
        scores = [item["score"] for item in region["attributes"]]
        best = sorted(wanted.prediction.attributes, reverse=True)[:2]
        assert scores == pytest.approx(best, abs=1e-4)
        assert all(": " in item["name"] for item in region["attributes"])
    with Image.open(out) as picture:
        assert picture.width > 1500


def test_results_are_printed_before_the_picture_is_drawn(files, tmp_path, monkeypatch, capsys):
    """Masks are drawn as such, and what fails while drawing loses no prediction."""

    def fail(image, predictions, boxes, names, masks, top):
        shapes = [None if mask is None else int(mask.sum()) for mask in masks]
        raise OSError(f"shapes {shapes}, top {top}")

    monkeypatch.setattr(demo, "draw_regions", fail)
    more = ["--mask", files / "mask.png", "--box", 1, 2, 20, 30, "--top", 2]
    with pytest.raises(SystemExit):
        in_process(arguments_for(files, *more, "--out", tmp_path / "out.png"))
    printed = capsys.readouterr()
    assert printed.out.count("caption") == 2 and printed.err == "error: shapes [None, 750], top 2\n"


def test_the_picture_is_drawn_though_nobody_reads_on(files, tmp_path, monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    out = tmp_path / "out.png"
    with open(writer, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        in_process(arguments_for(files, "--box", 1, 2, 20, 30, "--out", out))
    assert out.is_file()


def test_without_a_checkpoint(files, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["--image", str(files / "image.png"), "--box", "1", "2", "20", "30"]
    assert_error(arguments, "`bash scripts/quickstart.sh`) trains one in minutes", capsys)


def test_default_checkpoint(files, tmp_path, monkeypatch, capsys):
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "shapes").symlink_to(files)
    monkeypatch.chdir(tmp_path)
    in_process(["--image", str(files / "image.png"), "--box", "1", "2", "20", "30"])
    assert "caption" in capsys.readouterr().out


def test_text(files, capsys):
    in_process(arguments_for(files, "--box", 1, 2, 20, 30.5, "--box", 5, 5, 50, 45, "--top", 3))
    one, two = capsys.readouterr().out.split("\n\n")
    lines = one.splitlines()
    assert lines[0].split() == ["region", "0", "box", "1", "2", "20", "30.5"]
    assert [text.split()[0] for text in lines[1:]] == [
        "caption",
        "tags",
        "class",
        "attributes",
        "views",
    ]
    assert lines[4].count("(0.") + lines[4].count("(1.") == 3
    assert lines[5].split("t = ")[1].split(", ")[0] == "0"
    assert two.startswith("region 1")


def test_configuration_with_a_checkpoint(files, capsys):
    box = ["--box", 1, 2, 20, 30]
    configuration = ["--cfg-path", files / "tiny.yaml", "--options", "model.tag_threshold=1"]
    in_process(arguments_for(files, *box, *configuration))
    assert "tags        (none)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "no region is given"),
        (["--box", 1, 2, "nan", 4], "box 0 [1.0, 2.0, nan, 4.0] is not finite"),
        (["--box", 100, 2, 110, 4], "box 0 [100.0, 2.0, 110.0, 4.0] lies wholly outside"),
        (["--mask", "{files}/empty.png"], "empty.png has no pixel that is not black"),
        (["--mask", "{files}/none.png"], "none.png does not exist"),
        (["--box", 1, 2, 3, 4, "--image", "none.png"], "image file none.png does not exist"),
        (["--box", 1, 2, 3, 4, "--image", "{files}/tiny.yaml"], "tiny.yaml cannot be decoded"),
        (["--box", 1, 2, 3, 4, "--out", "{files}/none/out.png"], "there is no folder"),
        (["--box", 1, 2, 3, 4, "--out", "out.gif"], "suffix '.gif'"),
        (["--box", 1, 2, 3, 4, "--top", -1], "--top -1"),
        (["--mask", "{files}/small.png"], "mask file {files}/small.png is bool [2, 3]; valid is"),
        (["--box", 1, 2, 3, 4, "--out", "{files}/image.png"], "would write over an image"),
        (["--box", 0.1, 0.2, 0.5, 0.6], "box 0 [0.1, 0.2, 0.5, 0.6] is less than a pixel"),
        (["--box", 1, 2, 3, 4, "--image", "{files}/float.tiff"], "float.tiff cannot be used"),
    ],
)
def test_errors_come_before_the_model(files, monkeypatch, capsys, more, message):
    def refuse(_):
        raise AssertionError("the model was built")

    monkeypatch.setattr(demo, "load_predictor", refuse)
    arguments = arguments_for(files, *(str(m).format(files=files) for m in more))
    assert_error(arguments, message.replace("{files}", str(files)), capsys)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--checkpoint", "none"], "no checkpoint at none"),
        (["--options", "model.tag_treshold=1"], "did you mean 'tag_threshold'"),
        (["--options", "run.view_selector.name=image"], "'image_prior'"),
        (["--device", "tpu9"], "device 'tpu9'"),
        (["--cfg-path", "none.yaml"], "no configuration file at none.yaml"),
    ],
)
def test_errors_of_the_model(files, capsys, more, message):
    assert_error(arguments_for(files, "--box", 1, 2, 20, 30, *more), message, capsys)


def test_regions_of_a_folder(files, tmp_path, capsys):
    """Each image once, the regions of its lines together; a bad line is told and ends nothing."""
    rows = [
        {"id": 5, "image": "image.png", "box": [1, 2, 20, 30]},
        {"id": "all", "image": "image.png", "boxes": [[5, 5, 50, 45]]},
        {"id": 6, "image": "none.png", "box": [1, 2, 20, 30]},
    ]
    regions = tmp_path / "regions.jsonl"
    regions.write_text("\n".join(map(json.dumps, rows)))
    checkpoint = ["--checkpoint", str(files / "checkpoints" / "last")]
    many = ["--images", str(files), "--regions", str(regions), "--control", "red"]
    in_process([*checkpoint, *many, "--json", "--top", "2"])
    printed = capsys.readouterr()
    one, two, bad = map(json.loads, printed.out.splitlines())
    assert (one["id"], two["id"], bad["id"]) == (5, "all/0", 6)
    assert "none.png does not exist" in bad["error"] and "1 regions could not" in printed.err
    box = ["--box", "1", "2", "20", "30", "--control", "red", "--json", "--top", "2"]
    in_process(arguments_for(files, *box))
    (single,) = json.loads(capsys.readouterr().out)
    for name in ("caption", "tags", "class", "box", "views"):
        assert one[name] == single[name]
    assert [item["name"] for item in one["attributes"]] == [a["name"] for a in single["attributes"]]
    in_process([*checkpoint, *many])
    text = capsys.readouterr().out
    assert text.count("  caption  ") == 2 and text.startswith("image.png\nregion 5    box 1 2 20")
    assert_error([*checkpoint, "--images", str(files)], "--images needs --regions FILE", capsys)
    assert_error([*checkpoint, *many, "--box", "1", "2", "3", "4"], "--box goes with", capsys)


def assert_error(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        in_process(arguments)
    printed = capsys.readouterr()
    assert stop.value.code == 2 and printed.out == ""
    assert printed.err.startswith("error: ") and len(printed.err.splitlines()) == 1
    assert message in printed.err
