"""Visual Genome: described regions by the dense-captioning split, and the VG-COCO part of them.

Captions and boxes are prepared as the published code's were (its authors' converter stands in the
history of callsys/ControlCap; it follows jcjohnson/densecap and GRiT): words in lower case without
punctuation, phrases of more than 15 words left out, boxes clipped and starting at pixel 1. As there
training drops empty phrases and empty boxes, which evaluation keeps. Unlike there a box wholly
outside its image is dropped from every split.
"""

import string
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from dynrefer.datasets.annotations.fields import (
    BadRecord,
    Identity,
    finite_numbers,
    identity_of,
    label_of,
    labelled,
    text_of,
    value_of,
)
from dynrefer.datasets.annotations.json_stream import iterate_items, read_members
from dynrefer.datasets.convert.reading import Box, ImageTable, PlacedBox, check_overlap
from dynrefer.datasets.convert.writing import AnnotationWriter, Image, ImageFolder, split_writers

SPLITS = ("train", "val", "test")
VERSIONS = ("vg1.0", "vg1.2", "vgcoco")
EXPECTED_IMAGES = {
    "vg1.0": {"train": 77_398, "val": 5_000, "test": 5_000},
    "vg1.2": {"train": 77_398, "val": 5_000, "test": 5_000},
    "vgcoco": {"train": 38_080, "val": 2_489, "test": 2_476},
}
MAX_WORDS = 15
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_SYMBOLS = str.maketrans(
    {"½": "half", "—": "-", "™": "", "¢": "cent", "°": " degree", "…": ""}
    | {"ç": "c", "û": "u", "é": "e", "è": "e"}
)

AnnotationStep = Callable[[Iterator[dict[str, Any]]], Iterator[dict[str, Any]]]


@dataclass(frozen=True)
class VisualGenomeFiles:
    """``image_data.json``, ``region_descriptions.json`` and ``densecap_splits.json``."""

    image_data: Path
    regions: Path
    splits: Path


def convert_visual_genome(
    files: VisualGenomeFiles,
    outs: Mapping[str, Path],
    version: str,
    images: ImageFolder,
    step: AnnotationStep = iter,
) -> dict[str, AnnotationWriter]:
    """Converts Visual Genome to one file a split in one pass over the regions.

    ``outs`` names the file of each wanted split; ``step`` may complete the annotations on their
    way, in order. Memory holds the images, not the regions.
    """
    split_of = _splits(files.splits)
    sources = files.image_data, files.regions, files.splits
    expected = {split: {"images": count} for split, count in EXPECTED_IMAGES[version].items()}
    with split_writers(outs, images, sources, expected) as writers:
        source = _Source(files, writers, split_of, only_coco=version == "vgcoco")
        for region in step(source.regions()):
            image = source.table[region["image_id"]]
            writers[split_of[image["id"]]].add(image, region)
    return writers


def clean_phrase(phrase: str) -> str:
    """A phrase in lower case, symbols spelt out, without punctuation, single spaces."""
    return " ".join(phrase.translate(_SYMBOLS).lower().translate(_NO_PUNCTUATION).split())


def image_names(name: str, *folders: str) -> tuple[str, ...]:
    """Where an image of Visual Genome may lie under the folder of images."""
    folders = dict.fromkeys([*folders, "VG_100K", "VG_100K_2"])
    return (*(f"{folder}/{name}" for folder in folders), name)


def place_box(box: Box, image: Image, training: bool) -> PlacedBox:
    """A region's box xywh in its image, and what was changed about it.

    The box starts at pixel 1 or later and ends at the image's border. BadRecord for a box wholly
    outside, and in training for one without area, which evaluation widens to a pixel.
    """
    check_overlap(box, image)
    x, y, width, height = box
    if width < 0 or height < 0:
        raise BadRecord("box has no area", f"{box} (x, y, width, height)")
    right, bottom = min(x + width, image["width"]), min(y + height, image["height"])
    left = min(max(x, 1), image["width"] - 1)
    top = min(max(y, 1), image["height"] - 1)
    change = None
    if right <= left or bottom <= top:
        if training:
            raise BadRecord("box has no area", f"{box} (x, y, width, height)")
        # As the published model looks at it (a polygon of a pixel or less).
        left, top = min(left, right - 1), min(top, bottom - 1)
        change = "empty box widened to a pixel"
    elif x < 0 or y < 0 or x + width > right or y + height > bottom:
        change = "box clipped to its image"
    elif x < 1 or y < 1:
        change = "box moved to start at pixel 1"
    return ([left, top, right - left, bottom - top], change) if change else (box, None)


