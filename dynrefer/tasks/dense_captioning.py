"""Dense captioning: captions of all regions of an image, judged by place and words (VG)."""

from collections.abc import Iterator, Mapping

import numpy as np

from dynrefer.metrics.captions import Meteor
from dynrefer.metrics.dense_captions import DenseCaptionImage, dense_caption_map
from dynrefer.registry import registry
from dynrefer.tasks.task import GroundTruth, Prediction, Task


@registry.register("task", "dense_captioning")
class DenseCaptioning(Task):
    """Mean average precision over IoU and METEOR thresholds, in percent."""

    name = "dense_captioning"
    decoders = frozenset({"caption"})
    headline = "mAP"

    def evaluate(
        self, predictions: Mapping[int | str, Prediction], truth: GroundTruth
    ) -> dict[str, float]:
        """mAP, detection mAP and the AP of every pair of thresholds, in percent."""
        with Meteor() as meteor:
            result = dense_caption_map(self._images(predictions, truth), meteor)
        metrics = {"mAP": result["map"], "detection mAP": result["detmap"]}
        metrics |= {f"AP {pair}": value for pair, value in result["ap_breakdown"].items()}
        return {name: 100 * value for name, value in metrics.items()}

    def _images(
        self, predictions: Mapping[int | str, Prediction], truth: GroundTruth
    ) -> Iterator[DenseCaptionImage]:
        for regions in truth.images():
            boxes = np.array([region.box for region in regions], dtype=np.float64)
            captions = [
                (box, caption)
                for box, region in zip(boxes, regions, strict=True)
                for caption in region.captions
            ]
            yield DenseCaptionImage(
                target_boxes=np.array([box for box, _ in captions]).reshape(-1, 4),
                target_text=[caption for _, caption in captions],
                boxes=boxes,
                text=[self.field_of(predictions, region, "caption") for region in regions],
                scores=np.array(
                    [self.field_of(predictions, region, "score") for region in regions]
                ),
            )
