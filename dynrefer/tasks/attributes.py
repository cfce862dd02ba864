"""Attribute detection: a score for each attribute of a region (OVAD)."""

from collections.abc import Mapping

import numpy as np

from dynrefer.datasets.annotations import RegionRecord
from dynrefer.metrics.attributes import attribute_metrics
from dynrefer.registry import registry
from dynrefer.tasks.region_scores import RegionWords, label_precision
from dynrefer.tasks.task import GroundTruth, Prediction, Task

SHOWN = 5  # attributes of a region in a report


@registry.register("task", "attribute_detection")
class AttributeDetection(Task):
    """Mean average precision over attributes and their groups, in percent."""

    name = "attribute_detection"
    decoders = frozenset({"attributes"})
    headline = "mAP all"
    score_name = "average precision of the region's positive attributes, by its scores"

    def evaluate(
        self, predictions: Mapping[int | str, Prediction], truth: GroundTruth
    ) -> dict[str, float]:
        """Metrics over the regions that carry attribute labels (``ovad_result.att_vec``)."""
        attributes = truth.vocabularies.attributes.entries
        scores, labels = [], []
        for region in truth.regions():
            vector = self._labels(region, truth)
            if vector is None:
                continue
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

    def region_score(
        self, predictions: Mapping[int | str, Prediction], region: RegionRecord, truth: GroundTruth
    ) -> float | None:
        """Average precision within the region; None where no attribute is labelled positive."""
        labels = self._labels(region, truth)
        if labels is None:
            return None
        scores = self.field_of(predictions, region, "attributes", len(labels))
        return label_precision(scores, labels)

    def region_words(
        self, predictions: Mapping[int | str, Prediction], region: RegionRecord, truth: GroundTruth
    ) -> RegionWords:
        """The attributes with the highest scores, and the positive ones with score and rank.

        Ranks are those among the labelled attributes, as in the score.
        """
        names = [attribute.name for attribute in truth.vocabularies.attributes.entries]
        labels = self._labels(region, truth)
        scores = self.field_of(predictions, region, "attributes", len(names))
        order = sorted(range(len(names)), key=lambda index: -scores[index])
        labelled = [index for index in order if labels[index] >= 0]
        signs = {1: "right", 0: "wrong", -1: "not labelled"}
        return RegionWords(
            [f"{names[i]} {scores[i]:.2f} ({signs[labels[i]]})" for i in order[:SHOWN]],
            [
                f"{names[i]} {scores[i]:.2f} (rank {rank})"
                for rank, i in enumerate(labelled, start=1)
                if labels[i] == 1
            ],
        )

    @staticmethod
    def _labels(region: RegionRecord, truth: GroundTruth) -> list[int] | None:
        """1, 0 or -1 for each attribute; None where the region carries no labels."""
        vector = region.extra_info.get("ovad_result", {}).get("att_vec")
        count = len(truth.vocabularies.attributes.entries)
        if vector is not None and len(vector) != count:
            raise ValueError(
                f"{truth.index.source}: region {region.id!r} has {len(vector)} attribute "
                f"labels, the vocabulary has {count} attributes"
            )
        return vector
