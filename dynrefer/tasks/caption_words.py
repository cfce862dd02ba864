"""Words of captions, kind by kind: what captions of the shapes world say, and if it is true."""

from collections.abc import Mapping
from typing import Any

from dynrefer.datasets.annotations import RegionRecord
from dynrefer.datasets.shapes.language import KINDS, said_by_kind
from dynrefer.registry import registry
from dynrefer.tasks.ground_truth import GroundTruth
from dynrefer.tasks.region_scores import RegionWords
from dynrefer.tasks.results import Predictions
from dynrefer.tasks.task import Task, wrong_label


@registry.register("task", "caption_words")
class CaptionWords(Task):
    """For each kind of word (figure, colour, ..., neighbour): how many captions say one, how many
    the right one, in percent of the regions of which it is known.

    Captions are judged word by word where CIDEr mixes all of them. It reads the grammar of the
    shapes world, whose annotations carry ``extra_info.facts``.
    """

    name = "caption_words"
    decoders = frozenset({"caption"})
    field = "caption"
    headline = "right"
    label_name = "extra_info.facts"
    score_name = "share of what is known of the region that its caption says rightly"

    def label(self, region: RegionRecord, truth: GroundTruth) -> Mapping[str, str] | None:
        """What is true of the region by kind; None where it does not say."""
        facts = region.extra_info.get("facts")
        if facts is None:
            return None
        if not isinstance(facts, Mapping) or not facts:
            raise wrong_label(region, f"facts is {facts!r:.60}, must be an object", truth)
        for kind, value in facts.items():
            if kind not in KINDS or not isinstance(value, str):
                fault = f"facts.{kind} is {value!r:.60}; valid are texts for {', '.join(KINDS)}"
                raise wrong_label(region, fault, truth)
        return facts

    def evaluate(self, predictions: Predictions, truth: GroundTruth) -> dict[str, float]:
        """``<kind> said`` and ``<kind> right`` of every kind that is known of any region, and
        ``right``, the mean of the latter."""
        known: dict[str, list[tuple[bool, bool]]] = {}
        for region, facts in self.labelled(truth):
            said = said_by_kind(self.said(predictions, region, truth))
            for kind, value in facts.items():
                known.setdefault(kind, []).append((kind in said, said.get(kind) == value))
        metrics = {}
        for kind in filter(known.__contains__, KINDS):
            for name, hits in zip(("said", "right"), zip(*known[kind], strict=True), strict=True):
                metrics[f"{kind} {name}"] = 100 * sum(hits) / len(hits)
        right = [metrics[f"{kind} right"] for kind in known]
        return {"right": sum(right) / len(right), **metrics}

    @staticmethod
    def score(said: str, label: Mapping[str, str]) -> float:
        """Share of the known kinds whose word the caption has right."""
        words = said_by_kind(said)
        return sum(words.get(kind) == value for kind, value in label.items()) / len(label)

    @staticmethod
    def words(said: str, label: Mapping[str, str] | None, names: Any) -> RegionWords:
        """What the caption says by kind, and what is true."""
        sides = (said_by_kind(said), label or {})
        texts = ([f"{kind}: {value}" for kind, value in side.items()] for side in sides)
        return RegionWords(*texts)
