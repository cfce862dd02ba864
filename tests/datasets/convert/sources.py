"""Small sources of every converter, which tests may spoil before they are written."""

import csv
import io
import json
import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from dynrefer.datasets.convert.coco import convert_coco, convert_ovad, convert_region_captions
from dynrefer.datasets.convert.detections import convert_lvis, convert_predicted_boxes
from dynrefer.datasets.convert.imagenet_s import convert_imagenet_s
from dynrefer.datasets.convert.refcocog import convert_refcocog
from dynrefer.datasets.convert.table import convert_table
from dynrefer.datasets.convert.visual_genome import VisualGenomeFiles, convert_visual_genome
from dynrefer.datasets.convert.writing import AnnotationWriter, ImageFolder

WIDTH, HEIGHT = 64, 48
BAD_BYTE = "@@"  # stands in a text for a byte that is not UTF-8


def as_bytes(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode().replace(BAD_BYTE.encode(), b"\xff")


def coco_images(numbers: Iterable[int], name: str = "{}.jpg") -> list[dict]:
    size = {"width": WIDTH, "height": HEIGHT}
    return [{"id": n, "file_name": name.format(n), **size} for n in numbers]


def boxes(count: int, **keys: Callable[[int], Any]) -> list[dict]:
    """Annotations on images 1, 2, 1, 2, ... with ids from 11."""
    return [
        {"id": 11 + n, "image_id": 1 + n % 2, "bbox": [4 + n, 5, 20, 10]}
        | {key: value(n) for key, value in keys.items()}
        for n in range(count)
    ]


def coco_source() -> dict:
    categories = [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}]
    one = {"category_id": lambda n: (1, 18)[n % 2], "iscrowd": lambda n: 0, "area": lambda n: 200}
    annotations = boxes(4, **one)
    annotations[0]["segmentation"] = [[4, 5, 24, 5, 24, 15]]
    return {"images": coco_images([1, 2, 3]), "annotations": annotations, "categories": categories}


def ovad_source() -> dict:
    source = coco_source()
    kind = {"type": "color", "parent_type": "color", "is_has_att": "is", "freq_set": "head"}
    source["attributes"] = [{"id": n, "name": f"color:{n}", **kind} for n in range(3)]
    for annotation in source["annotations"]:
        annotation.pop("segmentation", None)
        annotation["att_vec"] = [1, 0, -1]
    return source


def caption_source() -> dict:
    annotations = boxes(4, caption=lambda n: f"A red dog no. {n}")
    return {"images": coco_images([1, 2]), "annotations": annotations}


def visual_genome_source() -> dict:
    def image(n: int) -> dict:
        url = f"https://cs.stanford.edu/people/rak248/VG_100K{'_2' * (n % 2)}/{n}.jpg"
        coco_id = None if n in (2, 3) else 1000 + n
        return {"image_id": n, "width": WIDTH, "height": HEIGHT, "url": url, "coco_id": coco_id}

    def region(n: int, image_id: int) -> dict:
        box = {"x": 4 + n, "y": 5, "width": 20, "height": 10}
        return {"region_id": n, "image_id": image_id, "phrase": f"A Red dog, no. {n}!", **box}

    regions = [
        {"id": n, "regions": [region(10 * n + 1, n), region(10 * n + 2, n)]} for n in range(1, 6)
    ]
    splits = {"train": [1, 2], "val": [3], "test": [4]}
    return {"images": [image(n) for n in range(1, 6)], "regions": regions, "splits": splits}


def refcocog_source() -> dict:
    def ref(n: int, split: str) -> dict:
        sentences = [{"sent_id": 100 * n + k, "sent": f"dog {k} of {n}"} for k in (1, 2)]
        keys = {"ref_id": n, "ann_id": 10 + n, "image_id": 1 + (n - 1) % 2, "split": split}
        return {**keys, "sentences": sentences, "file_name": "COCO_train2014_x.jpg"}

    refs = [ref(1, "train"), ref(2, "train"), ref(3, "val"), ref(4, "test")]
    return {"refs": refs, "instances": {"images": coco_images([1, 2]), "annotations": boxes(4)}}


def detection_source() -> list[dict]:
    detections = boxes(4, score=lambda n: 0.9 - n / 10, category_id=lambda n: (7, 3)[n % 2])
    for detection in detections:
        del detection["id"]
    return detections


def lvis_source() -> dict:
    images = [
        {"id": n, "coco_url": f"http://x.org/val2017/{n}.jpg", "width": WIDTH, "height": HEIGHT}
        for n in (1, 2)
    ]
    return {"images": images, "categories": [{"id": 7, "name": "cup"}, {"id": 3, "name": "bat"}]}


def imagenet_s_source() -> list[dict]:
    # A 4 x 4 image: two columns without, then four pixels with the object, and so on.
    mask = {"size": [4, 4], "counts": [8, 4, 4]}
    words = ("n02", "n01", "n02")
    return [
        {"image_pth": f"{n}.jpg", "category_word": word, "mask": mask}
        for n, word in enumerate(words, start=1)
    ]


def table_source() -> list[dict]:
    return [
        {"image": f"{1 + n % 2}.png", "x": 4 + n, "y": 5, "width": 20, "height": 10}
        | {"caption": f"A red dog, no. {n}", "id": 11 + n}
        for n in range(4)
    ]


