"""COCO-style files of boxes with captions: Visual Genome's region captioning, and others like it.

The published VG region captioning is on GLaMM's ``test_caption.json``, one region for each of 5,000
test images (stated by the authors in callsys/ControlCap, issue 5); ids and captions stay as they
are. GRiT's preprocessed ``train.json`` and ``test.json`` of Visual Genome have the same form.
"""

from pathlib import Path
from typing import Any

from dynrefer.datasets.convert.coco_style import convert_regions, read_images
from dynrefer.datasets.convert.source_records import (
    Image,
    box_in_image,
    box_of,
    identity_of,
    read_records,
    text_of,
)
from dynrefer.datasets.convert.visual_genome import image_names
from dynrefer.datasets.convert.writing import AnnotationWriter, ImageFolder

EXPECTED = {"test_caption.json": {"images": 5_000, "regions": 5_000}}


def convert_region_captions(
    source: str | Path, out: str | Path, images: ImageFolder
) -> AnnotationWriter:
    """Converts images, boxes (xywh) and captions; returns the finished writer with its counts.

    Raises FileNotFoundError and ValueError, naming file and place, for files that are not there or
    not COCO-style.
    """
    source = Path(source)

    with AnnotationWriter(out, images, EXPECTED.get(source.name)) as writer:
        table = read_images(
            source, images, writer, lambda record: image_names(text_of(record, "file_name"))
        )
        convert_regions(read_records(source, "annotations"), table, writer, _region_of)
    return writer


def _region_of(record: Any, image: Image, _: int) -> tuple[dict[str, Any], str | None]:
    box, change = box_in_image(box_of(record), image)
    region = {"id": identity_of(record), "image_id": image["id"], "bbox": box}
    return {**region, "caption": text_of(record, "caption"), "extra_info": {}}, change
