"""Region captioning: one caption a region against its references (VG, RefCOCOg)."""

from collections.abc import Mapping

from dynrefer.metrics.captions import caption_metrics
from dynrefer.registry import registry
from dynrefer.tasks.task import GroundTruth, Prediction, Task


@registry.register("task", "region_captioning")
class RegionCaptioning(Task):
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
