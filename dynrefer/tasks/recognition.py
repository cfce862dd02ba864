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
    score_name = "logit of the true class minus the largest other one"

    def region_score(
        self, predictions: Predictions, region: RegionRecord, truth: GroundTruth
    ) -> float | None:
        """Margin of the true class; None where the region carries no category."""
        label = self.label(region, truth)
        if label is None:
            return None
        return class_margin(self._logits(predictions, region, truth), label)

    def region_words(
        self, predictions: Predictions, region: RegionRecord, truth: GroundTruth
    ) -> RegionWords:
        """The classes with the largest logits, and the true one with its own where it is known."""
        names, label = truth.vocabularies.classes.names, self.label(region, truth)
        logits = self._logits(predictions, region, truth)
        best = sorted(range(len(names)), key=lambda index: -logits[index])[:SHOWN]
        return RegionWords(
            [f"{names[index]} {logits[index]:.2f}" for index in best],
            [] if label is None else [f"{names[label]} {logits[label]:.2f}"],
        )

    def _logits(
        self, predictions: Predictions, region: RegionRecord, truth: GroundTruth
    ) -> list[float]:
        count = len(truth.vocabularies.classes.names)
        return self.field_of(predictions, region, "class_logits", count)

    def _matrix(
        self, predictions: Predictions, regions: Sequence[RegionRecord], truth: GroundTruth
    ) -> np.ndarray:
        """Logits float32 [regions, classes]."""
        rows = [self._logits(predictions, region, truth) for region in regions]
        return np.array(rows, dtype=np.float32)


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
        category = extra_info(region, "coco_result", "category", truth)
        names = truth.vocabularies.classes.names
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
        scores = self._matrix(predictions, regions, truth)
        metrics = {"accuracy": 100 * top1_accuracy(scores, np.array(labels))}
        if truth.instances is not None and truth.is_whole:
            instances = _instances(truth, of_lvis=False)
            detections = detections_of(regions, scores, truth, instances)
            box_metrics = coco_box_metrics(instances, detections)
            # COCOeval gives -1 where no object has the size.
            metrics |= {f"box {name}": 100 * ap for name, ap in box_metrics.items() if ap >= 0}
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
        count = len(truth.vocabularies.classes)
        is_index = isinstance(label, int) and not isinstance(label, bool) and 0 <= label < count
        if label is not None and not is_index:
            fault = f"is {label!r:.60}, no index of the {count} classes"
            raise wrong_label(region, f"imagenet_s_result.category_id {fault}", truth)
        return label

    def evaluate(self, predictions: Predictions, truth: GroundTruth) -> dict[str, float]:
        """Top-1 and top-5 over the classes that occur, and top-1 over the regions."""
        regions, labels = zip(*self.labelled(truth), strict=True)
        scores = self._matrix(predictions, regions, truth), np.array(labels)
        metrics = {
            "class-mean top-1": class_mean_accuracy(*scores),
            "class-mean top-5": class_mean_accuracy(*scores, k=5),
            "accuracy": top1_accuracy(*scores),
        }
        return {name: 100 * value for name, value in metrics.items()}


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
        instances = _instances(truth, of_lvis=True)
        regions = list(truth.regions())
        scores = self._matrix(predictions, regions, truth)
        metrics = lvis_box_metrics(
            instances,
            detections_of(regions, scores, truth, instances),
            None if truth.is_whole else truth.image_ids(),
        )
        # -1 where there is no object of the kind.
        return {name: 100 * value for name, value in metrics.items() if value >= 0}


def _instances(truth: GroundTruth, of_lvis: bool) -> Instances:
    """The instances file, with every image and every class of the ground truth; else ValueError."""
    if truth.instances is None:
        raise ValueError(
            f"{truth.index.source}: lvis_detection needs the annotations of LVIS, "
            "build_info.instances of the dataset"
        )
    instances = read_instances(truth.instances, of_lvis)
    known = Counter(plain_name(category["name"]) for category in instances.categories.values())
    for name in truth.vocabularies.classes.names:
        if known[plain_name(name)] != 1:
            count = "no category is" if plain_name(name) not in known else "several categories are"
            raise ValueError(f"{instances.source}: {count} named {name}")
    counted = truth.image_ids()
    if not any(annotation["image_id"] in counted for annotation in instances.annotations):
        raise ValueError(
            f"{instances.source}: has no annotation of the images of {truth.index.source}"
        )
    for region in truth.regions():
        if region.image_id not in instances.images:
            raise ValueError(
                f"{instances.source}: has no image {region.image_id!r}, which region "
                f"{region.id!r} of {truth.index.source} is in"
            )
    return instances


def detections_of(
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
        category, box = category_ids[best], [x1, y1, x2 - x1, y2 - y1]
        found = {"image_id": region.image_id, "category_id": category, "bbox": box}
        detections.append({**found, "score": float(score)})
    return detections
