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
    labelled,
    text_of,
    value_of,
)
from dynrefer.datasets.annotations.json_stream import iterate_items
from dynrefer.datasets.convert.plain_pickle import read_plain_pickle
from dynrefer.datasets.convert.reading import box_of, read_images
from dynrefer.datasets.convert.visual_genome import AnnotationStep
from dynrefer.datasets.convert.writing import AnnotationWriter, ImageFolder, split_writers

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
    way, in order. Raises ValueError for a pickle of more than plain data.
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
        self, refs: list[Any], instances: Path, writers: Mapping[str, AnnotationWriter]
    ) -> None:
        self._refs, self._writers = refs, writers
        self.split_of: dict[Identity, str] = {}
        # What belongs to no split, or to several, is reported with the first.
        self._first = next(iter(writers.values()))
        self.images = read_images(instances, self._first, wanted=self._wanted("image_id"))
        self._objects: dict[Identity, dict[str, Any]] = {}
        wanted = self._wanted("ann_id")
        for label, record in labelled("annotation", iterate_items(instances, "annotations")):
            with self._first.dropping(label):
                identity = identity_of(record)
                if identity in self._objects:
                    raise BadRecord("duplicate id", "an earlier annotation has it")
                if identity in wanted:
                    self._objects[identity] = {key: record.get(key) for key in _OBJECT_KEYS}

    def _wanted(self, key: str) -> set[Identity]:
        """The ids under a key of the refs of the wanted splits."""
        refs = (ref for ref in self._refs if isinstance(ref, dict))
        ids = (ref.get(key) for ref in refs if ref.get("split") in tuple(self._writers))
        return {identity for identity in ids if isinstance(identity, (int, str))}

    def regions(self, by: str) -> Iterator[dict[str, Any]]:
        """The regions of the wanted splits, in the order of the refs."""
        for label, ref in labelled("ref", self._refs, "ref_id"):
            split = ref.get("split") if isinstance(ref, dict) else None
            if split not in SPLITS:
                self._first.drop(label, BadRecord("unknown split", repr(split)))
            elif split in self._writers:
                with self._writers[split].dropping(label):
                    for region in self._regions_of(ref, label, self._writers[split], by):
                        self.split_of.setdefault(region["id"], split)
                        yield region

    def _regions_of(
        self, ref: Any, label: str, writer: AnnotationWriter, by: str
    ) -> list[dict[str, Any]]:
        owner, object_id = identity_of(ref, "image_id"), identity_of(ref, "ann_id")
        image = self.images.image(owner)
        if object_id not in self._objects:
            raise BadRecord("unknown annotation id", f"{object_id!r} is not in the instances file")
        found = self._objects[object_id]
        if found["image_id"] != owner:
            detail = f"says {owner!r}, its object is in {found['image_id']!r}"
            raise BadRecord("unknown image id", detail)
        box, change = box_of(found, image)
        sentences: list[tuple[Identity, str]] = []
        for name, record in labelled("sentence", value_of(ref, "sentences", list), "sent_id"):
            with writer.dropping(f"{name} of {label}"):
                sentences.append((identity_of(record, "sent_id"), text_of(record, "sent")))
        writer.counts["sentences"] += len(sentences)
        if not sentences:
            raise BadRecord("no sentence", "none of its sentences can be used")
        writer.change(label, change)
        ref_id = identity_of(ref, "ref_id")
        writer.counts["refs"] += 1
        place = {"image_id": owner, "bbox": box}
        extra = {"extra_info": {"refcocog": {"ref_id": ref_id, "ann_id": object_id}}}
        if by == "sentence":
            return [{"id": id_, **place, "caption": text, **extra} for id_, text in sentences]
        captions = [text for _, text in sentences]
        return [{"id": ref_id, **place, "caption": captions[0], "captions": captions, **extra}]
