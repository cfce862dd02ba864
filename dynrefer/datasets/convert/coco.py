"""COCO 2017 for region recognition: every annotated object with the name of its class.

As in the release's own file crowds stay in, the caption is the class, and the region is the tight
box of COCO's segmentation; ``bbox`` is COCO's own box, which COCOeval compares.
"""

from pathlib import Path
from typing import Any

from dynrefer.datasets.annotations.records import BadRecord
from dynrefer.datasets.convert.coco_style import (
    category_of,
    convert_regions,
    read_categories,
    read_images,
)
from dynrefer.datasets.convert.source_records import (
    Image,
    box_of,
    check_overlap,
    identity_of,
    read_records,
)
from dynrefer.datasets.convert.writing import AnnotationWriter, ImageFolder

# Of the published files: images that have an object, objects.
EXPECTED = {
    "instances_val2017.json": {"images": 4_952, "regions": 36_781, "classes": 80},
    "instances_train2017.json": {"images": 117_266, "regions": 860_001, "classes": 80},
}


def convert_coco(source: str | Path, out: str | Path, images: ImageFolder) -> AnnotationWriter:
    """Converts a COCO instances file; returns the finished writer with its counts.

    Raises FileNotFoundError and ValueError, naming file and place, for files that are not there or
    no COCO instances.
    """
    source = Path(source)
    categories = read_categories(source)
    names = {category["id"]: category["name"] for category in categories}

    def region_of(record: Any, image: Image, _: int) -> tuple[dict[str, Any], None]:
        box = box_of(record)
        check_overlap(box, image)
        category = category_of(record, names)
        segmentation = record.get("segmentation")
        if not isinstance(segmentation, (list, dict, type(None))):
            raise BadRecord("wrong type", f"'segmentation' is {segmentation!r}")
        region = {"id": identity_of(record), "image_id": image["id"], "bbox": box}
        if segmentation:
            region["segmentation"] = segmentation
        recognition = {"category": category, "category_id": record["category_id"]}
        extra_info = {"coco_result": recognition}
        return {**region, "caption": category, "extra_info": extra_info}, None

    expected = EXPECTED.get(source.name)
    with AnnotationWriter(out, images, expected, {"categories": categories}) as writer:
        writer.counts["classes"] = len(categories)
        table = read_images(source, images, writer)
        convert_regions(read_records(source, "annotations"), table, writer, region_of)
    return writer
