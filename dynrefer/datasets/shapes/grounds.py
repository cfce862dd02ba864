"""What the figures of a shapes image lie on: one to three grounds, and a paper under each figure.

A figure lies on a piece of paper that is a little larger than its box. So the ground cannot be seen
in a view of the box alone, only in a wider one.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from dynrefer.datasets.shapes.words import GROUNDS

COUNT_SHARES = (0.3, 0.5, 0.2)  # of images with one, two, three grounds
GROUND_RGB = {
    "grass": (124, 156, 104),
    "sand": (214, 196, 152),
    "water": (134, 170, 198),
    "bricks": (170, 116, 100),
    "wood": (120, 94, 70),
}
PAPER_MARGIN = 6.0  # px between a figure's box and the edge of its paper


@dataclass(frozen=True)
class Grounds:
    """The grounds of an image: ``names[zones[y, x]]`` at a pixel; ``zones`` is uint8 [H, W]."""

    names: tuple[str, ...]
    zones: np.ndarray

    def under(self, box: np.ndarray) -> str | None:
        """The one ground on which the whole paper of a box (xyxy, pixels) lies, or None."""
        x1, y1, x2, y2 = _paper_of(box, *self.zones.shape)
        if x1 >= x2 or y1 >= y2:
            return None
        # Zones are convex, so four corners of one zone are a box in it.
        corners = self.zones[[y1, y1, y2 - 1, y2 - 1], [x1, x2 - 1, x1, x2 - 1]]
        return self.names[corners[0]] if (corners == corners[0]).all() else None


def _paper_of(box: np.ndarray, height: int, width: int) -> tuple[int, int, int, int]:
    """The pixels (x1, y1, x2, y2, end exclusive) of the paper of a box, cut off at the image."""
    x1, y1 = np.maximum(np.floor(box[:2] - PAPER_MARGIN), 0).astype(int)
    x2, y2 = np.minimum(np.ceil(box[2:] + PAPER_MARGIN), (width, height)).astype(int)
    return x1, y1, x2, y2


def sample_grounds(rng: np.random.Generator, width: int, height: int) -> Grounds:
    """Bands across the image, in any direction but mostly upright or level."""
    count = int(rng.choice(len(COUNT_SHARES), p=COUNT_SHARES)) + 1
    names = rng.choice(list(GROUNDS), size=count, replace=False)
    angle = int(rng.integers(4)) * np.pi / 2 + rng.normal(0, 0.2)
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    along = np.cos(angle) * (xs - width / 2) + np.sin(angle) * (ys - height / 2)
    reach = (abs(np.cos(angle)) * width + abs(np.sin(angle)) * height) / 2
    cuts = np.arange(1, count) / count + rng.uniform(-0.08, 0.08, count - 1)
    zones = np.digitize(along, (2 * cuts - 1) * reach)
    return Grounds(tuple(map(str, names)), zones.astype(np.uint8))


def paint_grounds(rng: np.random.Generator, grounds: Grounds) -> np.ndarray:
    """The grounds without anything on them: float32 [H, W, 3], grey levels 0 to 255."""
    height, width = grounds.zones.shape
    tones = np.array([GROUND_RGB[name] for name in grounds.names], np.float32)
    tones += rng.uniform(-8, 8, tones.shape).astype(np.float32)
    shade = np.zeros((height, width), np.float32)
    for index, name in enumerate(grounds.names):
        np.copyto(shade, _pattern(rng, name, height, width), where=grounds.zones == index)
    return tones[grounds.zones] + shade[..., None]


def _pattern(rng: np.random.Generator, name: str, height: int, width: int) -> np.ndarray:
    """The light and dark of a ground, float32 [height, width]."""
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    if name == "water":
        return 14 * np.sin(ys / 3 + 2 * np.sin(xs / np.float32(rng.uniform(9, 14))))
    if name == "bricks":
        row, shift = ys // 12, 13 * (ys // 12 % 2)
        mortar = (ys % 12 < 2) | ((xs + shift) % 26 < 2)
        return np.where(mortar, np.float32(30), np.float32(-4)) + row % 3
    grain = rng.standard_normal((height, width), np.float32)
    if name == "sand":
        return 9 * grain
    if name == "grass":
        return 22 * cv2.blur(grain, (1, 5))
    return 26 * cv2.blur(grain, (25, 1)) - np.float32(24) * (ys % 22 < 2)  # planks of wood


def lay_papers(
    rng: np.random.Generator, canvas: np.ndarray, boxes: Iterable[np.ndarray]
) -> np.ndarray:
    """Lays the paper of each box (xyxy, pixels) on ``canvas``, in place; all are of one tone."""
    pale = rng.random() < 0.7
    tone = rng.uniform(216, 244, 3) if pale else rng.uniform(28, 56, 3)
    for box in boxes:
        x1, y1, x2, y2 = _paper_of(box, *canvas.shape[:2])
        canvas[y1:y2, x1:x2] = tone
    return canvas
