"""The image and its views as pictures show them: scaled, regions outlined and numbered."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.offsetbox import DrawingArea, OffsetBox, OffsetImage
from PIL import Image

from dynrefer.pictures.blocks import (
    FAINT,
    PAPER,
    SMALL,
    TEXT,
    below,
    beside,
    boxed,
    paragraph,
    rendered,
)
from dynrefer.views import nested_boxes, pixel_boxes

CELL = "#f6f7f9"
COLORS = (
    "#e03131", "#1971c2", "#2f9e44", "#e8590c", "#843ece", "#0c8599", "#d63384", "#865a32",
)  # fmt: skip
IMAGE_LIMITS, IMAGE_LEAST, VIEW_SIDE, VIEWS_PER_LINE, BADGE = (720, 960), 160, 184, 3, 38


@dataclass(frozen=True)
class Region:
    """A region with its number, its box and, where it has a shape of its own, its mask."""

    number: int
    box: np.ndarray
    mask: np.ndarray | None = None

    @property
    def color(self) -> str:
        return COLORS[self.number % len(COLORS)]

    def outline(
        self, image: Image.Image, window: np.ndarray, pixels: np.ndarray, width: int
    ) -> None:
        """Frames the region on ``pixels``, which show a window of the image, and tints its mask.

        The frame lies outside, with a white hairline; at the window's edge it lies inside.
        """
        x1, y1, x2, y2 = window.tolist()
        if self.mask is None:
            left, up, right, down = pixel_boxes(self.box, *image.size).tolist()
            inside = np.zeros((y2 - y1, x2 - x1), dtype=np.float32)
            inside[max(up - y1, 0) : down - y1, max(left - x1, 0) : right - x1] = 1
        else:
            inside = self.mask[y1:y2, x1:x2].astype(np.float32)
        shape = cv2.resize(inside, pixels.shape[1::-1], interpolation=cv2.INTER_AREA) > 0
        color = np.multiply(to_rgb(self.color), 255)
        if self.mask is not None:
            pixels[shape] = 0.7 * pixels[shape] + 0.3 * color
        for reach, ink in ((width + 1, 255), (width, color)):
            frame = cv2.dilate(shape.astype(np.uint8), np.ones((2 * reach + 1,) * 2)) > 0
            inner = (slice(reach, -reach),) * 2
            frame[inner] &= ~shape[inner]
            pixels[frame] = ink


def badge(region: Region) -> DrawingArea:
    """A region's number on its colour."""
    return boxed(str(region.number), TEXT, PAPER, region.color, BADGE)


def whole_image(image: Image.Image, regions: Sequence[Region]) -> OffsetBox:
    """The image with its regions outlined and numbered."""
    shown = _fitted(image, IMAGE_LIMITS)
    for region in regions:
        region.outline(image, np.array([0, 0, *image.size]), shown, 4)
    cell = _centred(shown, IMAGE_LEAST)
    corner = np.subtract(cell.shape[1::-1], shown.shape[1::-1]) // 2
    scale = np.divide(shown.shape[1::-1], image.size)
    taken: list[list[int]] = []
    for region in regions:
        mark = np.asarray(rendered(badge(region)))
        place = (region.box.reshape(2, 2) * scale + corner).ravel()
        x, y = free_place(place, mark.shape[1::-1], cell.shape[1::-1], taken)
        cell[y : y + len(mark), x : x + mark.shape[1]] = mark
        taken.append([x, y, x + mark.shape[1], y + len(mark)])
    return OffsetImage(cell, interpolation="none")


def free_place(
    box: np.ndarray,
    size: tuple[int, int],
    limits: tuple[int, int],
    taken: Sequence[Sequence[int]],
) -> tuple[int, int]:
    """Where a badge goes: in the picture, on no other, above the box's left corner or near it."""
    width, height = size
    grid = np.meshgrid(
        *(np.arange(0, most - side + 1, 2) for most, side in zip(limits, size, strict=True))
    )
    x, y = (values.ravel() for values in grid)

    def covered(other: Sequence[float]) -> np.ndarray:
        wide = np.minimum(x + width, other[2]) - np.maximum(x, other[0])
        return wide.clip(0) * (np.minimum(y + height, other[3]) - np.maximum(y, other[1])).clip(0)

    cost = abs(x - box[0]) + abs(y + height - box[1]) + covered(box) / 10
    best = np.argmin(cost + 1e6 * sum(map(covered, taken)))
    return int(x[best]), int(y[best])


def views_of(image: Image.Image, region: Region, ratios: Sequence[float]) -> OffsetBox:
    """Thumbnails of a region's views, the region outlined in each, its ratio t below."""
    nested = nested_boxes(region.box[None], np.array(ratios).reshape(1, -1), *image.size)
    cells = []
    for window, ratio in zip(pixel_boxes(nested, *image.size)[0], ratios, strict=True):
        view = _fitted(image.crop(tuple(window.tolist())), (VIEW_SIDE, VIEW_SIDE))
        region.outline(image, window, view, 3)
        label = paragraph(f"t = {ratio:.2g}", VIEW_SIDE, SMALL, FAINT)
        cell = OffsetImage(_centred(view, VIEW_SIDE), interpolation="none")
        cells.append(below([cell, label], 4))
    rows = [cells[n : n + VIEWS_PER_LINE] for n in range(0, len(cells), VIEWS_PER_LINE)]
    return below([beside(row, 16) for row in rows], 14)


def _fitted(image: Image.Image, limits: tuple[int, int]) -> np.ndarray:
    """Pixels of the image, as large as the limits allow; a side has one at least."""
    scale = min(limits[0] / image.width, limits[1] / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return np.array(image.convert("RGB").resize(size, Image.Resampling.BICUBIC))


def _centred(pixels: np.ndarray, side: int) -> np.ndarray:
    """Pixels in the middle of a cell with sides of at least this length."""
    height, width, _ = pixels.shape
    cell = np.zeros((max(height, side), max(width, side), 3), dtype=np.uint8)
    cell[:] = np.multiply(to_rgb(CELL), 255)
    y, x = (len(cell) - height) // 2, (cell.shape[1] - width) // 2
    cell[y : y + height, x : x + width] = pixels
    return cell
