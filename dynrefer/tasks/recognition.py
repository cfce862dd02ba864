"""Region recognition: the class of a region (COCO, LVIS, ImageNet-S)."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from dynrefer.datasets.annotations import RegionRecord
from dynrefer.metrics.box_ap import coco_box_metrics, lvis_box_metrics
from dynrefer.metrics.instances import Instances, read_instances
from dynrefer.metrics.recognition import class_mean_accuracy, top1_accuracy
from dynrefer.registry import registry
from dynrefer.tasks.ground_truth import GroundTruth
from dynrefer.tasks.region_scores import RegionWords, class_margin
from dynrefer.tasks.results import Predictions
from dynrefer.tasks.task import Task, extra_info, wrong_label
from dynrefer.vocabulary import plain_name

SHOWN = 3  # classes of a region in a report


class Recognition(Task):
    """What tasks that judge classes share: logits, and the score and words of a single region."""

    decoders = frozenset({"classes"})
    field = "class_logits"
    score_name = "logit of the true class minus the largest other one"
    score = staticmethod(class_margin)

    def names(self, truth: GroundTruth) -> Sequence[str]:
        """The classes."""
        return truth.vocabularies.classes.names

    @staticmethod
    def words(said: Sequence[float], label: int | None, names: Sequence[str]) -> RegionWords:
        """The classes with the largest logits, and the true one with its own where it is known."""
        best = sorted(range(len(names)), key=lambda index: -said[index])[:SHOWN]
        true = [] if label is None else [label]
        listed = ([f"{names[i]} {said[i]:.2f}" for i in shown] for shown in (best, true))
        return RegionWords(*listed)


@registry.register("task", "region_recognition")
class RegionRecognition(Recognition):
    """Top-1 accuracy, and COCO's box mAP where there is an instances file, in percent.

    Box mAP is over all images of that file, so a run with ``max_imgs`` has none.
    """

    name = "region_recognition"
    headline = "accuracy"
    label_name = "extra_info.coco_result.category"

    def label(self, region: RegionRecord, truth: GroundTruth) -> int | None:
        """Index of the region's category (``coco_result.category``); None where it has none."""
        category, names = extra_info(region, "coco_result", "category", truth), self.names(truth)
        if category is not None and category not in names:
            fault = f"is {category!r:.60}, which is not in the class vocabulary"
            raise wrong_label(region, f"coco_result.category {fault}", truth)
        return None if category is None else names.index(category)

    def check(self, truth: GroundTruth) -> None:
        """As of any task, also of the instances file."""
        super().check(truth)
        if truth.instances is not None and truth.is_whole:
            _instances(truth, of_lvis=False)

    def evaluate(self, predictions: Predictions, truth: GroundTruth) -> dict[str, float]:
        """Accuracy over the regions that carry a category, and box mAP."""
        regions, labels = zip(*self.labelled(truth), strict=True)
        scores = self.matrix(predictions, regions, truth)
        metrics = {"accuracy": 100 * top1_accuracy(scores, np.array(labels))}
        if truth.instances is not None and truth.is_whole:
            instances = _instances(truth, of_lvis=False)
            aps = coco_box_metrics(instances, _detections(regions, scores, truth, instances))
            metrics |= {f"box {name}": value for name, value in _percent(aps).items()}
        return metrics


@registry.register("task", "imagenet_s")
class ImageNetS(Recognition):
    """Accuracy of each class, averaged over the classes, in percent (ImageNet-S).

    The release's files carry a class as its index, ``imagenet_s_result.category_id``.
    """

    name = "imagenet_s"
    headline = "class-mean top-1"
    label_name = "extra_info.imagenet_s_result.category_id"

    def label(self, region: RegionRecord, truth: GroundTruth) -> int | None:
        """Index of the region's class; None where it has none."""
        label = extra_info(region, "imagenet_s_result", "category_id", truth)
        count = len(self.names(truth))
        is_index = isinstance(label, int) and not isinstance(label, bool) and 0 <= label < count
        if label is not None and not is_index:
            fault = f"is {label!r:.60}, no index of the {count} classes"
            raise wrong_label(region, f"imagenet_s_result.category_id {fault}", truth)
        return label

    def evaluate(self, predictions: Predictions, truth: GroundTruth) -> dict[str, float]:
        """Top-1 and top-5 over the classes that occur, and top-1 over the regions."""
        regions, labels = zip(*self.labelled(truth), strict=True)
        scores = self.matrix(predictions, regions, truth), np.array(labels)
        return {
            "class-mean top-1": 100 * class_mean_accuracy(*scores),
            "class-mean top-5": 100 * class_mean_accuracy(*scores, k=5),
            "accuracy": 100 * top1_accuracy(*scores),
        }


