"""Region captioning: one caption a region against its references (VG, RefCOCOg)."""

from collections.abc import Mapping

from dynrefer.datasets.annotations import RegionRecord
from dynrefer.metrics.captions import caption_metrics
from dynrefer.registry import registry
from dynrefer.tasks.region_scores import RegionWords, token_f1
from dynrefer.tasks.task import GroundTruth, Prediction, Task


class Captions(Task):
    """What tasks that judge captions share: the score of a single region, and its words."""

    score_name = "F1 of the caption's words, against the best reference"

    def region_score(
        self, predictions: Mapping[int | str, Prediction], region: RegionRecord, truth: GroundTruth
    ) -> float | None:
        """F1 of the words; None without a reference caption."""
        if not region.captions:
            return None
        return token_f1(self.field_of(predictions, region, "caption"), region.captions)

    def region_words(
        self, predictions: Mapping[int | str, Prediction], region: RegionRecord, truth: GroundTruth
    ) -> RegionWords:
        """The caption, and all references."""
        caption = self.field_of(predictions, region, "caption") or "(empty)"
        return RegionWords([caption], list(region.captions))


@registry.register("task", "region_captioning")
class RegionCaptioning(Captions):
    """BLEU, METEOR, ROUGE-L and CIDEr in percent."""

    name = "region_captioning"
    decoders = frozenset({"caption"})
    headline = "CIDEr"

    def evaluate(
        self, predictions: Mapping[int | str, Prediction], truth: GroundTruth
    ) -> dict[str, float]:
        """Metrics in percent; regions without a reference caption are left out."""
        references = {region.id: region.captions for region in truth.regions() if region.captions}
        captions = {
            region.id: self.field_of(predictions, region, "caption")
            for region in truth.regions()
            if region.captions
        }
        metrics = caption_metrics(references, captions)
        return {name: 100 * value for name, value in metrics.items()}
