"""View selectors: which ratios a region is looked at with.

View 0 is the region alone (ratio 0). A selector picks the other V - 1 ratios: at random (training),
by what the image shows (image prior) or by what the task needs (task prior); only "fixed", which
ablations use, sets view 0's too. All have one call, ``selector(image, boxes, rng) -> ratios``:

    image: uint8 [H, W, 3] RGB; boxes: float32 [N, 4] xyxy in pixels; rng: a numpy Generator, used
    by the stochastic selector alone; ratios: float64 [N, V] in view order, the first column 0.
"""

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from dynrefer.registry import registry
from dynrefer.views.nesting import nested_boxes, pixel_boxes
from dynrefer.views.phash import perceptual_hashes

CANDIDATE_RATIOS = np.arange(1, 11) / 10
ViewSelector = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]


class _Selector:
    """What all have in common: the number of views, from 1 to 11."""

    def __init__(self, num_views: int) -> None:
        most = len(CANDIDATE_RATIOS) + 1
        if type(num_views) is not int or not 1 <= num_views <= most:
            valid = f"a whole number from 1 to {most}"
            raise ValueError(f"num_views is {num_views!r}; valid is {valid}")
        self.num_views = num_views


def _after_region(ratios: np.ndarray) -> np.ndarray:
    """Puts the region's own view (ratio 0) before the chosen ones, [N, V-1] -> [N, V]."""
    return np.pad(ratios, ((0, 0), (1, 0)))


@registry.register("view_selector", "stochastic")
class StochasticSelector(_Selector):
    """Training: V - 1 of the ten candidates, uniformly without replacement, in drawn order.

    Raises ValueError where ``num_views`` is not from 1 to 11.
    """

    def __call__(
        self, image: np.ndarray, boxes: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        candidates = np.tile(CANDIDATE_RATIOS, (len(boxes), 1))
        return _after_region(rng.permuted(candidates, axis=1)[:, : self.num_views - 1])


@registry.register("view_selector", "image_prior")
class ImagePriorSelector(_Selector):
    """Inference: the views that differ most from the region, judged by their perceptual hashes.

    A candidate's score is the number of hash bits in which it differs from the region, divided by
    its ratio. The best are taken greedily, the smaller ratio first among equals. A taken candidate
    scores 0 from then on; so where all scores are 0, ratio 0.1 is taken, even a second time (as
    published).

    Raises ValueError where ``num_views`` is not from 1 to 11, or the image not uint8 [H, W, 3].
    """

    def __call__(
        self, image: np.ndarray, boxes: np.ndarray, rng: np.random.Generator | None = None
    ) -> np.ndarray:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(
                f"image is {image.dtype} {list(image.shape)}; valid is uint8 [height, width, 3]"
            )
        picks = np.zeros((len(boxes), self.num_views - 1), dtype=np.int64)
        if picks.size:
            scores = self._scores(image, boxes)
            for picked in picks.T:
                picked[:] = scores.argmax(axis=1)
                np.put_along_axis(scores, picked[:, None], 0, axis=1)
        return _after_region(CANDIDATE_RATIOS[picks])

    @staticmethod
    def _scores(image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """Scores of the ten candidates for every region, float64 [N, 10]."""
        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
        height, width = gray.shape
        ratios = np.tile(np.append(0, CANDIDATE_RATIOS), (len(boxes), 1))
        windows = pixel_boxes(nested_boxes(boxes, ratios, width, height), width, height)
        hashes = perceptual_hashes(gray, windows.reshape(-1, 4)).reshape(*ratios.shape, -1)
        return (hashes[:, :1] ^ hashes[:, 1:]).sum(axis=2) / CANDIDATE_RATIOS


@registry.register("view_selector", "task_prior")
class TaskPriorSelector(_Selector):
    """Inference for a task whose useful context is known: the same ratios for every region.

    ``ratios`` are those of the V - 1 views after view 0, each in [0, 1], in view order. Equal ones
    are allowed: all 0 shows the model the region alone, V times. Raises ValueError for a wrong
    number of views or ratios, or a ratio outside [0, 1].
    """

    def __init__(self, num_views: int, ratios: Sequence[float]) -> None:
        super().__init__(num_views)
        self.ratios = _checked(ratios, num_views, num_views - 1)

    def __call__(
        self, image: np.ndarray, boxes: np.ndarray, rng: np.random.Generator | None = None
    ) -> np.ndarray:
        return _after_region(np.tile(self.ratios, (len(boxes), 1)))


@registry.register("view_selector", "fixed")
class FixedSelector(_Selector):
    """Ablations: the same V ratios for every region, view 0 with its own, which need not be 0.

    Raises ValueError for a wrong number of views or ratios, or a ratio outside [0, 1].
    """

    def __init__(self, num_views: int, ratios: Sequence[float]) -> None:
        super().__init__(num_views)
        self.ratios = _checked(ratios, num_views, num_views)

    def __call__(
        self, image: np.ndarray, boxes: np.ndarray, rng: np.random.Generator | None = None
    ) -> np.ndarray:
        return np.tile(self.ratios, (len(boxes), 1))


def _checked(ratios: Sequence[float], num_views: int, count: int) -> np.ndarray:
    if len(ratios) != count:
        which = "every view" if count == num_views else "each view after the region itself"
        raise ValueError(
            f"ratios is {list(ratios)}; {num_views} views need {count} of them, one for {which}"
        )
    for ratio in ratios:
        if not 0 <= ratio <= 1:
            raise ValueError(f"ratios holds {ratio}; valid is 0 (region) to 1 (whole image)")
    return np.array(ratios, dtype=np.float64)