def _splits(source: Path) -> dict[Identity, str]:
    """The split of each image id; ValueError for a file that is no split file."""
    members = read_members(source)
    split_of: dict[Identity, str] = {}
    for split in SPLITS:
        ids = members.get(split)
        if not isinstance(ids, list) or not all(type(identity) is int for identity in ids):
            raise ValueError(f"{source}: '{split}' must be a list of image ids")
        for identity in ids:
            if split_of.setdefault(identity, split) != split:
                raise ValueError(
                    f"{source}: image {identity} is in {split_of[identity]} and {split}"
                )
    return split_of


class _Source:
    """The images and regions that belong to the wanted splits."""

    def __init__(
        self,
        files: VisualGenomeFiles,
        writers: Mapping[str, AnnotationWriter],
        split_of: Mapping[Identity, str],
        only_coco: bool,
    ) -> None:
        self._files, self._writers, self._split_of = files, writers, split_of
        # Images of VG alone, where only those of COCO are wanted.
        self._passed_over: set[Identity] = set()
        self.table = ImageTable()
        records = labelled("image", iterate_items(files.image_data), "image_id")
        for label, identity, record in self._identified(records, "image_id", "id"):
            writer = self._writer_of(identity)
            if writer is None:
                for other in writers.values():
                    other.counts["source images in no split"] += identity not in split_of
                continue
            with writer.dropping(label):
                if identity in self._passed_over:
                    raise BadRecord("duplicate id", "an earlier image has it")
                if only_coco and record.get("coco_id") is None and identity not in self.table:
                    self._passed_over.add(identity)
                    writer.counts["images not of COCO"] += 1
                else:
                    self.table.place(identity, record, writer.images, _names_of)
        if not self.table:
            raise ValueError(f"{files.image_data}: lists no image of the splits")

    def regions(self) -> Iterator[dict[str, Any]]:
        """Usable regions, image by image as the file has them; the others are dropped."""
        seen: set[Identity] = set()
        records = labelled("regions of image", iterate_items(self._files.regions))
        for label, identity, record in self._identified(records, "id", "image_id"):
            writer = self._writer_of(identity)
            if writer is None or identity in self._passed_over:
                continue
            with writer.dropping(label):
                regions = value_of(record, "regions", list)
                if identity in seen:
                    writer.change(label, "image listed again, its regions added")
                if regions:
                    seen.add(identity)
                yield from self._regions_of(identity, regions, writer)
        for identity in sorted(self._split_of.keys() - seen - self._passed_over):
            writer = self._writer_of(identity)
            if writer is not None:
                error = BadRecord("image without a region", f"in {self._files.regions}")
                writer.drop(f"image {identity!r}", error)

    def _regions_of(
        self, identity: Identity, records: Sequence[Any], writer: AnnotationWriter
    ) -> Iterator[dict[str, Any]]:
        training = self._split_of[identity] == "train"
        for position, record in enumerate(records):
            key = "region_id" if isinstance(record, dict) and "region_id" in record else "id"
            label = label_of("region", record, position, key)
            with writer.dropping(f"{label} of image {identity!r}"):
                region, change = _region(record, self.table.image(identity), training)
                writer.change(label, change)
                yield region

    def _writer_of(self, image_id: Identity) -> AnnotationWriter | None:
        """The file of the split that an image belongs to, where it is wanted."""
        return self._writers.get(self._split_of.get(image_id))

    def _identified(
        self, records: Iterable[tuple[str, Any]], *keys: str
    ) -> Iterator[tuple[str, Identity, Any]]:
        """Records with their ids; one without may belong to any split, and all report it."""
        for label, record in records:
            try:
                identity = identity_of(record, *keys)
            except BadRecord as error:
                for writer in self._writers.values():
                    writer.drop(label, error)
            else:
                yield label, identity, record


def _names_of(record: Any) -> tuple[str, ...]:
    # The address ends in the folder that the image has in VG's own archives.
    folder = PurePosixPath(text_of(record, "url")).parent.name
    return image_names(f"{identity_of(record, 'image_id', 'id')}.jpg", folder)


def _region(record: Any, image: Image, training: bool) -> tuple[dict[str, Any], str | None]:
    identity = identity_of(record, "region_id", "id")
    owner = record.get("image_id", record.get("image", image["id"]))
    if owner != image["id"]:
        raise BadRecord("unknown image id", f"says image {owner!r}, stands with {image['id']!r}")
    phrase = clean_phrase(text_of(record, "phrase"))
    if phrase.count(" ") >= MAX_WORDS:
        raise BadRecord(f"more than {MAX_WORDS} words", repr(phrase))
    if training and not phrase:
        raise BadRecord("empty phrase", repr(record["phrase"]))
    numbers = [value_of(record, key, (int, float)) for key in ("x", "y", "width", "height")]
    box, change = place_box(finite_numbers(numbers, "x, y, width, height", 4), image, training)
    region = {"id": identity, "image_id": image["id"], "bbox": box, "caption": phrase}
    if not phrase:
        change = change or "empty phrase kept for evaluation"
    return {**region, "extra_info": {}}, change
