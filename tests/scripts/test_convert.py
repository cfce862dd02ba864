"""The scripts of scripts/convert/: arguments, reports, exit codes, tags on the way."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from dynrefer.datasets.annotations import AnnotationIndex
from tests.datasets.convert import sources
from tests.processes import run_script

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs a script in the test's folder; gives exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def run_here(script: str, *arguments: str) -> tuple[int, str, str]:
        path = str(ROOT / f"scripts/convert/{script}.py")
        monkeypatch.setattr(sys, "argv", [path, *arguments])
        code = 0
        try:
            runpy.run_path(path, run_name="__main__")
        except SystemExit as error:
            code = error.code
        return code, *capsys.readouterr()

    return run_here


def source_of(kind: type, folder: Path) -> sources.Source:
    source = kind(folder)
    source.write()
    return source


COMMANDS = {
    sources.Coco: ["coco", "--source", "instances.json", "--out", "out.json"],
    sources.Ovad: ["ovad", "--source", "ovad.json", "--out", "out.json"],
    sources.PredictedBoxes: [
        *["predicted_boxes", "--detections", "detections.json"],
        *["--ground-truth", "truth.json", "--out", "out.json"],
    ],
    sources.Lvis: [
        *["lvis", "--detections", "detections.json", "--lvis", "lvis.json", "--out", "out.json"]
    ],
    sources.ImageNetS: [
        *["imagenet_s", "--source", "imagenet_919.json", "--class-names", "names.txt"],
        *["--out", "out.json"],
    ],
    sources.Csv: ["table", "--source", "regions.csv", "--out", "out.json"],
    sources.RegionCaptions: [
        *["visual_genome", "--version", "vg_reg", "--regions", "test_caption.json", "--out", "."]
    ],
    sources.VisualGenome: [
        *["visual_genome", "--version", "vg1.2", "--annotations", ".", "--out", "."],
        *["--split-file", "splits.json"],
    ],
    sources.RefCocoG: [
        *["refcocog", "--refs", "refs.p", "--instances", "instances.json", "--out", "."]
    ],
}
OUTS = {
    sources.RegionCaptions: "vg_reg_test.json",
    sources.VisualGenome: "vg1.2_train.json",
    sources.RefCocoG: "refcocog_train.json",
}
each_script = pytest.mark.parametrize("kind", COMMANDS, ids=lambda kind: kind.__name__)


@each_script
def test_scripts_convert_and_report(run, kind, tmp_path):
    source = source_of(kind, tmp_path)
    code, output, errors = run(*COMMANDS[kind], "--images", "images")
    assert (code, errors) == (0, "")
    assert "converted    expected" in output
    assert len(AnnotationIndex.open(tmp_path / OUTS.get(kind, "out.json"))) == source.regions


@each_script
def test_wrong_files_end_with_one_line_and_code_1(run, kind, tmp_path):
    source = source_of(kind, tmp_path)
    source.path(source.main).write_text("[")
    code, output, errors = run(*COMMANDS[kind], "--images", "images")
    assert (code, output) == (1, "")
    assert errors.startswith("error: ") and source.main in errors


@pytest.mark.parametrize("name", ["vg1.0", "vgcoco"])
def test_versions_of_visual_genome_name_their_files(run, name, tmp_path):
    source = sources.VisualGenome(tmp_path)
    for image in source.content["images"]:
        image["coco_id"] = 1
    source.write()
    command = [word if word != "vg1.2" else name for word in COMMANDS[sources.VisualGenome]]
    code, _, errors = run(*command, "--images", "images", "--splits", "val", "test")
    assert code == 0, errors
    names = [f"{name}_{split}.json" for split in ("train", "val", "test")]
    assert [(tmp_path / name).exists() for name in names] == [False, True, True]


def test_region_captioning_needs_its_file(run, tmp_path):
    source_of(sources.RegionCaptions, tmp_path)
    code, _, errors = run("visual_genome", "--version", "vg_reg", "--images", "images")
    assert (code, errors) == (1, "error: vg_reg needs --regions, GLaMM's test_caption.json\n")


def test_no_image_check_needs_no_images(run, tmp_path):
    source_of(sources.Coco, tmp_path)
    command = [*COMMANDS[sources.Coco], "--images", "none"]
    code, _, errors = run(*command)
    assert code == 1 and "no folder of images at none" in errors
    assert run(*command, "--no-image-check")[0] == 0


def test_predicted_boxes_take_the_images_of_the_ground_truth(run, tmp_path):
    source_of(sources.PredictedBoxes, tmp_path)
    assert run(*COMMANDS[sources.PredictedBoxes])[0] == 0
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["dataset"] == {"image_root": "images"}


@pytest.mark.parametrize("kind", [sources.VisualGenome, sources.RefCocoG, sources.Csv])
def test_tags_are_filled_in_on_the_way(run, kind, tmp_path):
    source_of(kind, tmp_path)
    (tmp_path / "tags.txt").write_text("cat\ndog\nred\n")
    code, _, errors = run(*COMMANDS[kind], "--images", "images", "--tags", "tags.txt")
    assert code == 0, errors
    content = json.loads((tmp_path / OUTS.get(kind, "out.json")).read_text())
    for region in content["annotations"]:
        assert 1 in region["extra_info"]["parser_result"]["tag_set1"]


def test_an_unknown_tag_parser_is_named(run, tmp_path):
    source_of(sources.Csv, tmp_path)
    (tmp_path / "tags.txt").write_text("dog\n")
    arguments = ["--images", "images", "--tags", "tags.txt", "--parser", "none"]
    code, _, errors = run(*COMMANDS[sources.Csv], *arguments)
    assert code == 1 and "none" in errors


def test_a_script_alone_with_worker_processes(tmp_path):
    source_of(sources.Csv, tmp_path)
    (tmp_path / "tags.txt").write_text("dog\n")
    _, *command = COMMANDS[sources.Csv]
    arguments = ["--images", "images", "--tags", "tags.txt", "--processes", "2"]
    result = run_script("scripts/convert/table.py", *command, *arguments, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    regions = json.loads((tmp_path / "out.json").read_text())["annotations"]
    assert all(region["extra_info"]["parser_result"]["tag_set1"] == [0] for region in regions)
