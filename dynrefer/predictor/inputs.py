"""Images and regions of every kind that predictions take: as PIL RGB, and as boxes and shapes."""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import ArrayLike
from PIL import Image

from dynrefer.processors.images import ImageError, ImageFile, open_image, to_rgb, upright
from dynrefer.processors.masks import Mask, as_mask, mask_box, open_mask
from dynrefer.processors.region_image import check_boxes

ImageLike = Image.Image | np.ndarray | torch.Tensor | bytes | str | Path | ImageFile
# An image, uint8 [H, W, 3], and clicks inside one region, float [K, 2] -> its mask [H, W].
Segmenter = Callable[[np.ndarray, np.ndarray], Mask]
BOX_FORMATS = ("xyxy", "xywh")
LEAST_PIXELS = 16  # a side from which a box of less than one pixel is rather one in shares of it
ROUNDING = 1e-3  # by which shares of an image may pass its edge


@dataclass(frozen=True)
class _Content:
    """The content of an image file, which is in memory."""

    content: bytes = field(repr=False)

    def open(self, mode: str) -> BinaryIO:
        return io.BytesIO(self.content)

    def __str__(self) -> str:
        return f"of {len(self.content)} bytes"


def as_image(image: ImageLike, turn: bool = True) -> Image.Image:
    """An image of any kind that ``predict`` takes as PIL RGB; ImageError for others.

    Args:
        image: a file's path or content, a PIL image, an array of uint8 [H, W], [H, W, 3] (RGB) or
            [H, W, 4], or a tensor of uint8, or of floats in [0, 1], [1, 3 or 4, H, W].
        turn: whether one with an EXIF orientation is turned upright, as viewers show it.
    """
    if isinstance(image, bytes | bytearray):
        return open_image(_Content(bytes(image)), turn)
    if isinstance(image, str | Path):
        return open_image(Path(image), turn)
    if isinstance(image, Image.Image):
        return to_rgb(upright(image) if turn else image)
    if torch.is_tensor(image):
        image = _channels_last(image)
    elif isinstance(image, ImageFile):
        return open_image(image, turn)
    if not isinstance(image, np.ndarray):
        kind = type(image).__name__
        valid = "a path, bytes, a PIL image, a uint8 array or a tensor"
        raise ImageError(f"image is a {kind}; valid is {valid}")
    channels_fit = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))
    if image.dtype != np.uint8 or not channels_fit or image.size == 0:
        raise ImageError(
            f"image is an array of {image.dtype} {list(image.shape)}; valid is uint8 [H, W], "
            "[H, W, 3] or [H, W, 4]"
        )
    return to_rgb(Image.fromarray(image))


def _channels_last(image: torch.Tensor) -> np.ndarray:
    """A tensor [H, W] or [C, H, W] as uint8 [H, W] or [H, W, C]."""
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[0] not in (1, 3, 4)):
        raise ImageError(
            f"image is a tensor {list(image.shape)}; valid is [H, W] or [C, H, W] with 1, 3 or 4 "
            "channels"
        )
    values = image.detach().cpu()
    if values.is_floating_point():
        if not ((values >= 0) & (values <= 1)).all():
            raise ImageError(
                "image is a tensor of floats outside [0, 1]; valid is uint8, or 0 to 1"
            )
        values = (values.float() * 255).round().to(torch.uint8)
    array = values.numpy()
    return array if array.ndim == 2 else array[0] if len(array) == 1 else array.transpose(1, 2, 0)


