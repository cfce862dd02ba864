"""What a prediction says of regions and images, as dataclasses and as plain values for JSON."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dynrefer.vocabulary import Vocabularies, best_attributes, best_of

if TYPE_CHECKING:  # the models take seconds to import; who builds one imports them
    from dynrefer.models.dynrefer import RegionPrediction

Box = tuple[float, float, float, float]
TOP = 5


@dataclass(frozen=True)
class RegionResult:
    """What the model says of one region, and where it looked; or why it says nothing.

    ``box`` (the region, clipped to the image) and ``view_boxes`` (V windows in whole pixels, end
    exclusive, the region's own first) are xyxy in pixels of the image; ``mask``, bool [H, W], is
    the shape of a region that was given by one; ``vocabularies`` are those that the scores of the
    prediction belong to. Where ``error`` is set the prediction is None, and the box too where it
    was the fault.
    """

    prediction: "RegionPrediction | None"
    box: Box | None
    view_boxes: tuple[tuple[int, int, int, int], ...] = ()
    mask: np.ndarray | None = field(default=None, repr=False, compare=False)
    vocabularies: Vocabularies | None = field(default=None, repr=False, compare=False)
    error: str | None = None

    def to_dict(self, top: int | None = TOP) -> dict[str, Any]:
        """Plain values for JSON; a value is None where its decoder did not run.

        Args:
            top: how many attributes and classes are listed, the best first; None for all.
        """
        prediction, known = self.prediction, self.vocabularies
        if prediction is None:
            return {"box": self.box and list(self.box), "error": self.error}
        attributes = classes = None
        if prediction.attributes is not None:
            attributes = best_attributes(prediction.attributes, known.attributes.names, top)
        if prediction.class_logits is not None:
            classes = best_of(prediction.class_logits, known.classes.names, top)
        return {
            "id": prediction.id,
            "box": list(self.box),
            "caption": prediction.caption,
            "score": prediction.score,
            "tags": prediction.tags,
            "class": prediction.class_name,
            "class_score": prediction.class_logits and max(prediction.class_logits),
            "classes": _named(classes),
            "attributes": _named(attributes),
            "views": [
                {"ratio": round(ratio, 6), "box": list(box)}
                for ratio, box in zip(prediction.ratios, self.view_boxes, strict=True)
            ],
        }


@dataclass(frozen=True)
class ImageResult:
    """What the model says of an image's regions, one entry for each of them, in their order.

    Where ``error`` is set, nothing of the image could be used and there are no regions.
    """

    id: int | str
    regions: tuple[RegionResult, ...] = ()
    error: str | None = None

    def to_dict(self, top: int | None = TOP) -> dict[str, Any]:
        """Plain values for JSON; see :meth:`RegionResult.to_dict`."""
        regions = [region.to_dict(top) for region in self.regions]
        return {"id": self.id, "error": self.error, "regions": regions}


def _named(best: list[tuple[str, float]] | None) -> list[dict[str, Any]] | None:
    return best and [{"name": name, "score": score} for name, score in best]
