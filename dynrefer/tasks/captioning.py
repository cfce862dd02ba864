"""Region captioning: one caption a region against its references (VG, RefCOCOg)."""

from dynrefer.datasets.annotations import RegionRecord
from dynrefer.metrics.captions import caption_metrics
from dynrefer.registry import registry
from dynrefer.tasks.ground_truth import GroundTruth
from dynrefer.tasks.region_scores import RegionWords, token_f1
from dynrefer.tasks.results import Predictions
from dynrefer.tasks.task import Task


class Captions(Task):
    """What tasks that judge captions share: the score of a single region, and its words."""

    decoders = frozenset({"caption"})
    label_name = "a caption"
    score_name = "F1 of the caption's words, against the best reference"

    def label(self, region: RegionRecord, truth: GroundTruth) -> tuple[str, ...] | None:
        """The reference captions; None without one."""
        return region.captions or None

    def region_score(
        self, predictions: Predictions, region: RegionRecord, truth: GroundTruth
    ) -> float | None:
        """F1 of the words; None without a reference caption."""
        if not region.captions:
            return None
        return token_f1(self.field_of(predictions, region, "caption"), region.captions)

    def region_words(
        self, predictions: Predictions, region: RegionRecord, truth: GroundTruth
    ) -> RegionWords:
        """The caption, and all references."""
        caption = self.field_of(predictions, region, "caption") or "(empty)"
        return RegionWords([caption], list(region.captions))


@registry.register("task", "region_captioning")
class RegionCaptioning(Captions):
    """BLEU, METEOR, ROUGE-L and CIDEr in percent."""

    name = "region_captioning"
    headline = "CIDEr"

    def evaluate(self, predictions: Predictions, truth: GroundTruth) -> dict[str, float]:
        """Metrics in percent; regions without a reference caption are left out."""
        labelled = self.labelled(truth)
        metrics = caption_metrics(
            {region.id: references for region, references in labelled},
            {region.id: self.field_of(predictions, region, "caption") for region, _ in labelled},
        )
        return {name: 100 * value for name, value in metrics.items()}
