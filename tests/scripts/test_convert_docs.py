"""The commands of "Converting" in docs/data.md, run on small files in the places named there."""

import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from dynrefer.datasets.annotations import AnnotationIndex
from tests.datasets.convert import sources

ROOT = Path(__file__).resolve().parents[2]
SECTION = (ROOT / "docs/data.md").read_text().split("\n## Converting\n")[1].split("\n## ")[0]
BLOCKS = re.findall(r"^```bash\n(.*?)^```", SECTION, re.MULTILINE | re.DOTALL)
COMMANDS = [
    shlex.split(line)
    for block in BLOCKS
    for line in block.replace("\\\n", " ").splitlines()
    if line
]
# Where a small source's files belong by the table of the section.
PLACES = {
    sources.VisualGenome: {
        "image_data.json": "data/vg/annotations/{}/image_data.json",
        "region_descriptions.json": "data/vg/annotations/{}/region_descriptions.json",
        "splits.json": "data/vg/densecap_splits.json",
        "images": "data/vg/images",
    },
    sources.RegionCaptions: {"test_caption.json": "data/vg/test_caption.json"},
    sources.RefCocoG: {
        "refs.p": "data/refcocog/refs(umd).p",
        "instances.json": "data/refcocog/instances.json",
        "images": "data/coco/train2014",
    },
    sources.Ovad: {"ovad.json": "data/ovad2000.json", "images": "data/coco/val2017"},
    sources.Coco: {"instances.json": "data/coco/annotations/instances_val2017.json"},
    sources.PredictedBoxes: {"detections.json": "data/vg/detections.json"},
    sources.Lvis: {
        "detections.json": "data/lvis/detections.json",
        "lvis.json": "data/lvis/lvis_v1_minival_inserted_image_name.json",
    },
    sources.ImageNetS: {
        "imagenet_919.json": "data/imagenet_s/imagenet_919.json",
        "names.txt": "data/imagenet_s/LOC_synset_mapping.txt",
        "images": "data/imagenet_s",
    },
    sources.Csv: {"regions.csv": "photos.csv", "images": "photos"},
}


def place(kind: type, folder: Path, home: Path) -> None:
    """Puts the files of a small source where the section says."""
    folder.mkdir()
    source = kind(folder)
    for image in source.content["images"] if kind is sources.VisualGenome else ():
        image["coco_id"] = 1
    source.write()
    for name, target in PLACES[kind].items():
        for version in ("vg1.0", "vg1.2"):
            path = home / target.format(version)
            path.parent.mkdir(parents=True, exist_ok=True)
            if (folder / name).is_dir():
                shutil.copytree(folder / name, path, dirs_exist_ok=True)
            else:
                shutil.copy(folder / name, path)


def output_of(words: list[str]) -> str:
    """The main file that a command writes."""
    if "--out" in words:
        return words[words.index("--out") + 1]
    name = Path(words[1]).stem
    if name == "visual_genome":
        version = words[words.index("--version") + 1]
        only_test = version == "vg_reg" or "--splits" in words
        return f"data/vg/{version}_{'test' if only_test else 'train'}.json"
    return {
        "refcocog": "data/refcocog/refcocog_train.json",
        "ovad": "data/ovad/ovad.json",
        "coco": "data/coco/coco_val2017.json",
        "lvis": "data/lvis/lvis_minival.json",
        "imagenet_s": "data/imagenet_s/imagenet_s_val.json",
    }[name]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("home")
    for number, kind in enumerate(PLACES):
        place(kind, home / f"source{number}", home)
    (home / "data/ram_tag_list.txt").write_text("cat\ndog\nred\n")
    # The detections of the small source are on images 1 and 2, the test image of VG is 4.
    detections = (
        (home / "data/vg/detections.json").read_text().replace('"image_id": 1', '"image_id": 4')
    )
    (home / "data/vg/detections.json").write_text(detections)
    return home


def test_the_section_has_a_command_for_every_script():
    scripts = {path.name for path in (ROOT / "scripts/convert").glob("*.py")} - {"add_tags.py"}
    assert {Path(words[1]).name for words in COMMANDS} == scripts


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words[1:4]))
def test_documented_commands_convert(words, home, monkeypatch, capsys):
    monkeypatch.chdir(home)
    if "predicted_boxes" in words[1]:  # after its ground truth
        test_documented_commands_convert(COMMANDS[1], home, monkeypatch, capsys)
    # One process is enough for a handful of captions; spawning is tested elsewhere.
    words = [
        "1" if before == "--processes" else word
        for before, word in zip(["", *words], words, strict=False)
    ]
    monkeypatch.setattr(sys, "argv", [str(ROOT / words[1]), *words[2:]])
    runpy.run_path(str(ROOT / words[1]), run_name="__main__")
    assert "converted    expected" in capsys.readouterr().out
    index = AnnotationIndex.open(output_of(words))
    assert len(index) > 0
    assert all(index.image(j).path.is_file() for j in range(index.num_images))
