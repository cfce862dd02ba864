"""Attribute detection: a score for each attribute of a region (OVAD)."""

from collections.abc import Sequence

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
    field = "attributes"
    headline = "mAP all"
    label_name = "extra_info.ovad_result.att_vec"
    score_name = "average precision of the region's positive attributes, by its scores"
    score = staticmethod(label_precision)

    def names(self, truth: GroundTruth) -> Sequence[str]:
        """The attributes."""
        return truth.vocabularies.attributes.names

    def label(self, region: RegionRecord, truth: GroundTruth) -> list[int] | None:
        """1, 0 or -1 (not labelled) for each attribute; None where the region carries no labels."""
        vector, names = extra_info(region, "ovad_result", "att_vec", truth), self.names(truth)
        if vector is None:
            return None
        if len(vector) != len(names):  # what it holds is checked where a file is opened
            fault = f"is {len(vector)} labels, the vocabulary has {len(names)} attributes"
            raise wrong_label(region, f"ovad_result.att_vec {fault}", truth)
        return vector

    def labelled(self, truth: GroundTruth) -> list[tuple[RegionRecord, list[int]]]:
        """As of any task; also ValueError where no label is positive, for then there is no AP."""
        labelled = super().labelled(truth)
        if not any(1 in vector for _, vector in labelled):
            raise ValueError(f"{truth.index.source}: no {self.label_name} has a positive label (1)")
        return labelled

    def evaluate(self, predictions: Predictions, truth: GroundTruth) -> dict[str, float]:
        """Metrics over the regions that carry attribute labels (``ovad_result.att_vec``)."""
        regions, labels = zip(*self.labelled(truth), strict=True)
        scores = self.matrix(predictions, regions, truth)
        attributes = truth.vocabularies.attributes.entries
        result = attribute_metrics(scores, np.array(labels, dtype=np.int64), attributes)
        pooled = result["threshold"]["overall"].get("all", {})
        return {
            **{f"mAP {group}": value for group, value in result["map"].items()},
            **{f"{name} at 0.5": value for name, value in pooled.items()},
            **{f"AP {name}": value for name, value in result["ap"].items()},
        }

    @staticmethod
    def words(said: Sequence[float], label: list[int] | None, names: Sequence[str]) -> RegionWords:
        """The attributes with the highest scores, and the positive ones with score and rank.

        Ranks are those among the labelled attributes, as in the score.
        """
        labels = label or [-1] * len(names)
        order = sorted(range(len(names)), key=lambda index: -said[index])
        ranks = enumerate((index for index in order if labels[index] >= 0), start=1)
        return RegionWords(
            [f"{names[i]} {said[i]:.2f} ({SIGNS[labels[i]]})" for i in order[:SHOWN]],
            [f"{names[i]} {said[i]:.2f} (rank {rank})" for rank, i in ranks if labels[i] == 1],
        )
