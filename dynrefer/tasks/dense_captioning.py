"""Dense captioning: captions of all regions of an image, judged by place and words (VG)."""

from collections.abc import Iterator

from dynrefer.datasets.annotations import RegionRecord
from dynrefer.metrics.dense_captions import DenseCaptionImage, dense_caption_map
from dynrefer.metrics.java import Meteor
from dynrefer.registry import registry
from dynrefer.tasks.captioning import Captions
from dynrefer.tasks.ground_truth import GroundTruth
from dynrefer.tasks.region_scores import RegionWords, most_overlapping, token_f1
from dynrefer.tasks.results import Predictions, fault_of
from dynrefer.tasks.task import extra_info, wrong_label


@registry.register("task", "dense_captioning")
class DenseCaptioning(Captions):
    """Mean average precision over IoU and METEOR thresholds, in percent."""

    name = "dense_captioning"
    headline = "mAP"
    takes_detections = True
    score_name = (
        f"{Captions.score_name}; of a detector's box: times its IoU with the annotated region that "
        "it overlaps most, whose captions are the references"
    )

    def check(self, truth: GroundTruth) -> None:
        """As of any task; also of a detector's scores, and of images that are not annotated."""
        captions = 0
        for annotated, predicted in truth.annotated_images():
            captions += sum(len(region.captions) for region in annotated)
            for region in predicted:
                _detector_score(region, truth)
        if not captions:
            source = (truth.annotated or truth.index).source
            raise ValueError(f"{source}: no region has {self.label_name}")

    def evaluate(self, predictions: Predictions, truth: GroundTruth) -> dict[str, float]:
        """mAP, detection mAP and the AP of every pair of thresholds, in percent."""
        images = list(self._images(predictions, truth))  # what is wrong with them comes first
        with Meteor() as meteor:
            result = dense_caption_map(images, meteor)
        metrics = {"mAP": result["map"], "detection mAP": result["detmap"]}
        metrics |= {f"AP {pair}": value for pair, value in result["ap_breakdown"].items()}
        return {name: 100 * value for name, value in metrics.items()}

    def region_score(
        self, predictions: Predictions, region: RegionRecord, truth: GroundTruth
    ) -> float | None:
        """F1 of the words; of a detector's box times the IoU, 0 where it overlaps nothing."""
        if truth.annotated is None:
            return super().region_score(predictions, region, truth)
        target, iou = most_overlapping(region, truth.annotated_regions(region))
        said = self.said(predictions, region, truth)
        return iou * token_f1(said, target.captions) if target else 0.0

    def region_words(
        self, predictions: Predictions, region: RegionRecord, truth: GroundTruth
    ) -> RegionWords:
        """The caption, and the references: the region's own, or those of the annotated one."""
        words = super().region_words(predictions, region, truth)
        if truth.annotated is None:
            return words
        target, iou = most_overlapping(region, truth.annotated_regions(region))
        references = target.captions if target else ()
        return RegionWords(words.said, [f"{text} (IoU {iou:.2f})" for text in references])

    def _images(self, predictions: Predictions, truth: GroundTruth) -> Iterator[DenseCaptionImage]:
        for annotated, predicted in truth.annotated_images():
            captions = [(region.box, text) for region in annotated for text in region.captions]
            scores = [_detector_score(region, truth) for region in predicted]
            # As published, a detector's score takes the place of the caption's; they are not
            # multiplied.
            scores = [
                self.said(predictions, region, truth, "score") if score is None else score
                for region, score in zip(predicted, scores, strict=True)
            ]
            yield DenseCaptionImage(
                [box for box, _ in captions],
                [caption for _, caption in captions],
                [region.box for region in predicted],
                [self.said(predictions, region, truth) for region in predicted],
                scores,
                image_id=(annotated or predicted)[0].image_id,
            )


def _detector_score(region: RegionRecord, truth: GroundTruth) -> float | None:
    score = extra_info(region, "grit_result", "score", truth)
    if score is not None and (fault := fault_of(score, "score")):
        raise wrong_label(region, f"grit_result.score {fault}", truth)
    return score