def regions_of(
    size: tuple[int, int],
    boxes: ArrayLike | None = None,
    masks: Sequence[Mask] | None = None,
    box_format: str = "xyxy",
    relative: bool = False,
) -> tuple[np.ndarray, list[np.ndarray | None]]:
    """Boxes and shapes of regions: those given by boxes, then those given by masks.

    Args:
        size: width and height of the image in pixels.
        boxes: [N, 4] in pixels; parts outside the image are cut off.
        masks: see :func:`dynrefer.processors.masks.as_mask`, or the paths of mask files.
        box_format: "xyxy", or "xywh": left, top, width, height.
        relative: True for boxes in shares of the image's width and height, 0 to 1.

    Returns:
        float32 [N, 4] xyxy in pixels, of a mask the tight one; and N masks, None for a region of
        ``boxes``.

    Raises:
        ValueError: neither boxes nor masks; a box that is not finite, has no area, lies outside the
            image or is given in shares of it unasked; a mask that is empty or does not fit.
    """
    if boxes is None and masks is None:
        raise ValueError("no region is given; pass boxes ([N, 4], x1 y1 x2 y2) or masks ([H, W])")
    given = as_array(() if boxes is None else boxes)
    from_boxes = check_boxes(_in_pixels(given, size, box_format, relative), *size)
    is_large = max(size) >= LEAST_PIXELS and not relative
    if is_large and (shares := from_boxes.max(axis=1, initial=0) <= 1).any():
        index = int(np.argmax(shares))
        raise ValueError(
            f"box {index} {np.asarray(given)[index].tolist()} is less than a pixel, as boxes in "
            f"shares of the image are (relative=True); valid are pixels (the image has {size[0]} x "
            f"{size[1]})"
        )
    if isinstance(masks, Mapping) or not isinstance(masks, Iterable | None):
        raise ValueError(f"masks is a {type(masks).__name__}; valid is a list of masks")
    listed = () if masks is None else masks
    opened = (
        open_mask(mask) if isinstance(mask, str | Path) else as_array(mask) for mask in listed
    )
    shapes = [as_mask(mask, size, f"mask {index}") for index, mask in enumerate(opened)]
    from_masks = np.array([mask_box(shape) for shape in shapes], dtype=np.float32).reshape(-1, 4)
    return np.concatenate([from_boxes, from_masks]), [None] * len(from_boxes) + shapes


def masks_of_points(image: Image.Image, points: Any, segmenter: Segmenter | None) -> list[Mask]:
    """What a segmenter finds at the points of N regions.

    Args:
        image: RGB.
        points: N entries, x y in pixels or several of them.
        segmenter: see :data:`Segmenter`.

    Raises:
        ValueError: there is no segmenter, or a point that is not finite or lies outside the image.
    """
    if segmenter is None:
        raise ValueError(
            "points need a segmenter: RegionPredictor.from_checkpoint(..., segmenter=)"
        )
    masks, pixels = [], np.asarray(image)
    for index, entry in enumerate(as_array(points)):
        try:
            clicks = np.asarray(as_array(entry), dtype=np.float64).reshape(-1, 2)
        except (TypeError, ValueError) as error:
            raise ValueError(f"point {index} is {entry!r:.60}; valid is x, y in pixels") from error
        if not (len(clicks) and ((clicks >= 0) & (clicks < image.size)).all()):
            raise ValueError(
                f"point {index} {clicks.tolist()} lies outside the image of {image.width} x "
                f"{image.height} pixels"
            )
        masks.append(segmenter(pixels, clicks))
    return masks


def as_array(values: Any) -> Any:
    """A tensor of any device as an array; other values as they are."""
    return values.detach().cpu().numpy() if torch.is_tensor(values) else values


def _in_pixels(
    boxes: ArrayLike, size: tuple[int, int], box_format: str, relative: bool
) -> ArrayLike:
    """Boxes xyxy in pixels; those that are no numbers [N, 4] as they are, for ``check_boxes``."""
    if box_format not in BOX_FORMATS:
        raise ValueError(f"box_format is {box_format!r}; valid is {' or '.join(BOX_FORMATS)}")
    if box_format == "xyxy" and not relative:
        return boxes
    try:
        found = np.asarray(boxes).astype(np.float64, casting="same_kind")
    except (TypeError, ValueError):
        return boxes
    if found.ndim != 2 or found.shape[1] != 4:
        return boxes
    if box_format == "xywh":
        found[:, 2:] += found[:, :2]
    if relative:
        outside = ((found < -ROUNDING) | (found > 1 + ROUNDING)).any(axis=1)
        if outside.any():
            index = int(np.argmax(outside))
            raise ValueError(
                f"box {index} {np.asarray(boxes)[index].tolist()} is not in shares of the image; "
                "valid is 0 to 1 with relative=True"
            )
        found *= np.tile(size, 2)
    return found
