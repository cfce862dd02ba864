"""Average precision of detected boxes over an instances file, as COCO and as LVIS score it.

COCO (Lin et al., ECCV 2014) is scored by pycocotools. An image of LVIS (Gupta et al., CVPR 2019) is
annotated for some categories only. It says which ones it holds (they have boxes), which ones it
certainly does not (``neg_category_ids``) and of which not every object is marked
(``not_exhaustive_category_ids``). A detection of any other category says nothing and is left out;
one that no box matches, in a category that is not exhaustively marked, is neither right nor wrong.
The rest is COCO's box AP, with up to 300 detections an image whatever their category;
faster-coco-eval computes it.
"""

import contextlib
import io
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from operator import itemgetter
from types import ModuleType
from typing import Any

import numpy as np
from pycocotools import coco, cocoeval

from dynrefer.metrics.instances import Id, Instances

COCO_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
LVIS_DETECTIONS = 300  # of an image
Records = list[dict[str, Any]]
Detections = Sequence[Mapping[str, Any]]


def coco_box_metrics(instances: Instances, detections: Detections) -> dict[str, float]:
    """Box AP over the images of COCO's instances file.

    detections: dicts of image_id, category_id, bbox (x, y, width, height in pixels) and score.
    Returns fractions AP, AP50, AP75, APs, APm, APl; -1 where the ground truth has no object of that
    size, as COCOeval says. No detections give 0. Raises ValueError for detections that name an
    unknown image or category or hold values that are not finite.
    """
    records = instances.annotations, instances.checked(detections)
    images = [{"id": id_} for id_ in instances.images]
    categories = list(instances.categories.values())
    with contextlib.redirect_stdout(io.StringIO()):
        sides = [_side(coco, images, categories, each) for each in records]
        evaluation = cocoeval.COCOeval(*sides, iouType="bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(COCO_METRICS, map(float, evaluation.stats), strict=False))


def lvis_box_metrics(
    instances: Instances, detections: Detections, image_ids: Collection[Id] | None = None
) -> dict[str, float]:
    """Box AP over the images of LVIS's file, or over those of ``image_ids``.

    detections: dicts of image_id, category_id, bbox (x, y, width, height in pixels) and score.
    Returns fractions AP, AP50, AP75, APs, APm, APl (by size), APr, APc, APf (rare, common, frequent
    categories); -1 where the ground truth has no such object. Raises ValueError as
    `coco_box_metrics` does.
    """
    counted = set(instances.images if image_ids is None else image_ids)
    checked = _grouped(instances.checked(detections), "image_id")
    best = [
        detection
        for image_id, every in checked.items()
        for detection in sorted(every, key=itemgetter("score"), reverse=True)[:LVIS_DETECTIONS]
        if image_id in counted
    ]
    annotated = (_of_lvis(a) for a in instances.annotations if a["image_id"] in counted)
    truth, found = _grouped(annotated, "category_id"), _grouped(best, "category_id")
    categories = [c for c in instances.categories.values() if c["id"] in truth]
    frequencies = np.array([category["frequency"] for category in categories], dtype=str)
    # [categories, thresholds, recall levels, areas]: any size, small, medium, large
    values = np.array(
        [_lvis_precision(instances, c, truth[c["id"]], found.get(c["id"], [])) for c in categories]
    ).reshape(-1, 10, 101, 4)
    any_size = values[..., 0]
    metrics = {"AP": any_size, "AP50": any_size[:, 0], "AP75": any_size[:, 5]}
    metrics |= {f"AP{size}": values[..., area] for area, size in enumerate("sml", start=1)}
    metrics |= {f"AP{frequency}": any_size[frequencies == frequency] for frequency in "rcf"}
    return {name: _mean(part[part > -1]) for name, part in metrics.items()}


def _lvis_precision(
    instances: Instances, category: dict[str, Any], truth: Records, found: Records
) -> np.ndarray:
    """Precision [thresholds, recall levels, areas] of one category; -1 where it has no object.

    A category at a time, for faster-coco-eval keeps every pair of an image and a category: on LVIS
    minival 7 GB for all of them, and twice the time.
    """
    # Imported on first use, for LVIS alone needs it.
    from faster_coco_eval.core import coco as faster_coco
    from faster_coco_eval.core.faster_eval_api import COCOeval_faster

    # It reads ids of images as numbers, and equal scores in the order of these.
    used = {record["image_id"] for record in (*truth, *found)}
    ids = sorted(used, key=lambda id_: (str(type(id_)), id_))
    numbers = {id_: number for number, id_ in enumerate(ids, start=1)}
    images = [{**instances.images[id_], "id": number} for id_, number in numbers.items()]
    sides = []
    for records in (truth, found):
        numbered = [{**record, "image_id": numbers[record["image_id"]]} for record in records]
        sides.append(_side(faster_coco, images, [category], numbered))
    evaluation = COCOeval_faster(*sides, "bbox", lvis_style=True, print_function=lambda *_: None)
    evaluation.params.maxDets = [LVIS_DETECTIONS]
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval["precision"][:, :, 0, :, 0]


def _side(library: ModuleType, images: Records, categories: Records, records: Records) -> Any:
    """Ground truth or detections as pycocotools and its successor keep them.

    Records are copies, for the scorers write into them, and are numbered from 1, for an id of 0
    means "no match" to them.
    """
    side = library.COCO()
    numbered = [{**record, "id": number} for number, record in enumerate(records, start=1)]
    side.dataset = {"images": images, "categories": categories, "annotations": numbered}
    side.createIndex()
    return side


def _of_lvis(annotation: dict[str, Any]) -> dict[str, Any]:
    """What LVIS reads of an annotation; it knows no crowds, and one to ignore is of no size."""
    area = math.inf if annotation.get("ignore") else annotation["area"]
    kept = {key: annotation[key] for key in ("image_id", "category_id", "bbox")}
    return {**kept, "area": area, "iscrowd": 0}


def _grouped(records: Iterable[dict], key: str) -> dict[Id, Records]:
    groups: dict[Id, Records] = defaultdict(list)
    for record in records:
        groups[record[key]].append(record)
    return groups


def _mean(existing: np.ndarray) -> float:
    return float(existing.mean()) if existing.size else -1.0
