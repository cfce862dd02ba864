"""Box AP: LVIS's against plain loops over its definition, COCO's against pycocotools itself."""

import copy

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dynrefer.metrics.box_ap import coco_box_metrics, lvis_box_metrics
from dynrefer.metrics.instances import read_instances
from tests.metrics.loops import iou

CATEGORIES = [
    {"id": 1, "name": "rat", "frequency": "r"},
    {"id": 4, "name": "cat", "frequency": "c"},
    {"id": 6, "name": "fox", "frequency": "f"},
]
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


def lvis(content, found, image_ids=None):
    return lvis_box_metrics(read_instances(content, of_lvis=True), found, image_ids)


@pytest.mark.parametrize("seed", range(8))
def test_lvis_agrees_with_plain_loops(seed):
    rng = np.random.default_rng(seed)
    instances = world(rng, num_images=4)
    found = detections(instances, rng)
    metrics = lvis(instances, found)
    assert metrics == pytest.approx(by_loops(instances, found), abs=1e-9)
    assert 0.05 < metrics["AP"] < 0.95


def by_pycocotools(instances, found, most=100):
    """COCOeval, accumulated; annotations are numbered from 1 and none is of a crowd."""
    truth = COCO()
    boxes = [box | {"iscrowd": 0} for box in instances["annotations"]]
    truth.dataset = copy.deepcopy(instances | {"annotations": boxes})
    truth.createIndex()
    evaluation = COCOeval(truth, truth.loadRes(copy.deepcopy(found)), "bbox")
    evaluation.params.maxDets = [1, 10, most]
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


def test_lvis_agrees_with_coco_where_everything_is_annotated():
    rng = np.random.default_rng(0)
    instances = world(rng, federated=False)
    found = detections(instances, rng)
    # threshold, recall, category, area
    precision = by_pycocotools(instances, found, 300).eval["precision"][..., -1]
    metrics = lvis(instances, found)
    for name, values in (
        ("AP", precision[:, :, :, 0]),
        ("AP50", precision[0, :, :, 0]),
        ("APs", precision[:, :, :, 1]),
        ("APl", precision[:, :, :, 3]),
        ("APc", precision[:, :, 1, 0]),
    ):
        assert metrics[name] == pytest.approx(values[values > -1].mean(), abs=1e-9)


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
    assert lvis(*unknown)["AP"] == pytest.approx(1)
    assert lvis(*negative)["APc"] == pytest.approx(0.5)
    partly = scene(negative=[4], partly=[4])
    assert lvis(*partly)["APc"] == pytest.approx(1)
    assert lvis(*unknown)["APf"] == -1 == lvis(*unknown)["APl"]


def test_only_the_surest_detections_of_an_image_count():
    instances, found = scene()
    sure = [{**found[0], "bbox": [60, 60, 9, 9], "score": 0.8} for _ in range(298)]
    assert 0 < lvis(instances, found + sure)["APr"] < 0.01  # with the wrong one of category 4
    late = [*sure, sure[0]]
    assert lvis(instances, found + late)["APr"] == 0
    assert by_loops(instances, found + late)["APr"] == 0


def test_some_images_alone():
    instances, found = scene(negative=[4])
    assert lvis(instances, found, {2})["APc"] == pytest.approx(1)
    assert lvis(instances, found, {2})["APr"] == -1
    assert lvis(instances, [], {2})["APc"] == 0


def one_image(boxes, found, **image):
    """A world of one image of category 4: ground truth boxes, and (box, score) of detections."""
    images = [{"id": 1, "neg_category_ids": [], "not_exhaustive_category_ids": []} | image]
    annotations = [
        {"image_id": 1, "category_id": 4, "bbox": box, "area": box[2] * box[3]} for box in boxes
    ]
    detections = [
        {"image_id": 1, "category_id": 4, "bbox": box, "score": score} for box, score in found
    ]
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}, detections


@pytest.mark.parametrize(("second", "ap50"), [(0, 1.0), (4, 51 / 101)])
def test_of_equal_overlaps_the_last_box_is_taken(second, ap50):
    """The first detection lies between both boxes; the second fits one of them alone."""
    found = [([0, 2, 10, 10], 0.9), ([0, second, 10, 10], 0.8)]
    instances, found = one_image([[0, 0, 10, 10], [0, 4, 10, 10]], found)
    assert lvis(instances, found)["AP50"] == pytest.approx(ap50)
    assert by_loops(instances, found)["AP50"] == pytest.approx(ap50)


