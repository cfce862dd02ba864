"""Region recognition: the class of a region (COCO)."""

from collections.abc import Mapping

import numpy as np

from dynrefer.metrics.recognition import coco_box_metrics, top1_accuracy
from dynrefer.registry import registry
from dynrefer.tasks.task import GroundTruth, Prediction, Task
from dynrefer.vocabulary import read_json


@registry.register("task", "region_recognition")
class RegionRecognition(Task):
    """Top-1 accuracy, and COCO's box mAP where there is an instances file, in percent.

    Box mAP is over all images of that file, so a run with ``max_imgs`` has none.
    """

    name = "region_recognition"
    decoders = frozenset({"classes"})
    headline = "accuracy"

    def evaluate(
        self, predictions: Mapping[int | str, Prediction], truth: GroundTruth
    ) -> dict[str, float]:
        """Accuracy over the regions that carry a category (``coco_result.category``)."""
        class_index = {name: i for i, name in enumerate(truth.vocabularies.classes.names)}
        logits, labels, boxes, image_ids = [], [], [], []
        for region in truth.regions():
            category = region.extra_info.get("coco_result", {}).get("category")
            if category is None:
                continue
            if category not in class_index:
                raise ValueError(
                    f"{truth.index.source}: region {region.id!r} has category '{category}', which "
                    "is not in the class vocabulary"
                )
            labels.append(class_index[category])
            logits.append(self.field_of(predictions, region, "class_logits", len(class_index)))
            boxes.append(region.box)
            image_ids.append(region.image_id)
        if not labels:
            raise ValueError(f"{truth.index.source}: no region has extra_info.coco_result.category")
        scores = np.array(logits, dtype=np.float32)
        metrics = {"accuracy": 100 * top1_accuracy(scores, np.array(labels))}
        if truth.instances is not None and truth.is_whole:
            detections = self._detections(scores, np.array(boxes), image_ids, truth)
            box_metrics = coco_box_metrics(truth.instances, detections)
            # COCOeval gives -1 where no object has the size.
            metrics |= {f"box {name}": 100 * ap for name, ap in box_metrics.items() if ap >= 0}
        return metrics

    @staticmethod
    def _detections(
        scores: np.ndarray, boxes: np.ndarray, image_ids: list[int | str], truth: GroundTruth
    ) -> list[dict]:
        """COCO results: each box with its best class, the class logit as score."""
        content = read_json(truth.instances, "build_info.instances")
        if not isinstance(content, dict) or "categories" not in content:
            raise ValueError(f"{truth.instances} is not a COCO instances file: no 'categories'")
        by_name = {category["name"]: category["id"] for category in content["categories"]}
        names = truth.vocabularies.classes.names
        missing = [name for name in names if name not in by_name]
        if missing:
            raise ValueError(f"{truth.instances}: no category is named {', '.join(missing)}")
        best = scores.argmax(axis=1)
        extents = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        return [
            {
                "image_id": image_id,
                "category_id": by_name[names[index]],
                "bbox": box,
                "score": float(row[index]),
            }
            for image_id, index, box, row in zip(
                image_ids, best, extents.tolist(), scores, strict=True
            )
        ]
