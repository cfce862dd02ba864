"""What ``predict_many`` takes: an image with its regions, in any of a few forms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from numpy.typing import ArrayLike

from dynrefer.datasets.annotations.fields import printable
from dynrefer.predictor.inputs import ImageLike
from dynrefer.processors.masks import Mask


@dataclass(frozen=True)
class RegionRequest:
    """An image and the regions of it to describe: those of boxes, of masks, then of points.

    Attributes:
        image: see :func:`dynrefer.predictor.as_image`.
        boxes, masks: see :func:`dynrefer.predictor.regions_of`.
        controls: control words for the captions, a list for each region.
        id: what the result is known by; None for the position in the stream.
        points: for each region x, y in pixels, or several such points, where a segmenter is given.
        turn: whether an image with an EXIF orientation is turned upright, as viewers show it;
            False where the regions refer to the pixels as they are stored.
    """

    image: ImageLike
    boxes: ArrayLike | None = None
    masks: Sequence[Mask] | None = None
    controls: Sequence[Sequence[str]] | None = None
    id: int | str | None = None
    points: Any = None
    turn: bool = True


def as_request(item: Any) -> RegionRequest:
    """A request, of one, of a mapping of its fields, or of a tuple of them in order.

    Raises:
        ValueError: anything else, or an unknown field.
    """
    if isinstance(item, RegionRequest):
        return item
    known = [field.name for field in fields(RegionRequest)]
    if isinstance(item, Mapping):
        unknown = [key for key in item if key not in known]
        if unknown or "image" not in item:
            problem = f"has an unknown field {unknown[0]!r}" if unknown else "has no image"
            raise ValueError(f"request {problem}; valid are {', '.join(known)}")
        return RegionRequest(**item)
    if isinstance(item, tuple) and 1 <= len(item) <= len(known):
        return RegionRequest(*item)
    raise ValueError(
        f"request is a {type(item).__name__}; valid is a RegionRequest, a mapping or a tuple with "
        f"{', '.join(known)}"
    )


def check_controls(controls: Sequence[Sequence[str]] | None, count: int) -> None:
    """Raises ValueError for what is not a list of words for each of ``count`` regions."""
    if controls is None:
        return
    if not isinstance(controls, list | tuple) or len(controls) != count:
        raise ValueError(
            f"controls is {controls!r:.60}; valid is a list of words for each of the "
            f"{count} regions"
        )
    for index, words in enumerate(controls):
        if not isinstance(words, list | tuple) or not all(isinstance(w, str) for w in words):
            raise ValueError(f"controls {index} is {words!r:.60}; valid is a list of words")
        if any(printable(word) != word for word in words):
            raise ValueError(f"controls {index} is {words!r:.60}; valid are texts in UTF-8")
