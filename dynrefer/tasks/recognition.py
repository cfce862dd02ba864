"""Region recognition: the class of a region (COCO, LVIS, ImageNet-S)."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dynrefer.datasets.annotations import RegionRecord
from dynrefer.metrics.box_ap import coco_box_metrics, lvis_box_metrics
from dynrefer.metrics.instances import Instances, read_instances
from dynrefer.metrics.recognition import class_mean_accuracy, top1_accuracy
from dynrefer.registry import registry
from dynrefer.tasks.region_scores import RegionWords, class_margin
from dynrefer.tasks.task import GroundTruth, Prediction, Task
from dynrefer.vocabulary import plain_name

SHOWN = 3  # classes of a region in a report


class Recognition(Task):
    """What tasks that judge classes share: logits, and the score and words of a single region."""

    decoders = frozenset({"classes"})
    score_name = "logit of the true class minus the largest other one"

    def region_score(
        self, predictions: Mapping[int | str, Prediction], region: RegionRecord, truth: GroundTruth
    ) -> float | None:
        """Margin of the true class; None where the region carries no category."""
        label = self._label(region, truth)
        return (
            None if label is None else class_margin(self._logits(predictions, region, truth), label)
        )

    def region_words(
        self, predictions: Mapping[int | str, Prediction], region: RegionRecord, truth: GroundTruth
    ) -> RegionWords:
        """The classes with the largest logits, and the true one with its own where it is known."""
        names, label = truth.vocabularies.classes.names, self._label(region, truth)
        logits = self._logits(predictions, region, truth)
        best = sorted(range(len(names)), key=lambda index: -logits[index])[:SHOWN]
        return RegionWords(
            [f"{names[index]} {logits[index]:.2f}" for index in best],
            [] if label is None else [f"{names[label]} {logits[label]:.2f}"],
        )

    def _logits(
        self, predictions: Mapping[int | str, Prediction], region: RegionRecord, truth: GroundTruth
    ) -> list[float]:
        count = len(truth.vocabularies.classes.names)
        return self.field_of(predictions, region, "class_logits", count)

    @abstractmethod
    def _label(self, region: RegionRecord, truth: GroundTruth) -> int | None:
        """Index of the region's class; None where it carries none."""

    def _labelled(
        self, predictions: Mapping[int | str, Prediction], truth: GroundTruth, field: str
    ) -> tuple[list[RegionRecord], np.ndarray, np.ndarray]:
        """Regions that carry a class, their logits float32 [N, C] and labels int [N].

        ValueError where no region has its class, which ``field`` of the annotations holds.
        """
        regions, logits, labels = [], [], []
        for region in truth.regions():
            label = self._label(region, truth)
            if label is not None:
                regions.append(region)
                labels.append(label)
                logits.append(self._logits(predictions, region, truth))
        if not labels:
            raise ValueError(f"{truth.index.source}: no region has extra_info.{field}")
        return regions, np.array(logits, dtype=np.float32), np.array(labels)


@registry.register("task", "region_recognition")
class RegionRecognition(Recognition):
    """Top-1 accuracy, and COCO's box mAP where there is an instances file, in percent.

    Box mAP is over all images of that file, so a run with ``max_imgs`` has none.
    """

    name = "region_recognition"
    headline = "accuracy"

    def evaluate(
        self, predictions: Mapping[int | str, Prediction], truth: GroundTruth
    ) -> dict[str, float]:
        """Accuracy over the regions that carry a category (``coco_result.category``)."""
        regions, scores, labels = self._labelled(predictions, truth, "coco_result.category")
        metrics = {"accuracy": 100 * top1_accuracy(scores, labels)}
        if truth.instances is not None and truth.is_whole:
            instances = read_instances(truth.instances)
            names = truth.vocabularies.classes.names
            detections = detections_of(regions, scores, names, instances)
            box_metrics = coco_box_metrics(instances, detections)
            # COCOeval gives -1 where no object has the size.
            metrics |= {f"box {name}": 100 * ap for name, ap in box_metrics.items() if ap >= 0}
        return metrics

    def _label(self, region: RegionRecord, truth: GroundTruth) -> int | None:
        category = region.extra_info.get("coco_result", {}).get("category")
        names = truth.vocabularies.classes.names
        if category is not None and category not in names:
            raise ValueError(
                f"{truth.index.source}: region {region.id!r} has category '{category}', which "
                "is not in the class vocabulary"
            )
        return None if category is None else names.index(category)


