import copy
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dynrefer.metrics.recognition import class_mean_accuracy, coco_box_metrics, top1_accuracy


def _instances(rng, num_images=6):
    annotations = []
    for image_id in range(num_images):
        for side in (20, 60, 120):  # small, medium and large by COCO's areas
            x, y = rng.integers(0, 100, 2).tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(rng.choice([3, 8])),
                    "bbox": [x, y, side, side],
                    "area": side * side,
                    "iscrowd": 0,
                }
            )
    images = [{"id": i, "width": 300, "height": 300} for i in range(num_images)]
    categories = [{"id": 3, "name": "a"}, {"id": 8, "name": "b"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def _detections(instances, rng, noise=0.0):
    return [
        {
            "image_id": a["image_id"],
            "category_id": a["category_id"],
            "bbox": (np.array(a["bbox"]) + rng.normal(0, noise, 4)).tolist(),
            "score": float(rng.random()),
        }
        for a in instances["annotations"]
    ]


@given(st.lists(st.tuples(st.lists(st.integers(0, 3), min_size=4, max_size=4), st.integers(0, 3))))
def test_accuracies_agree_with_plain_loops(rows):
    if not rows:
        with pytest.raises(ValueError, match="not empty"):
            top1_accuracy(np.zeros((0, 4)), np.zeros(0, dtype=int))
        return
    logits, labels = np.array([row for row, _ in rows], float), np.array([c for _, c in rows])
    hits = [row.index(max(row)) == label for row, label in rows]
    by_class = [[h for h, (_, c) in zip(hits, rows, strict=True) if c == k] for k in range(4)]
    expected = np.mean([np.mean(group) for group in by_class if group])
    assert top1_accuracy(logits, labels) == pytest.approx(np.mean(hits))
    assert class_mean_accuracy(logits, labels) == pytest.approx(expected)
    assert class_mean_accuracy(logits, labels, k=4) == 1.0


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ([[0.1, np.nan]], [0], "logit of region 0, class 1 is NaN"),
        ([[0.1, 0.2]], [2], "label of region 0 is 2; classes are 0 to 1"),
        ([[0.1, 0.2]], [0, 1], r"got \(1, 2\) and \(2,\)"),
    ],
)
def test_logits_that_do_not_fit_are_named(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        top1_accuracy(np.array(logits), np.array(labels))


def test_box_metrics_agree_with_pycocotools(tmp_path, capsys):
    rng = np.random.default_rng(0)
    instances = _instances(rng)
    detections = _detections(instances, rng, noise=6.0)
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(instances), encoding="utf-8")
    metrics = coco_box_metrics(path, detections)
    assert capsys.readouterr().out == ""

    truth = COCO(str(path))
    evaluation = COCOeval(truth, truth.loadRes(copy.deepcopy(detections)), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert list(metrics.values()) == pytest.approx(evaluation.stats[:6].tolist())
    assert 0 < metrics["AP"] < 1


def test_perfect_and_no_detections():
    rng = np.random.default_rng(0)
    instances = _instances(rng)
    untouched = copy.deepcopy(instances)
    assert set(coco_box_metrics(instances, _detections(instances, rng)).values()) == {1.0}
    empty = coco_box_metrics(instances, [])
    assert empty == dict.fromkeys(("AP", "AP50", "AP75", "APs", "APm", "APl"), 0.0)
    assert instances == untouched


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 99}, r"detections\[0\]: instances has no image_id 99"),
        ({"category_id": 4}, "has no category_id 4"),
        ({"score": float("nan")}, r"detections\[0\]: bbox .* and score nan must be"),
        ({"bbox": [1, 2, 3]}, r"bbox \[1, 2, 3\]"),
    ],
)
def test_broken_detections_are_named(change, message):
    rng = np.random.default_rng(0)
    instances = _instances(rng)
    first = _detections(instances, rng)[0]
    with pytest.raises(ValueError, match=message):
        coco_box_metrics(instances, [first | change])
    del first["score"]
    with pytest.raises(ValueError, match=r"detections\[0\] has no score"):
        coco_box_metrics(instances, [first])


def test_broken_instances_files_are_named(tmp_path):
    path = tmp_path / "instances.json"
    with pytest.raises(FileNotFoundError, match="instances.json does not exist"):
        coco_box_metrics(path, [])
    path.write_text('{"images": [', encoding="utf-8")
    with pytest.raises(ValueError, match="instances.json is not a JSON file"):
        coco_box_metrics(path, [])
    path.write_text('{"images": []}', encoding="utf-8")
    with pytest.raises(ValueError, match="instances.json .* has no list 'annotations'"):
        coco_box_metrics(path, [])
    instances = _instances(np.random.default_rng(0))
    del instances["annotations"][2]["area"]
    path.write_text(json.dumps(instances), encoding="utf-8")
    with pytest.raises(ValueError, match=r"instances.json: annotations\[2\] has no area"):
        coco_box_metrics(path, [])
