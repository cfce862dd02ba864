"""Small sources of every converter at the places that docs/data.md names."""

import shutil
from pathlib import Path

from tests.datasets.convert import sources

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


def _place(kind: type, folder: Path, project: Path) -> None:
    folder.mkdir()
    source = kind(folder)
    for image in source.content["images"] if kind is sources.VisualGenome else ():
        image["coco_id"] = 1
    source.write()
    for name, target in PLACES[kind].items():
        for version in ("vg1.0", "vg1.2"):
            path = project / target.format(version)
            path.parent.mkdir(parents=True, exist_ok=True)
            if (folder / name).is_dir():
                shutil.copytree(folder / name, path, dirs_exist_ok=True)
            else:
                shutil.copy(folder / name, path)


def place_all(project: Path, folder: Path) -> None:
    """Makes the sources in an empty folder, and copies their files into the project."""
    for number, kind in enumerate(PLACES):
        _place(kind, folder / str(number), project)
    (project / "data/ram_tag_list.txt").write_text("cat\ndog\nred\n")
    # The detections of the small source are on images 1 and 2, the test image of VG is 4.
    path = project / "data/vg/detections.json"
    path.write_text(path.read_text().replace('"image_id": 1', '"image_id": 4'))