@registry.register("task", "imagenet_s")
class ImageNetS(Recognition):
    """Accuracy of each class, averaged over the classes, in percent (ImageNet-S).

    The release's files carry a class as its index, ``imagenet_s_result.category_id``.
    """

    name = "imagenet_s"
    headline = "class-mean top-1"

    def evaluate(
        self, predictions: Mapping[int | str, Prediction], truth: GroundTruth
    ) -> dict[str, float]:
        """Top-1 and top-5 over the classes that occur, and top-1 over the regions."""
        field = "imagenet_s_result.category_id"
        _, scores, labels = self._labelled(predictions, truth, field)
        metrics = {
            "class-mean top-1": class_mean_accuracy(scores, labels),
            "class-mean top-5": class_mean_accuracy(scores, labels, k=5),
            "accuracy": top1_accuracy(scores, labels),
        }
        return {name: 100 * value for name, value in metrics.items()}

    def _label(self, region: RegionRecord, truth: GroundTruth) -> int | None:
        label = region.extra_info.get("imagenet_s_result", {}).get("category_id")
        count = len(truth.vocabularies.classes)
        if label is not None and not (isinstance(label, int) and 0 <= label < count):
            raise ValueError(
                f"{truth.index.source}: region {region.id!r} has imagenet_s_result.category_id "
                f"{label!r}, which is no index of the {count} classes"
            )
        return label


@registry.register("task", "lvis_detection")
class LvisDetection(Recognition):
    """Box AP of LVIS in percent: boxes of a detector, named by the model.

    The boxes are those of the annotation file; what they should be is in LVIS's own file
    (``build_info.instances``). As published, a box counts by the logit of its best class, whatever
    the detector's score.
    """

    name = "lvis_detection"
    headline = "AP"

    def evaluate(
        self, predictions: Mapping[int | str, Prediction], truth: GroundTruth
    ) -> dict[str, float]:
        """AP, by IoU, by size and by frequency of the category, over the images that count."""
        if truth.instances is None:
            raise ValueError(
                f"{self.name}: needs the annotations of LVIS, build_info.instances of the dataset"
            )
        regions = list(truth.regions())
        scores = np.array(
            [self._logits(predictions, region, truth) for region in regions], dtype=np.float32
        )
        instances = read_instances(truth.instances, of_lvis=True)
        metrics = lvis_box_metrics(
            instances,
            detections_of(regions, scores, truth.vocabularies.classes.names, instances),
            None if truth.is_whole else truth.image_ids(),
        )
        # -1 where there is no object of the kind.
        return {name: 100 * value for name, value in metrics.items() if value >= 0}

    def _label(self, region: RegionRecord, truth: GroundTruth) -> None:
        return None


def detections_of(
    regions: Sequence[RegionRecord],
    scores: np.ndarray,
    names: Sequence[str],
    instances: Instances,
) -> list[dict[str, Any]]:
    """COCO results: each region with its best class, the class logit as score.

    scores [N, C], a column for each of ``names``, by which categories of the instances file are
    found; "_" is as good as a space.
    Raises ValueError where the file lacks one.
    """
    categories = instances.categories.values()
    by_name = {plain_name(category["name"]): category["id"] for category in categories}
    missing = [name for name in names if plain_name(name) not in by_name]
    if missing:
        raise ValueError(f"{instances.source}: no category is named {', '.join(missing)}")
    detections = []
    for region, row in zip(regions, scores, strict=True):
        best = int(row.argmax())
        x1, y1, x2, y2 = region.box
        detections.append(
            {
                "image_id": region.image_id,
                "category_id": by_name[plain_name(names[best])],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": float(row[best]),
            }
        )
    return detections
