"""LVIS minival: a detector's boxes, whose classes are to be recognised anew.

As in the release's file a box carries ``extra_info.yolow_result`` with the detector's score and
label, the place of its category among LVIS's categories by ascending id.
"""

from pathlib import Path, PurePosixPath
from typing import Any

from dynrefer.datasets.convert.coco_style import (
    category_of,
    convert_regions,
    count_usable,
    read_categories,
    read_images,
)
from dynrefer.datasets.convert.predicted_boxes import detection_reader, read_detections
from dynrefer.datasets.convert.source_records import text_of
from dynrefer.datasets.convert.writing import AnnotationWriter, ImageFolder

EXPECTED_CLASSES = 1_203


def convert_lvis(
    detections: str | Path,
    lvis: str | Path,
    out: str | Path,
    images: ImageFolder,
    box_format: str = "xywh",
) -> AnnotationWriter:
    """Converts detections (COCO results) on the images of an LVIS file; ids count from 1.

    Raises FileNotFoundError and ValueError, naming file and place, for files that are not there, no
    detections or not LVIS's.
    """
    detections, lvis = Path(detections), Path(lvis)
    categories = sorted(read_categories(lvis), key=lambda category: category["id"])
    labels = {category["id"]: label for label, category in enumerate(categories)}

    def extra_info(record: Any, score: float) -> dict[str, Any]:
        return {"yolow_result": {"label": category_of(record, labels), "score": score}}

    region_of = detection_reader(extra_info, box_format)
    expected = {"classes": EXPECTED_CLASSES}
    with AnnotationWriter(out, images, expected, {"categories": categories}) as writer:
        writer.counts["classes"] = len(categories)
        table = read_images(lvis, images, writer, image_names)
        convert_regions(read_detections(detections), table, writer, region_of)
        writer.counts["images without a box"] = count_usable(table) - writer.counts["images"]
    return writer


def image_names(record: Any) -> tuple[str, ...]:
    """Where an image of LVIS may lie: by its address it is COCO's train2017 or val2017."""
    address = PurePosixPath(text_of(record, "coco_url" if "coco_url" in record else "file_name"))
    folder = address.parent.name or "val2017"
    return (f"{folder}/{address.name}", address.name)
