"""Boxes that a detector found, as regions to be described or recognised.

Detections are COCO results, a list of {image_id, bbox, score, ...}, or an object whose
``annotations`` are such a list. Images come from another file; which one, the caller says.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dynrefer.datasets.annotations.json_stream import is_array
from dynrefer.datasets.annotations.records import BadRecord, recorded_folder
from dynrefer.datasets.convert.coco_style import (
    RegionOf,
    convert_regions,
    count_usable,
    read_images,
)
from dynrefer.datasets.convert.source_records import (
    Image,
    box_in_image,
    box_of,
    read_other_members,
    read_records,
    text_of,
    value_of,
)
from dynrefer.datasets.convert.writing import AnnotationWriter, ImageFolder

BOX_FORMATS = ("xywh", "xyxy")


def convert_predicted_boxes(
    detections: str | Path,
    ground_truth: str | Path,
    out: str | Path,
    images: ImageFolder,
    box_format: str = "xywh",
    min_score: float | None = None,
) -> AnnotationWriter:
    """Converts a detector's boxes for the images of a converted ``ground_truth`` file.

    The detector's score goes to ``extra_info.grit_result.score``, its caption, where it has one, to
    ``extra_info.grit_result.caption``; boxes scored below ``min_score`` are dropped and counted.
    Region ids count from 1 in the order of the detections. ``recorded_images`` gives the images of
    the ground truth.

    Raises FileNotFoundError and ValueError, naming file and place, for files that are not there, no
    detections or no annotation file.
    """
    source, truth = Path(detections), Path(ground_truth)

    def extra_info(record: Any, score: float) -> dict[str, Any]:
        if min_score is not None and score < min_score:
            raise BadRecord(f"score below {min_score}", str(score))
        caption = {"caption": text_of(record, "caption")} if "caption" in record else {}
        return {"grit_result": {"score": score, **caption}}

    region_of = detection_reader(extra_info, box_format)
    with AnnotationWriter(out, images) as writer:
        table = read_images(truth, images, writer)
        convert_regions(read_detections(source), table, writer, region_of)
        writer.counts["images without a box"] = count_usable(table) - writer.counts["images"]
    return writer


def recorded_images(annotations: Path, check: bool = True) -> ImageFolder:
    """The folder of images that an annotation file records."""
    dataset = read_other_members(annotations).get("dataset", {})
    root = dataset.get("image_root", "") if isinstance(dataset, dict) else None
    if not isinstance(root, str):
        raise ValueError(f"{annotations}: 'dataset.image_root' must be a folder's path")
    return ImageFolder(recorded_folder(annotations, root), check)


def read_detections(source: Path) -> Iterator[Any]:
    """The records of a list of detections, or of the ``annotations`` of an object."""
    is_list = is_array(source, errors="surrogateescape")  # as read_records reads it
    return read_records(source, None if is_list else "annotations")


def detection_reader(
    extra_info_of: Callable[[Any, float], dict[str, Any]], box_format: str
) -> RegionOf:
    """What makes a region of a detection, given the extra information of a record and its score.

    Results have no ids, so regions are counted from 1, those that are dropped too.
    """
    if box_format not in BOX_FORMATS:
        raise ValueError(f"box_format is {box_format!r}; valid: {', '.join(BOX_FORMATS)}")

    def region_of(record: Any, image: Image, position: int) -> tuple[dict[str, Any], str | None]:
        box, change = box_in_image(box_of(record, box_format=box_format), image)
        score = float(value_of(record, "score", (int, float)))
        if not math.isfinite(score):
            raise BadRecord("score is not finite", str(score))
        region = {"id": position + 1, "image_id": image["id"], "bbox": box, "caption": ""}
        return {**region, "extra_info": extra_info_of(record, score)}, change

    return region_of