@dataclass
class Source(ABC):
    """A converter with its source: ``content`` is what a test may spoil before ``convert``."""

    folder: Path
    content: Any
    main: str  # the file that holds the regions

    def path(self, name: str) -> Path:
        return self.folder / name

    @property
    def images(self) -> ImageFolder:
        return ImageFolder(self.folder / "images")

    def place_images(self, *names: str) -> None:
        for name in names:
            path = self.folder / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (WIDTH, HEIGHT), "red").save(path)

    def write(self) -> None:
        self.path(self.main).write_bytes(as_bytes(self.content))

    @abstractmethod
    def convert(self) -> AnnotationWriter:
        """Converts what ``write`` has written."""


class Coco(Source):
    regions = 4

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, coco_source(), "instances.json")
        self.place_images("1.jpg", "2.jpg", "3.jpg")

    def convert(self) -> AnnotationWriter:
        return convert_coco(self.path(self.main), self.path("out.json"), self.images)


class Ovad(Source):
    regions = 4

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, ovad_source(), "ovad.json")
        self.place_images("1.jpg", "2.jpg", "3.jpg")

    def convert(self) -> AnnotationWriter:
        return convert_ovad(self.path(self.main), self.path("out.json"), self.images)


class RegionCaptions(Source):
    regions = 4

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, caption_source(), "test_caption.json")
        self.place_images("VG_100K/1.jpg", "2.jpg")

    def convert(self) -> AnnotationWriter:
        return convert_region_captions(self.path(self.main), self.path("out.json"), self.images)


class VisualGenome(Source):
    regions = 4  # of the training split
    version = "vg1.2"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, visual_genome_source(), "region_descriptions.json")
        self.place_images(*(f"VG_100K{'_2' * (n % 2)}/{n}.jpg" for n in range(1, 6)))

    def write(self) -> None:
        names = {"images": "image_data.json", "regions": self.main, "splits": "splits.json"}
        for key, name in names.items():
            self.path(name).write_bytes(as_bytes(self.content[key]))

    def convert_all(self, *splits: str, **options: Any) -> dict[str, AnnotationWriter]:
        files = VisualGenomeFiles(
            self.path("image_data.json"), self.path(self.main), self.path("splits.json")
        )
        names = splits or ("train", "val", "test")
        outs = {split: self.path("out.json" if split == "train" else f"{split}.json")
                for split in names}  # fmt: skip
        return convert_visual_genome(files, outs, self.version, self.images, **options)

    def convert(self) -> AnnotationWriter:
        return self.convert_all()["train"]


class RefCocoG(Source):
    regions = 4  # of the training split

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, refcocog_source(), "refs.p")
        self.place_images("1.jpg", "2.jpg")

    def write(self) -> None:
        refs = pickle.dumps(self.content["refs"], protocol=2)
        self.path(self.main).write_bytes(refs)
        self.path("instances.json").write_bytes(as_bytes(self.content["instances"]))

    def convert_all(self, *splits: str, **options: Any) -> dict[str, AnnotationWriter]:
        names = splits or ("train", "val", "test")
        outs = {split: self.path("out.json" if split == "train" else f"{split}.json")
                for split in names}  # fmt: skip
        refs, instances = self.path(self.main), self.path("instances.json")
        return convert_refcocog(refs, instances, outs, self.images, **options)

    def convert(self) -> AnnotationWriter:
        return self.convert_all("train")["train"]


class PredictedBoxes(Source):
    regions = 4

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, detection_source(), "detections.json")
        truth = {"dataset": {"image_root": "images"}, **caption_source()}
        self.path("truth.json").write_bytes(as_bytes(truth))
        self.place_images("1.jpg", "2.jpg")

    def convert(self, **options: Any) -> AnnotationWriter:
        truth, out = self.path("truth.json"), self.path("out.json")
        return convert_predicted_boxes(self.path(self.main), truth, out, self.images, **options)


class Lvis(Source):
    regions = 4

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, detection_source(), "detections.json")
        self.path("lvis.json").write_bytes(as_bytes(lvis_source()))
        self.place_images("val2017/1.jpg", "2.jpg")

    def convert(self) -> AnnotationWriter:
        lvis, out = self.path("lvis.json"), self.path("out.json")
        return convert_lvis(self.path(self.main), lvis, out, self.images)


class ImageNetS(Source):
    regions = 3

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, imagenet_s_source(), "imagenet_919.json")
        self.path("names.txt").write_text("n01 tench, Tinca tinca\nn02\tgreat white shark, shark\n")
        self.place_images("1.jpg", "2.jpg", "3.jpg")

    def convert(self) -> AnnotationWriter:
        names, out = self.path("names.txt"), self.path("out.json")
        return convert_imagenet_s(self.path(self.main), names, out, self.images)


class JsonLines(Source):
    regions = 4

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, table_source(), "regions.jsonl")
        self.place_images("1.png", "2.png")

    def write(self) -> None:
        lines = [as_bytes(row) for row in self.content]
        self.path(self.main).write_bytes(b"\n".join(lines) + b"\n")

    def convert(self) -> AnnotationWriter:
        return convert_table(self.path(self.main), self.path("out.json"), self.images)


class Csv(JsonLines):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.main = "regions.csv"

    def write(self) -> None:
        text = io.StringIO()
        rows = csv.DictWriter(text, fieldnames=list(table_source()[0]), lineterminator="\n")
        rows.writeheader()
        rows.writerows(self.content)
        content = text.getvalue().encode().replace(BAD_BYTE.encode(), b"\xff")
        self.path(self.main).write_bytes(content)


ALL = (Coco, Ovad, RegionCaptions, VisualGenome, RefCocoG, PredictedBoxes, Lvis, ImageNetS,
       JsonLines, Csv)  # fmt: skip
