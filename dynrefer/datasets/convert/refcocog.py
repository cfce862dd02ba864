"""RefCOCOg (umd): boxes of COCO 2014 objects and the sentences that refer to them.

The published numbers are over one region a sentence with that sentence as its only reference: the
release converts mdetr's files, and mdetr (scripts/fine-tuning/refexp_coco_format.py) makes an image
entry for each sentence. ``by="region"`` keeps all sentences of a referred object together instead.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dynrefer.datasets.annotations.fields import (
    BadRecord,
    Identity,
    identity_of,
    label_of,
    text_of,
    value_of,
)
from dynrefer.datasets.annotations.json_stream import iterate_items
from dynrefer.datasets.convert.plain_pickle import read_plain_pickle
from dynrefer.datasets.convert.reading import PlacedBox, box_of, image_of, read_images
from dynrefer.datasets.convert.visual_genome import AnnotationStep
from dynrefer.datasets.convert.writing import AnnotationWriter, Image, ImageFolder, split_writers

SPLITS = ("train", "val", "test")
GROUPINGS = ("sentence", "region")
_OBJECT_KEYS = ("image_id", "bbox")
EXPECTED = {
    "train": {"refs": 42_226, "sentences": 80_512},
    "val": {"refs": 2_573, "sentences": 4_896},
    "test": {"refs": 5_023, "sentences": 9_602},
}


def convert_refcocog(
    refs: str | Path,
    instances: str | Path,
    outs: Mapping[str, Path],
    images: ImageFolder,
    by: str = "sentence",
    step: AnnotationStep = iter,
) -> dict[str, AnnotationWriter]:
    """Converts ``refs(umd).p`` with the boxes of ``instances.json`` to one file a split.

    ``outs`` names the file of each wanted split; ``step`` may complete the annotations on their
    way, in order. Returns the finished writers by split.

    Raises FileNotFoundError and ValueError, naming the file, for files that are not there, not of
    RefCOCOg, or pickles of more than plain data; ValueError for a split without a usable region.
    """
    if by not in GROUPINGS:
        raise ValueError(f"by is {by!r}; valid: {', '.join(GROUPINGS)}")
    records = read_plain_pickle(refs)
    if not isinstance(records, list):
        raise ValueError(f"{refs}: must hold a list of refs, holds a {type(records).__name__}")
    sources = Path(refs), Path(instances)
    with split_writers(outs, images, sources, EXPECTED) as writers:
        source = _Source(records, sources[1], writers)
        for region in step(source.regions(by)):
            split = source.split_of[region["id"]]
            writers[split].add(source.images[region["image_id"]], region)
    return writers


class _Source:
    """COCO's images and boxes, and the refs that point to them."""

    def __init__(
        self,
        refs: list[Any],
        instances: Path,
        writers: Mapping[str, AnnotationWriter],
    ) -> None:
        self._refs, self._writers = refs, writers
        self.split_of: dict[Identity, str] = {}
        # What belongs to no split, or to several, is reported with the first.
        self._first = next(iter(writers.values()))
        image_ids, object_ids = self._wanted("image_id"), self._wanted("ann_id")
        self.images = read_images(instances, self._first, wanted=image_ids)
        self._objects: dict[Identity, dict[str, Any]] = {}
        for position, record in enumerate(iterate_items(instances, "annotations")):
            try:
                identity = identity_of(record)
                if identity in self._objects:
                    raise BadRecord("duplicate id", "an earlier annotation has it")
                if identity in object_ids:
                    self._objects[identity] = {key: record.get(key) for key in _OBJECT_KEYS}
            except BadRecord as error:
                self._first.drop(label_of("annotation", record, position), error)

    def _wanted(self, key: str) -> set[Identity]:
        """The ids under a key of the refs of the wanted splits."""
        refs = (ref for ref in self._refs if isinstance(ref, dict))
        ids = (ref.get(key) for ref in refs if ref.get("split") in tuple(self._writers))
        return {identity for identity in ids if isinstance(identity, (int, str))}

    def regions(self, by: str) -> Iterator[dict[str, Any]]:
        """The regions of the wanted splits, in the order of the refs."""
        for position, ref in enumerate(self._refs):
            label = label_of("ref", ref, position, "ref_id")
            split = ref.get("split") if isinstance(ref, dict) else None
            if split not in SPLITS:
                self._first.drop(label, BadRecord("unknown split", repr(split)))
                continue
            if split not in self._writers:
                continue
            writer = self._writers[split]
            try:
                regions = list(self._regions_of(ref, label, writer, by))
            except BadRecord as error:
                writer.drop(label, error)
                continue
            writer.counts["refs"] += 1
            for region in regions:
                self.split_of.setdefault(region["id"], split)
                yield region

    def _regions_of(
        self, ref: Any, label: str, writer: AnnotationWriter, by: str
    ) -> Iterator[dict[str, Any]]:
        owner, object_id = identity_of(ref, "image_id"), identity_of(ref, "ann_id")
        box, change = self._box(object_id, image_of(self.images, owner))
        sentences = list(self._sentences(value_of(ref, "sentences", list), label, writer))
        if not sentences:
            raise BadRecord("no sentence", "none of its sentences can be used")
        if change:
            writer.change(label, change)
        extra = {"refcocog": {"ref_id": identity_of(ref, "ref_id"), "ann_id": object_id}}
        common = {"image_id": owner, "bbox": box}
        if by == "sentence":
            for identity, sentence in sentences:
                yield {"id": identity, **common, "caption": sentence, "extra_info": extra}
        else:
            captions = [sentence for _, sentence in sentences]
            texts = {"caption": captions[0], "captions": captions}
            yield {"id": extra["refcocog"]["ref_id"], **common, **texts, "extra_info": extra}

    def _sentences(
        self, records: list[Any], label: str, writer: AnnotationWriter
    ) -> Iterator[tuple[Identity, str]]:
        for position, record in enumerate(records):
            try:
                sentence = identity_of(record, "sent_id"), text_of(record, "sent")
            except BadRecord as error:
                name = label_of("sentence", record, position, "sent_id")
                writer.drop(f"{name} of {label}", error)
                continue
            writer.counts["sentences"] += 1
            yield sentence

    def _box(self, object_id: Identity, image: Image) -> PlacedBox:
        if object_id not in self._objects:
            raise BadRecord("unknown annotation id", f"{object_id!r} is not in the instances file")
        owner = self._objects[object_id]["image_id"]
        if owner != image["id"]:
            raise BadRecord("unknown image id", f"says {image['id']!r}, its object is in {owner!r}")
        return box_of(self._objects[object_id], image)