def test_thresholds_that_are_met_exactly():
    """An IoU of a half is enough, and 32 x 32 pixels are small and medium."""
    instances, found = one_image([[0, 0, 32, 32]], [([0, 0, 32, 16], 0.5)])
    metrics = lvis(instances, found)
    assert (metrics["AP50"], metrics["AP75"]) == (pytest.approx(1), 0)
    assert metrics["APs"] == metrics["APm"] == pytest.approx(0.1) and metrics["APl"] == -1


def test_equal_scores_go_by_image():
    """A right one of image 1 before a wrong one of image 2, however the file orders them."""
    instances, found = scene(negative=[4])
    found = [found[2] | {"score": 0.5}, found[1]]
    instances["annotations"] = instances["annotations"][1:]
    assert lvis(instances, found)["APc"] == pytest.approx(0.5)
    for record in (*instances["annotations"], *found):
        record["image_id"] = 3 - record["image_id"]
    assert lvis(instances, found)["APc"] == pytest.approx(1)


def test_boxes_to_ignore_are_neither_found_nor_missed():
    instances, found = one_image([[0, 0, 9, 9], [50, 50, 9, 9]], [([0, 0, 9, 9], 0.5)])
    assert lvis(instances, found)["APs"] == pytest.approx(51 / 101)
    instances["annotations"][1]["iscrowd"] = 1  # COCO's word for it, which LVIS does not know
    assert lvis(instances, found)["APs"] == pytest.approx(51 / 101)
    instances["annotations"][1]["ignore"] = 1
    assert lvis(instances, found)["APs"] == pytest.approx(1)
    found[0]["bbox"] = [50, 50, 9, 9]
    assert lvis(instances, found)["APs"] == 0


def test_ids_may_be_texts(capfd):
    rng = np.random.default_rng(0)
    instances = world(rng, federated=False)
    instances["annotations"] = [box | {"iscrowd": 0} for box in instances["annotations"]]
    found = detections(instances, rng)
    numbers = coco(instances, found), lvis(instances, found)
    for record in (*instances["annotations"], *found):
        record["image_id"] = f"image {record['image_id']}"
    for image in instances["images"]:
        image["id"] = f"image {image['id']}"
    assert (coco(instances, found), lvis(instances, found)) == numbers
    assert capfd.readouterr() == ("", "")


def coco(content, found):
    return coco_box_metrics(read_instances(content), found)


def test_coco_agrees_with_pycocotools():
    rng = np.random.default_rng(0)
    instances = world(rng)
    found = detections(instances, rng)
    expected = by_pycocotools(instances, found)
    expected.summarize()
    for box in instances["annotations"]:
        box["id"] -= 1  # an id of 0 is one like any other
        box["iscrowd"] = 0
    untouched = copy.deepcopy(instances)
    metrics = coco(instances, found)
    assert list(metrics.values()) == pytest.approx(expected.stats[:6].tolist(), abs=1e-12)
    assert 0 < metrics["AP"] < 1 and instances == untouched


def test_perfect_and_no_detections_of_coco():
    box = {"image_id": 1, "category_id": 4, "bbox": [0, 0, 50, 50]}
    instances, _ = one_image([], [])
    instances["annotations"] = [box | {"area": 2500, "iscrowd": 0}]
    assert coco(instances, [box | {"score": 0.1}])["AP"] == pytest.approx(1)
    none = {"AP": 0, "AP50": 0, "AP75": 0, "APs": -1, "APm": 0, "APl": -1}
    assert coco(instances, []) == none


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 99}, r"instances: detections\[0\]: image_id is 99, must be the id of one of"),
        ({"image_id": True}, "image_id is True"),
        ({"category_id": 3}, "category_id is 3, must be the id of one of its 3 categories"),
        ({"score": float("nan")}, r"detections\[0\]: score is nan, must be a finite number"),
        ({"bbox": [1, 2, 3]}, r"bbox is \[1, 2, 3\], must be x, y, width, height in pixels"),
        ({"bbox": [1, 2, 3, "4"]}, "bbox is"),
        ({"bbox": [1, 2, -3, 4]}, "bbox is"),
        ({"bbox": [1, 2, 3, 10**400]}, "bbox is"),
    ],
)
def test_broken_detections_are_named(change, message):
    instances, found = scene()
    for scorer in (coco_box_metrics, lvis_box_metrics):
        with pytest.raises(ValueError, match=message):
            scorer(read_instances(instances, of_lvis=True), [found[0] | change])
    del found[0]["score"]
    with pytest.raises(ValueError, match=r"detections\[0\] has no score"):
        lvis(instances, found)
