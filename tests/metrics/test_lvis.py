"""LVIS box AP against plain loops over its definition, and against COCO's where they must agree."""

import copy
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dynrefer.metrics.lvis import lvis_box_metrics
from tests.metrics.loops import iou

CATEGORIES = [{"id": 1, "frequency": "r"}, {"id": 4, "frequency": "c"}, {"id": 6, "frequency": "f"}]
AREAS = {"": (0, 1e10), "s": (0, 32**2), "m": (32**2, 96**2), "l": (96**2, 1e10)}


def world(rng, num_images=8, federated=True):
    """Boxes of three categories; half of the images know nothing of the categories they lack."""
    images, annotations = [], []
    for image_id in range(1, num_images + 1):
        for _ in range(int(rng.integers(0, 7))):
            side = int(rng.choice([20, 60, 130]))
            x, y = rng.integers(0, 100, 2).tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(rng.choice([1, 4, 6])),
                    "bbox": [x, y, side, side + 5],
                    "area": side * (side + 5),
                }
            )
        held = {a["category_id"] for a in annotations if a["image_id"] == image_id}
        absent = [c["id"] for c in CATEGORIES if c["id"] not in held]
        images.append(
            {
                "id": image_id,
                "neg_category_ids": absent[:1] if federated and image_id % 2 else absent,
                "not_exhaustive_category_ids": sorted(held)[:1] if federated else [],
            }
        )
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}


def detections(instances, rng, each=3):
    """For each box some detections near it with any category, and some anywhere."""
    found = []
    for box in instances["annotations"] * each:
        category = box["category_id"] if rng.random() < 0.7 else int(rng.choice([1, 4, 6]))
        place = np.array(box["bbox"]) + rng.normal(0, 6, 4)
        found.append((box["image_id"], category, np.maximum(place, [0, 0, 1, 1]).tolist()))
    for image in instances["images"]:
        found.append((image["id"], 4, [*rng.uniform(0, 200, 2), *rng.uniform(5, 90, 2)]))
    # Scores of one decimal are often equal.
    return [
        {"image_id": i, "category_id": c, "bbox": b, "score": round(float(rng.random()), 1)}
        for i, c, b in found
    ]


def average_precision(instances, found, category, threshold, area, most=300):
    """AP of one category by one threshold and range of area; None without an object."""
    low, high = AREAS[area]
    claims, targets = [], 0
    for image in sorted(instances["images"], key=lambda image: image["id"]):
        mine = [d for d in found if d["image_id"] == image["id"]]
        mine = sorted(mine, key=lambda d: -d["score"])[:most]
        mine = [d for d in mine if d["category_id"] == category]
        boxes = [
            a
            for a in instances["annotations"]
            if a["image_id"] == image["id"] and a["category_id"] == category
        ]
        if not boxes and category not in image["neg_category_ids"]:
            continue
        counts = [low <= box["area"] <= high for box in boxes]
        targets += sum(counts)
        free = set(range(len(boxes)))
        for detection in mine:
            x, y, w, h = detection["bbox"]
            overlaps = {
                j: iou([x, y, x + w, y + h], corners(boxes[j]["bbox"])) for j in sorted(free)
            }
            fits = [j for j, overlap in overlaps.items() if overlap >= threshold]
            fits = [j for j in fits if counts[j]] or fits
            if fits:
                best = max(fits, key=lambda j: (overlaps[j], j))
                free.remove(best)
                if counts[best]:
                    claims.append((detection["score"], True))
            elif low <= w * h <= high and category not in image["not_exhaustive_category_ids"]:
                claims.append((detection["score"], False))
    if not targets:
        return None
    claims.sort(key=lambda claim: -claim[0])
    hits = [sum(right for _, right in claims[: n + 1]) for n in range(len(claims))]
    precision = [hit / (n + 1) for n, hit in enumerate(hits)]
    levels = [
        max(
            (p for p, hit in zip(precision, hits, strict=True) if hit / targets >= level), default=0
        )
        for level in np.linspace(0, 1, 101)
    ]
    return float(np.mean(levels))


def corners(box):
    x, y, w, h = box
    return [x, y, x + w, y + h]


def by_loops(instances, found, most=300):
    thresholds = np.linspace(0.5, 0.95, 10)

    def mean(area="", chosen=thresholds, frequencies="rcf"):
        each = [
            average_precision(instances, found, category["id"], threshold, area, most)
            for category in CATEGORIES
            if category["frequency"] in frequencies
            for threshold in chosen
        ]
        each = [value for value in each if value is not None]
        return float(np.mean(each)) if each else -1.0

    metrics = {"AP": mean(), "AP50": mean("", [0.5]), "AP75": mean("", [0.75])}
    metrics |= {f"AP{area}": mean(area) for area in "sml"}
    return metrics | {f"AP{frequency}": mean("", thresholds, frequency) for frequency in "rcf"}


