"""Attribute detection: a score for each attribute of a region (OVAD)."""

import numpy as np

from dynrefer.datasets.annotations import RegionRecord
from dynrefer.metrics.attributes import attribute_metrics
from dynrefer.registry import registry
from dynrefer.tasks.ground_truth import GroundTruth
from dynrefer.tasks.region_scores import RegionWords, label_precision
from dynrefer.tasks.results import Predictions
from dynrefer.tasks.task import Task, extra_info, wrong_label

SHOWN = 5  # attributes of a region in a report
SIGNS = {1: "right", 0: "wrong", -1: "not labelled"}


@registry.register("task", "attribute_detection")
class AttributeDetection(Task):
    """Mean average precision over attributes and their groups, in percent."""

    name = "attribute_detection"
    decoders = frozenset({"attributes"})
    headline = "mAP all"
    label_name = "extra_info.ovad_result.att_vec"
    score_name = "average precision of the region's positive attributes, by its scores"

    def label(self, region: RegionRecord, truth: GroundTruth) -> list[int] | None:
        """1, 0 or -1 (not labelled) for each attribute; None where the region carries no labels."""
        vector = extra_info(region, "ovad_result", "att_vec", truth)
        names = truth.vocabularies.attributes.names
        if vector is None:
            return None
        if not isinstance(vector, list) or len(vector) != len(names):
            count = f"{len(vector)} labels" if isinstance(vector, list) else repr(vector)[:60]
            fault = f"ovad_result.att_vec is {count}, the vocabulary has {len(names)} attributes"
            raise wrong_label(region, fault, truth)
        for name, value in zip(names, vector, strict=True):
            if isinstance(value, bool) or value not in (1, 0, -1):
                fault = (
                    f"ovad_result.att_vec: attribute '{name}' is {value!r:.60}, must be 1, 0 or -1"
                )
                raise wrong_label(region, fault, truth)
        return vector

    def labelled(self, truth: GroundTruth) -> list[tuple[RegionRecord, list[int]]]:
        """As of any task; also ValueError where no label is positive, for then there is no AP."""
        labelled = super().labelled(truth)
        if not any(1 in vector for _, vector in labelled):
            raise ValueError(f"{truth.index.source}: no {self.label_name} has a positive label (1)")
        return labelled

    def evaluate(self, predictions: Predictions, truth: GroundTruth) -> dict[str, float]:
        """Metrics over the regions that carry attribute labels (``ovad_result.att_vec``)."""
        attributes = truth.vocabularies.attributes.entries
        labelled = self.labelled(truth)
        scores = [
            self.field_of(predictions, region, "attributes", len(attributes))
            for region, _ in labelled
        ]
        labels = np.array([vector for _, vector in labelled], dtype=np.int64)
        result = attribute_metrics(np.array(scores, dtype=np.float32), labels, attributes)
        metrics = {f"mAP {group}": value for group, value in result["map"].items()}
        pooled = result["threshold"]["overall"].get("all", {})
        metrics |= {f"{name} at 0.5": value for name, value in pooled.items()}
        return metrics | {f"AP {name}": value for name, value in result["ap"].items()}

    def region_score(
        self, predictions: Predictions, region: RegionRecord, truth: GroundTruth
    ) -> float | None:
        """Average precision within the region; None where no attribute is labelled positive."""
        labels = self.label(region, truth)
        if labels is None:
            return None
        scores = self.field_of(predictions, region, "attributes", len(labels))
        return label_precision(scores, labels)

    def region_words(
        self, predictions: Predictions, region: RegionRecord, truth: GroundTruth
    ) -> RegionWords:
        """The attributes with the highest scores, and the positive ones with score and rank.

        Ranks are those among the labelled attributes, as in the score.
        """
        names = truth.vocabularies.attributes.names
        labels = self.label(region, truth) or [-1] * len(names)
        scores = self.field_of(predictions, region, "attributes", len(names))
        order = sorted(range(len(names)), key=lambda index: -scores[index])
        labelled = [index for index in order if labels[index] >= 0]
        return RegionWords(
            [f"{names[i]} {scores[i]:.2f} ({SIGNS[labels[i]]})" for i in order[:SHOWN]],
            [
                f"{names[i]} {scores[i]:.2f} (rank {rank})"
                for rank, i in enumerate(labelled, start=1)
                if labels[i] == 1
            ],
        )