@registry.register("task", "lvis_detection")
class LvisDetection(Recognition):
    """Box AP of LVIS in percent: boxes of a detector, named by the model.

    The boxes are those of the annotation file; what they should be is in LVIS's own file
    (``build_info.instances``). As published, a box counts by the logit of its best class, whatever
    the detector's score.
    """

    name = "lvis_detection"
    headline = "AP"
    label_name = "boxes in the annotations of LVIS"

    def label(self, region: RegionRecord, truth: GroundTruth) -> None:
        """None: LVIS knows the classes of its own boxes, not of a detector's."""

    def check(self, truth: GroundTruth) -> None:
        """Raises ValueError without an instances file, for a broken one and for unknown images."""
        _instances(truth, of_lvis=True)

    def evaluate(self, predictions: Predictions, truth: GroundTruth) -> dict[str, float]:
        """AP, by IoU, by size and by frequency of the category, over the images that count."""
        instances, regions = _instances(truth, of_lvis=True), list(truth.regions())
        scores = self.matrix(predictions, regions, truth)
        detections = _detections(regions, scores, truth, instances)
        counted = None if truth.is_whole else truth.image_ids()
        return _percent(lvis_box_metrics(instances, detections, counted))


def _percent(metrics: dict[str, float]) -> dict[str, float]:
    """Without those that are -1, for there is no object of the kind."""
    return {name: 100 * value for name, value in metrics.items() if value >= 0}


def _instances(truth: GroundTruth, of_lvis: bool) -> Instances:
    """The instances file, with every image and every class of the ground truth; else ValueError."""
    source = truth.index.source
    if truth.instances is None:
        needed = "the annotations of LVIS, build_info.instances of the dataset"
        raise ValueError(f"{source}: lvis_detection needs {needed}")
    instances = read_instances(truth.instances, of_lvis)
    known = Counter(plain_name(category["name"]) for category in instances.categories.values())
    for name in truth.vocabularies.classes.names:
        if known[plain_name(name)] != 1:
            count = "no category is" if plain_name(name) not in known else "several categories are"
            raise ValueError(f"{instances.source}: {count} named {name}")
    counted = truth.image_ids()
    if not any(annotation["image_id"] in counted for annotation in instances.annotations):
        raise ValueError(f"{instances.source}: has no annotation of the images of {source}")
    for region in truth.regions():
        if region.image_id not in instances.images:
            place = f"image {region.image_id!r}, which region {region.id!r} of {source} is in"
            raise ValueError(f"{instances.source}: has no {place}")
    return instances


def _detections(
    regions: Sequence[RegionRecord], scores: np.ndarray, truth: GroundTruth, instances: Instances
) -> list[dict[str, Any]]:
    """COCO results: each region with its best class, the class logit as score.

    scores [N, C], a column for each class of the vocabulary, whose name finds the category of the
    instances file; "_" is as good as a space.
    """
    by_name = {plain_name(c["name"]): c["id"] for c in instances.categories.values()}
    category_ids = [by_name[plain_name(name)] for name in truth.vocabularies.classes.names]
    detections = []
    for region, best, score in zip(regions, scores.argmax(1), scores.max(1), strict=True):
        x1, y1, x2, y2 = region.box
        found = {"image_id": region.image_id, "category_id": category_ids[best]}
        detections.append({**found, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": float(score)})
    return detections
