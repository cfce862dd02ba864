"""Region captioning: one caption a region against its references (VG, RefCOCOg)."""

from collections.abc import Sequence

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
    field = "caption"
    label_name = "a caption"
    score_name = "F1 of the caption's words, against the best reference"
    score = staticmethod(token_f1)

    def label(self, region: RegionRecord, truth: GroundTruth) -> tuple[str, ...] | None:
        """The reference captions; None without one."""
        return region.captions or None

    @staticmethod
    def words(said: str, label: Sequence[str] | None, names: None) -> RegionWords:
        """The caption, and all references."""
        return RegionWords([said or "(empty)"], list(label or ()))


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
            {region.id: self.said(predictions, region, truth) for region, _ in labelled},
        )
        return {name: 100 * value for name, value in metrics.items()}
