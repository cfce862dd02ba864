"""Boxes that a detector found, as regions to be described or recognised.

Detections are COCO results, a list of {image_id, bbox, score, ...}, or an object whose
``annotations`` are such a list. Images come from another file; which one, the caller says. Region
ids count from 1 in the order of the detections.
"""

import functools
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from dynrefer.datasets.annotations.fields import BadRecord, is_finite, members_of, text_of, value_of
from dynrefer.datasets.annotations.json_stream import is_array, iterate_items
from dynrefer.datasets.annotations.records import recorded_folder
from dynrefer.datasets.convert import reading
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
    ``recorded_images`` gives the images of the ground truth.
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
    """Converts detections on the images of an LVIS file.

    As in the release's file a box carries ``extra_info.yolow_result`` with the detector's score and
    label, the place of its category among LVIS's categories by ascending id.
    """
    source, truth = Path(detections), Path(lvis)
    categories = reading.categories_of(reading.read_other_members(truth), truth)
    categories.sort(key=lambda category: (isinstance(category["id"], str), category["id"]))
    labels = {category["id"]: label for label, category in enumerate(categories)}

    def result_of(record: Any, score: float) -> dict[str, Any]:
        return {"yolow_result": {"label": reading.category_of(record, labels), "score": score}}

    def names_of(record: Any) -> tuple[str, ...]:
        """By its address an image is COCO's train2017 or val2017."""
        key = "coco_url" if "coco_url" in record else "file_name"
        address = PurePosixPath(text_of(record, key))
        return (f"{address.parent.name or 'val2017'}/{address.name}", address.name)

    expected, sections = {"classes": EXPECTED_CLASSES}, {"categories": categories}
    writer = AnnotationWriter(out, images, [source, truth], expected, sections)
    writer.counts["classes"] = len(categories)
    return _convert(source, truth, writer, result_of, box_format, names_of)


def recorded_images(annotations: Path, check: bool = True) -> ImageFolder:
    """The folder of images that an annotation file records."""
    try:
        dataset = members_of(reading.read_other_members(annotations).get("dataset"), "dataset")
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
    names_of: reading.NamesOf = reading.file_name_of,
) -> AnnotationWriter:
    """Converts detections with what ``result_of`` makes of each and its score."""
    if box_format not in BOX_FORMATS:
        raise ValueError(f"box_format is {box_format!r}; valid: {', '.join(BOX_FORMATS)}")

    def labels_of(record: Any) -> dict[str, Any]:
        score = value_of(record, "score", (int, float))
        if not is_finite(score):
            raise BadRecord("score is not finite", str(score))
        return {"caption": "", "extra_info": result_of(record, score)}

    found = iterate_items(source, None if is_array(source) else "annotations")
    box_of = functools.partial(reading.box_of, box_format=box_format)
    return reading.convert_records(writer, truth, labels_of, box_of, names_of, found)
