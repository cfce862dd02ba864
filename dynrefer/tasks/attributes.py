"""Attribute detection: a score for each attribute of a region (OVAD)."""

from collections.abc import Mapping

import numpy as np

from dynrefer.metrics.attributes import attribute_metrics
from dynrefer.registry import registry
from dynrefer.tasks.task import GroundTruth, Prediction, Task


@registry.register("task", "attribute_detection")
class AttributeDetection(Task):
    """Mean average precision over attributes and their groups, in percent."""

    name = "attribute_detection"
    decoders = frozenset({"attributes"})
    headline = "mAP all"

    def evaluate(
        self, predictions: Mapping[int | str, Prediction], truth: GroundTruth
    ) -> dict[str, float]:
        """Metrics over the regions that carry attribute labels (``ovad_result.att_vec``)."""
        attributes = truth.vocabularies.attributes.entries
        scores, labels = [], []
        for region in truth.regions():
            vector = region.extra_info.get("ovad_result", {}).get("att_vec")
            if vector is None:
                continue
            if len(vector) != len(attributes):
                raise ValueError(
                    f"{truth.index.source}: region {region.id!r} has {len(vector)} attribute "
                    f"labels, the vocabulary has {len(attributes)} attributes"
                )
            labels.append(vector)
            scores.append(self.field_of(predictions, region, "attributes", len(attributes)))
        if not labels:
            raise ValueError(f"{truth.index.source}: no region has extra_info.ovad_result.att_vec")
        result = attribute_metrics(
            np.array(scores, dtype=np.float32), np.array(labels, dtype=np.int64), attributes
        )
        metrics = {f"mAP {group}": value for group, value in result["map"].items()}
        pooled = result["threshold"]["overall"].get("all", {})
        metrics |= {f"{name} at 0.5": value for name, value in pooled.items()}
        return metrics | {f"AP {name}": value for name, value in result["ap"].items()}
