"""Boxes that a detector found, as regions to be described or recognised.

Detections are COCO results, a list of {image_id, bbox, score, ...}, or an object whose
``annotations`` are such a list. Images come from another file; which one, the caller says.
"""

import functools
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from dynrefer.datasets.annotations.fields import BadRecord, is_finite, members_of, text_of, value_of
from dynrefer.datasets.annotations.json_stream import is_array, iterate_items
from dynrefer.datasets.annotations.records import recorded_folder
from dynrefer.datasets.convert.reading import (
    box_of,
    categories_of,
    category_of,
    convert_regions,
    file_name_of,
    read_images,
    read_other_members,
)
from dynrefer.datasets.convert.writing import AnnotationWriter, ImageFolder

BOX_FORMATS = ("xywh", "xyxy")
EXPECTED_CLASSES = 1_203  # of LVIS


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

    def result_of(record: Any, score: float) -> dict[str, Any]:
        if min_score is not None and score < min_score:
            raise BadRecord(f"score below {min_score}", str(score))
        named = record.get("caption") is not None
        caption = {"caption": text_of(record, "caption")} if named else {}
        return {"grit_result": {"score": score, **caption}}

    source, truth = Path(detections), Path(ground_truth)
    writer = AnnotationWriter(out, images, [source, truth])
    return _convert(source, truth, writer, result_of, box_format)


def convert_lvis(
    detections: str | Path,
    lvis: str | Path,
    out: str | Path,
    images: ImageFolder,
    box_format: str = "xywh",
) -> AnnotationWriter:
    """Converts detections on the images of an LVIS file; ids count from 1.

    As in the release's file a box carries ``extra_info.yolow_result`` with the detector's score and
    label, the place of its category among LVIS's categories by ascending id.

    Raises FileNotFoundError and ValueError, naming file and place, for files that are not there, no
    detections or not LVIS's.
    """
    source, truth = Path(detections), Path(lvis)
    categories = categories_of(read_other_members(truth), truth)
    categories.sort(key=lambda category: (isinstance(category["id"], str), category["id"]))
    labels = {category["id"]: label for label, category in enumerate(categories)}

    def result_of(record: Any, score: float) -> dict[str, Any]:
        return {"yolow_result": {"label": category_of(record, labels), "score": score}}

    expected, sections = {"classes": EXPECTED_CLASSES}, {"categories": categories}
    writer = AnnotationWriter(out, images, [source, truth], expected, sections)
    writer.counts["classes"] = len(categories)
    return _convert(source, truth, writer, result_of, box_format, _lvis_names)


def recorded_images(annotations: Path, check: bool = True) -> ImageFolder:
    """The folder of images that an annotation file records."""
    try:
        dataset = members_of(read_other_members(annotations).get("dataset"), "dataset")
        root = text_of({"image_root": "", **dataset}, "image_root")
    except BadRecord as error:
        raise ValueError(f"{annotations}: {error}") from error
    return ImageFolder(recorded_folder(annotations, root), check)


def _convert(
    source: Path,
    truth: Path,
    writer: AnnotationWriter,
    result_of: Callable[[Any, float], dict[str, Any]],
    box_format: str,
    names_of: Callable[[Any], tuple[str, ...]] = file_name_of,
) -> AnnotationWriter:
    """Converts detections with what ``result_of`` makes of each and its score."""
    if box_format not in BOX_FORMATS:
        raise ValueError(f"box_format is {box_format!r}; valid: {', '.join(BOX_FORMATS)}")

    def labels_of(record: Any) -> dict[str, Any]:
        score = value_of(record, "score", (int, float))
        if not is_finite(score):
            raise BadRecord("score is not finite", str(score))
        return {"caption": "", "extra_info": result_of(record, score)}

    with writer:
        table = read_images(truth, writer, names_of)
        records = iterate_items(source, None if is_array(source) else "annotations")
        placed = functools.partial(box_of, box_format=box_format)
        convert_regions(records, table, writer, labels_of, placed, numbered=True)
        usable = sum(isinstance(image, dict) for image in table.values())
        writer.counts["images without a box"] = usable - writer.counts["images"]
    return writer


def _lvis_names(record: Any) -> tuple[str, ...]:
    """Where an image of LVIS may lie: by its address it is COCO's train2017 or val2017."""
    address = PurePosixPath(text_of(record, "coco_url" if "coco_url" in record else "file_name"))
    folder = address.parent.name or "val2017"
    return (f"{folder}/{address.name}", address.name)