@pytest.mark.parametrize("seed", range(6))
def test_agrees_with_plain_loops(seed):
    rng = np.random.default_rng(seed)
    instances = world(rng)
    found = detections(instances, rng)
    metrics = lvis_box_metrics(instances, found)
    assert metrics == pytest.approx(by_loops(instances, found), abs=1e-12)
    assert 0.05 < metrics["AP"] < 0.95


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_coco_where_everything_is_annotated(seed):
    rng = np.random.default_rng(seed)
    instances = world(rng, federated=False)
    found = detections(instances, rng)
    coco = copy.deepcopy(instances)
    for annotation in coco["annotations"]:
        annotation["iscrowd"] = 0
    truth = COCO()
    truth.dataset = coco
    truth.createIndex()
    evaluation = COCOeval(truth, truth.loadRes(copy.deepcopy(found)), "bbox")
    evaluation.params.maxDets = [1, 10, 300]
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][..., -1]  # threshold, recall, category, area
    metrics = lvis_box_metrics(instances, found)
    for name, values in (
        ("AP", precision[:, :, :, 0]),
        ("AP50", precision[0, :, :, 0]),
        ("APs", precision[:, :, :, 1]),
        ("APl", precision[:, :, :, 3]),
        ("APc", precision[:, :, 1, 0]),
    ):
        assert metrics[name] == pytest.approx(values[values > -1].mean(), abs=1e-12)


def scene(negative=(), partly=()):
    """Two images with a box of category 1 each; the detection of category 4 is wrong or nothing."""
    images = [
        {"id": i, "neg_category_ids": list(negative), "not_exhaustive_category_ids": list(partly)}
        for i in (1, 2)
    ]
    boxes = [
        {"id": i, "image_id": i, "category_id": c, "bbox": [0, 0, 50, 50], "area": 2500}
        for i, c in ((1, 1), (2, 4))
    ]
    found = [
        {"image_id": i, "category_id": c, "bbox": [0, 0, 50, 50], "score": s}
        for i, c, s in ((1, 1, 0.5), (2, 4, 0.5), (1, 4, 0.9))
    ]
    return {"images": images, "annotations": boxes, "categories": CATEGORIES}, found


def test_what_an_image_does_not_say():
    """A detection counts as wrong where its category is certainly absent, and only there."""
    unknown, negative = scene(), scene(negative=[4])
    assert lvis_box_metrics(*unknown)["AP"] == pytest.approx(1)
    assert lvis_box_metrics(*negative)["APc"] == pytest.approx(0.5)
    partly = scene(negative=[4], partly=[4])
    assert lvis_box_metrics(*partly)["APc"] == pytest.approx(1)
    assert lvis_box_metrics(*unknown)["APf"] == -1 == lvis_box_metrics(*unknown)["APl"]


def test_only_the_surest_detections_of_an_image_count():
    instances, found = scene()
    sure = [{**found[0], "bbox": [60, 60, 9, 9], "score": 0.8} for _ in range(299)]
    assert lvis_box_metrics(instances, found + sure)["APr"] < 0.01
    late = [*sure, sure[0]]
    assert lvis_box_metrics(instances, found + late)["APr"] == 0
    assert by_loops(instances, found + late)["APr"] == 0


def test_some_images_alone():
    instances, found = scene(negative=[4])
    assert lvis_box_metrics(instances, found, {2})["APc"] == pytest.approx(1)
    assert lvis_box_metrics(instances, found, {2})["APr"] == -1
    assert lvis_box_metrics(instances, [], {2})["APc"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 9}, r"detections\[0\]: instances has no image_id 9"),
        ({"category_id": 2}, "has no category_id 2"),
        ({"score": float("nan")}, "all finite"),
    ],
)
def test_broken_detections_are_named(change, message):
    instances, found = scene()
    with pytest.raises(ValueError, match=message):
        lvis_box_metrics(instances, [found[0] | change])


def test_files_of_coco_are_refused(tmp_path):
    instances, _ = scene()
    del instances["images"][1]["neg_category_ids"]
    path = tmp_path / "lvis.json"
    path.write_text(json.dumps(instances))
    with pytest.raises(ValueError, match=r"lvis.json: images\[1\] has no neg_category_ids"):
        lvis_box_metrics(path, [])
