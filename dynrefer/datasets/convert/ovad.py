"""OVAD: boxes of COCO val2017 with a label for each of 117 attributes.

The file carries the release's sections ``attrs`` and ``cats``; captions are the category's name.
"""

from pathlib import Path
from typing import Any

from dynrefer.datasets.annotations.records import BadRecord
from dynrefer.datasets.convert.coco_style import (
    category_of,
    checked_categories,
    convert_regions,
    read_images,
)
from dynrefer.datasets.convert.source_records import (
    Image,
    box_in_image,
    box_of,
    identity_of,
    read_other_members,
    read_records,
    value_of,
)
from dynrefer.datasets.convert.writing import AnnotationWriter, ImageFolder

EXPECTED = {"ovad2000.json": {"images": 2_000, "regions": 14_300, "attributes": 117, "classes": 80}}
_LABELS = {1, 0, -1}  # holds, holds not, not labelled


def convert_ovad(source: str | Path, out: str | Path, images: ImageFolder) -> AnnotationWriter:
    """Converts OVAD's annotations; returns the finished writer with its counts.

    Raises FileNotFoundError and ValueError, naming file and place, for files that are not there or
    not OVAD's.
    """
    source = Path(source)
    members = read_other_members(source)
    attributes, categories = members.get("attributes"), checked_categories(members, source)
    if not isinstance(attributes, list) or not attributes:
        raise ValueError(f"{source}: needs 'attributes'; other members: {sorted(members)}")
    names = {category["id"]: category["name"] for category in categories}

    def region_of(record: Any, image: Image, _: int) -> tuple[dict[str, Any], str | None]:
        box, change = box_in_image(box_of(record), image)
        labels = value_of(record, "att_vec", list)
        if len(labels) != len(attributes) or not set(map(_label, labels)) <= _LABELS:
            wanted = f"{len(attributes)} labels 1, 0 or -1"
            raise BadRecord(
                "wrong labels", f"'att_vec' holds {len(labels)} values, must be {wanted}"
            )
        region = {"id": identity_of(record), "image_id": image["id"], "bbox": box}
        extra_info = {"ovad_result": {"att_vec": labels}}
        caption = category_of(record, names)
        return {**region, "caption": caption, "extra_info": extra_info}, change

    sections = {"attrs": attributes, "cats": categories}
    with AnnotationWriter(out, images, EXPECTED.get(source.name), sections) as writer:
        writer.counts.update(attributes=len(attributes), classes=len(categories))
        table = read_images(source, images, writer)
        convert_regions(read_records(source, "annotations"), table, writer, region_of)
    return writer


def _label(value: Any) -> int | None:
    return value if type(value) is int else None
