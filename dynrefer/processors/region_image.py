"""From one decoded image and its boxes to the distinct crops that all views of the regions need."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from PIL import Image

from dynrefer.processors.images import to_rgb
from dynrefer.registry import registry
from dynrefer.views import ViewSelector, nested_boxes, pixel_boxes, region_boxes_in_views


@dataclass
class RegionViews:
    """The views of N regions of one image. Regions whose views coincide share a crop."""

    crops: torch.Tensor  # uint8 [U, 3, S, S] RGB, the distinct crops, not normalised
    view_index: torch.Tensor  # int64 [N, V], the crop that shows each view
    region_boxes: torch.Tensor  # float32 [N, V, 4] xyxy, the region in pixels of each crop
    ratios: torch.Tensor  # float32 [N, V], 0 (the region alone) to 1 (the whole image)
    view_boxes: torch.Tensor  # int64 [N, V, 4] xyxy, end exclusive, in pixels of the image


def check_boxes(boxes: ArrayLike, width: int, height: int, what: str = "box") -> np.ndarray:
    """Checks boxes against an image, clips them to it and widens those under one pixel.

    A side under one pixel grows to one, downwards from its end as published, or up from 0 where
    the image ends there. Boxes inside the image with sides of a pixel or more are not changed.

    Takes [N, 4] xyxy in pixels and returns them as float32; N may be 0. Raises ValueError, which
    begins with ``what``, for another shape, values that are not finite, no area, or a box wholly
    outside the image.
    """
    try:
        boxes = np.asarray(boxes).astype(np.float64, casting="same_kind")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} array is not of numbers, [N, 4], xyxy: {error}") from error
    if boxes.shape == (0,):
        boxes = boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{what} array has shape {list(boxes.shape)}; valid is [N, 4], xyxy")
    size = np.array([width, height], dtype=np.float64)
    starts, ends = boxes[:, :2], boxes[:, 2:]
    for wrong, reason in (
        (~np.isfinite(boxes), "is not finite"),
        (starts >= ends, "has no area; valid is x1 < x2 and y1 < y2"),
        ((starts >= size) | (ends <= 0), "lies wholly outside"),
    ):
        if wrong.any():
            index = int(np.argmax(wrong.any(axis=1)))
            raise ValueError(
                f"{what} {index} {boxes[index].tolist()} {reason} (image of {width} x {height} "
                "pixels, boxes are x1, y1, x2, y2)"
            )
    starts, ends = np.clip(starts, 0, size), np.clip(ends, 0, size)
    starts = np.where(ends - starts < 1, np.maximum(ends - 1, 0), starts)
    ends = np.maximum(ends, np.minimum(starts + 1, size))
    return np.concatenate([starts, ends], axis=1).astype(np.float32)


@registry.register("processor", "dynrefer")
class RegionImageProcessor:
    """Cuts every region's views out of an image, each distinct window once.

    ``image_size`` is S, the side of the square crops in pixels; ``view_selector`` says which ratios
    to look at (dynrefer.views.selectors).
    """

    def __init__(self, image_size: int, view_selector: ViewSelector) -> None:
        if image_size < 1:
            raise ValueError(f"image_size is {image_size}; valid is a side of 1 pixel or more")
        self.image_size = image_size
        self.view_selector = view_selector

    def __call__(
        self, image: Image.Image, boxes: ArrayLike, rng: np.random.Generator
    ) -> RegionViews:
        """Views of some regions of one image, of any mode that ``to_rgb`` takes.

        Boxes are [N, 4] xyxy in pixels, checked and clipped by ``check_boxes``; N may be 0.
        ``rng`` is for selectors that draw their views.
        """
        image = to_rgb(image)
        boxes = check_boxes(boxes, *image.size)
        return self.cut(image, boxes, self.view_selector(np.asarray(image), boxes, rng))

    def cut(self, image: Image.Image, boxes: np.ndarray, ratios: np.ndarray) -> RegionViews:
        """The views of checked boxes [N, 4] of an RGB image at chosen ratios [N, V]."""
        view_boxes = pixel_boxes(nested_boxes(boxes, ratios, *image.size), *image.size)
        windows: dict[tuple[int, ...], int] = {}
        every = map(tuple, view_boxes.reshape(-1, 4).tolist())
        view_index = [windows.setdefault(window, len(windows)) for window in every]
        region_boxes = region_boxes_in_views(view_boxes, self.image_size)
        return RegionViews(
            crops=self.crop(image, list(windows)),
            view_index=torch.tensor(view_index, dtype=torch.int64).reshape(ratios.shape),
            region_boxes=torch.from_numpy(region_boxes),
            ratios=torch.from_numpy(ratios.astype(np.float32)),
            view_boxes=torch.from_numpy(view_boxes),
        )

    def crop(self, image: Image.Image, windows: list[tuple[int, ...]]) -> torch.Tensor:
        """Windows (xyxy, whole pixels) of an RGB image, resized: uint8 [U, 3, S, S]."""
        side = self.image_size
        crops = np.empty((len(windows), side, side, 3), dtype=np.uint8)
        for crop, window in zip(crops, windows, strict=True):
            # Cut before resizing: resize(box=...) would let pixels beside the window bleed in.
            crop[:] = image.crop(window).resize((side, side), Image.Resampling.BICUBIC)
        return torch.from_numpy(crops).permute(0, 3, 1, 2).contiguous()
