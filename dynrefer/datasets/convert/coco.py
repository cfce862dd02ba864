"""COCO-style files of one kind of label: COCO 2017, OVAD, and boxes with captions.

COCO 2017, for region recognition: as in the release's own file crowds stay in, the caption is the
class, and the region is the tight box of COCO's segmentation; ``bbox`` is COCO's own box, which
COCOeval compares.

OVAD: boxes of COCO val2017 with a label for each of 117 attributes. The file carries the release's
sections ``attrs`` and ``cats``; captions are the category's name.

Boxes with captions: the published VG region captioning is on GLaMM's ``test_caption.json``, one
region for each of 5,000 test images (stated by the authors in callsys/ControlCap, issue 5); ids and
captions stay as they are. GRiT's ``train.json`` and ``test.json`` of Visual Genome are of the form.
"""

from pathlib import Path
from typing import Any

from dynrefer.datasets.annotations.fields import BadRecord, finite_numbers, text_of, value_of
from dynrefer.datasets.convert import reading
from dynrefer.datasets.convert.visual_genome import image_names
from dynrefer.datasets.convert.writing import AnnotationWriter, Image, ImageFolder

# Of the published files: images that have an object, objects, and so on.
EXPECTED = {
    "instances_val2017.json": {"images": 4_952, "regions": 36_781, "classes": 80},
    "instances_train2017.json": {"images": 117_266, "regions": 860_001, "classes": 80},
    "ovad2000.json": {"images": 2_000, "regions": 14_300, "attributes": 117, "classes": 80},
    "test_caption.json": {"images": 5_000, "regions": 5_000},
}


def convert_coco(source: str | Path, out: str | Path, images: ImageFolder) -> AnnotationWriter:
    """Converts a COCO instances file."""
    source = Path(source)
    categories = reading.categories_of(reading.read_other_members(source), source)
    names = {category["id"]: category["name"] for category in categories}

    def labels_of(record: Any) -> dict[str, Any]:
        category = reading.category_of(record, names)
        recognition = {"category": category, "category_id": record["category_id"]}
        labels = {"caption": category, "extra_info": {"coco_result": recognition}}
        segmentation = record.get("segmentation")
        return {"segmentation": segmentation, **labels} if segmentation else labels

    def own_box(record: Any, image: Image) -> reading.PlacedBox:
        box = finite_numbers(value_of(record, "bbox", list), "bbox", count=4)
        reading.check_overlap(box, image)
        return box, None

    writer = _writer(source, out, images, {"categories": categories})
    writer.counts["classes"] = len(categories)
    return reading.convert_records(writer, source, labels_of, own_box)


def convert_ovad(source: str | Path, out: str | Path, images: ImageFolder) -> AnnotationWriter:
    """Converts OVAD's annotations."""
    source = Path(source)
    members = reading.read_other_members(source)
    attributes, categories = members.get("attributes"), reading.categories_of(members, source)
    if not isinstance(attributes, list) or not attributes:
        raise ValueError(f"{source}: needs 'attributes'; other members: {sorted(members)}")
    names = {category["id"]: category["name"] for category in categories}

    def labels_of(record: Any) -> dict[str, Any]:
        labels = value_of(record, "att_vec", list)
        known = [label for label in labels if type(label) is int and label in (1, 0, -1)]
        if not len(known) == len(labels) == len(attributes):
            raise BadRecord("wrong label", f"'att_vec' must hold {len(attributes)} of 1, 0, -1")
        extra_info = {"ovad_result": {"att_vec": labels}}
        return {"caption": reading.category_of(record, names), "extra_info": extra_info}

    writer = _writer(source, out, images, {"attrs": attributes, "cats": categories})
    writer.counts.update(attributes=len(attributes), classes=len(categories))
    return reading.convert_records(writer, source, labels_of)


def convert_region_captions(
    source: str | Path, out: str | Path, images: ImageFolder
) -> AnnotationWriter:
    """Converts images, boxes (xywh) and captions."""
    source = Path(source)

    def names_of(record: Any) -> tuple[str, ...]:
        return image_names(text_of(record, "file_name"))

    def labels_of(record: Any) -> dict[str, Any]:
        return {"caption": text_of(record, "caption"), "extra_info": {}}

    writer = _writer(source, out, images)
    return reading.convert_records(writer, source, labels_of, names_of=names_of)


def _writer(
    source: Path, out: str | Path, images: ImageFolder, sections: dict[str, Any] | None = None
) -> AnnotationWriter:
    return AnnotationWriter(out, images, [source], EXPECTED.get(source.name), sections)
