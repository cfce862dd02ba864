"""Drawing of the figures of the shapes world: outlines and fine textures, all anti-aliased.

A texture swings evenly about its colour (equal mean), so that it is plain to see close up and
all but gone, without a trace in the mean colour, once the whole image is shrunk. Its period grows
with the figure (4 px in small ones, 10 px in large ones): a close view does not tell the size.
"""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

SUPERSAMPLING = 3
BORDER = 1.3  # px, the dark rim of a figure
TEXTURE_SWING = 46.0  # grey levels a texture goes up and down from its colour
TEXTURE_EXTENT = 52.0  # px: in a figure of this extent texture coordinates are pixels
RING_HOLE = 0.55  # hole of a ring, share of its diameter

COLOUR_RGB = {
    "red": (192, 56, 52),
    "blue": (56, 94, 192),
    "green": (62, 150, 76),
    "yellow": (214, 190, 62),
    "orange": (208, 122, 46),
    "purple": (122, 72, 172),
    "pink": (208, 118, 168),
    "cyan": (60, 172, 182),
}


def _spokes(radii: list[float]) -> np.ndarray:
    """A closed outline through points at equal angles, the first one on top."""
    angle = np.arange(len(radii)) * 2 * np.pi / len(radii) - np.pi / 2
    return np.array(radii)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _cross(arm: float) -> np.ndarray:
    quarter = np.array([[-arm, -1], [arm, -1], [arm, -arm]])
    turn = np.array([[0, 1], [-1, 0]])
    return np.concatenate([quarter @ np.linalg.matrix_power(turn, k) for k in range(4)])


_T = np.linspace(0, 2 * np.pi, 48, endpoint=False)
_CIRCLE = np.stack([np.cos(_T), np.sin(_T)], axis=1)
_HEART_Y = 13 * np.cos(_T) - 5 * np.cos(2 * _T) - 2 * np.cos(3 * _T) - np.cos(4 * _T)

# name -> closed loops [P, 2], any scale, y down; a second loop is a hole
UNIT_LOOPS = {
    "circle": [_CIRCLE],
    "square": [np.array([[-1.0, -1.0], [1, -1], [1, 1], [-1, 1]])],
    "triangle": [_spokes([1.0, 1.0, 1.0])],
    "star": [_spokes([1.0, 0.46] * 5)],
    "ring": [_CIRCLE, RING_HOLE * _CIRCLE],
    "cross": [_cross(0.36)],
    "heart": [np.stack([16 * np.sin(_T) ** 3, -_HEART_Y], axis=1)],
    "diamond": [np.array([[0.0, -1.0], [0.7, 0], [0, 1], [-0.7, 0]])],
}


@dataclass(frozen=True)
class Figure:
    """One drawn figure: what it is and where.

    ``center`` (x, y) is the middle of the figure's box and ``extent`` the longest side of that
    box, both in pixels; ``tilt`` and ``texture_angle`` are radians; ``rgb`` is the mean colour.
    """

    name: str
    colour: str
    texture: str
    size: str
    center: tuple[float, float]
    extent: float
    tilt: float
    texture_angle: float
    rgb: tuple[float, float, float]

    @cached_property
    def loops(self) -> list[np.ndarray]:
        """Closed outlines float64 [P, 2] in pixels; of a ring the second one is the hole."""
        cos, sin = np.cos(self.tilt), np.sin(self.tilt)
        turned = [loop @ np.array([[cos, sin], [-sin, cos]]) for loop in UNIT_LOOPS[self.name]]
        low, high = turned[0].min(axis=0), turned[0].max(axis=0)
        scale = self.extent / (high - low).max()
        return [(loop - (low + high) / 2) * scale + np.array(self.center) for loop in turned]

    @cached_property
    def box(self) -> np.ndarray:
        """Box of the whole outline, hidden parts included: float64 [4], xyxy in pixels."""
        return np.concatenate([self.loops[0].min(axis=0), self.loops[0].max(axis=0)])


def window_of(figure: Figure, width: int, height: int) -> tuple[int, int, int, int]:
    """The pixel rectangle (x1, y1, x2, y2) inside the image that a figure is drawn in."""
    x1, y1 = np.floor(figure.box[:2]).astype(int) - 1
    x2, y2 = np.ceil(figure.box[2:]).astype(int) + 1
    return max(int(x1), 0), max(int(y1), 0), min(int(x2), width), min(int(y2), height)


def silhouette(figure: Figure, window: tuple[int, int, int, int]) -> np.ndarray:
    """Mask of a figure in a pixel window (xyxy), thrice as fine: uint8 [3 h, 3 w] of 0 and 1."""
    x1, y1, x2, y2 = window
    mask = np.zeros(((y2 - y1) * SUPERSAMPLING, (x2 - x1) * SUPERSAMPLING), np.uint8)
    fraction_bits = 4  # OpenCV takes sub-pixel corners as integers
    loops = [
        np.round(((loop - (x1, y1)) * SUPERSAMPLING - 0.5) * 2**fraction_bits).astype(np.int32)
        for loop in figure.loops
    ]
    cv2.fillPoly(mask, loops, 1, shift=fraction_bits)
    return mask


def visible_part(
    figures: list[Figure], index: int, width: int, height: int
) -> tuple[np.ndarray, list[float], float]:
    """Box, outline and area of what later figures leave of a figure, which is one piece.

    The outline is a COCO polygon (x, y, ...); the box (float64 [4], xyxy) is tight around it.
    """
    window = window_of(figures[index], width, height)
    mask = silhouette(figures[index], window)
    for later in figures[index + 1 :]:
        mask &= 1 - silhouette(later, window)
    (outline,), _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    corners = cv2.approxPolyDP(outline, 0.7, True)[:, 0].astype(np.float64)
    # OpenCV names pixels: widen by one, so that the polygon reaches their outer edges
    low, high = outline.min(axis=(0, 1)), outline.max(axis=(0, 1))
    corners += (corners - low) / (high - low)
    points = (corners / SUPERSAMPLING + window[:2]).round(2)
    box = np.concatenate([points.min(axis=0), points.max(axis=0)])
    return box, points.ravel().tolist(), float(mask.sum() / SUPERSAMPLING**2)


def texture_wave(texture: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The swing of a texture about its mean, for texture coordinates u, v.

    Values have mean 0 over a period and differ by 2 between the light and the dark part.
    """
    if texture == "plain":
        return np.zeros_like(u)
    if texture == "striped":
        return np.where(u % 5.0 < 2.5, 1.0, -1.0)
    if texture == "checkered":
        return np.where((np.floor(u / 3.0) + np.floor(v / 3.0)) % 2 == 0, 1.0, -1.0)
    if texture == "dotted":
        period, radius = 5.5, 1.75
        share = np.pi * radius**2 / period**2
        inside = (u % period - period / 2) ** 2 + (v % period - period / 2) ** 2 < radius**2
        return np.where(inside, 2 - 2 * share, -2 * share)
    raise ValueError(f"texture '{texture}' is not one of plain, striped, dotted, checkered")


def paint(canvas: np.ndarray, figure: Figure) -> None:
    """Draws a figure over ``canvas`` (float32 [H, W, 3], grey levels 0 to 255) in place."""
    height, width = canvas.shape[:2]
    x1, y1, x2, y2 = window = window_of(figure, width, height)
    mask = silhouette(figure, window)
    reach = 2 * round(BORDER * SUPERSAMPLING) + 1
    core = cv2.erode(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach)))
    ys = (np.arange(mask.shape[0], dtype=np.float32) + 0.5) / SUPERSAMPLING + y1
    xs = (np.arange(mask.shape[1], dtype=np.float32) + 0.5) / SUPERSAMPLING + x1
    dx, dy = xs[None] - figure.center[0], ys[:, None] - figure.center[1]
    scale = TEXTURE_EXTENT / figure.extent
    cos, sin = scale * np.cos(figure.texture_angle), scale * np.sin(figure.texture_angle)
    wave = texture_wave(figure.texture, cos * dx + sin * dy, cos * dy - sin * dx)
    # one grey wave and two coverages are shrunk instead of three colour planes
    rgb = np.array(figure.rgb, np.float32)
    alpha, fill, swing = (
        cv2.resize(fine.astype(np.float32), (x2 - x1, y2 - y1), interpolation=cv2.INTER_AREA)
        for fine in (mask, core, wave * core)
    )
    alpha, fill, swing = alpha[..., None], fill[..., None], swing[..., None]
    colour = fill * rgb + TEXTURE_SWING * swing + (alpha - fill) * 0.45 * rgb
    patch = canvas[y1:y2, x1:x2]
    patch[:] = patch * (1 - alpha) + np.clip(colour, 0, 255 * alpha)


def draw(figures: list[Figure], canvas: np.ndarray) -> np.ndarray:
    """Paints figures in their order (later ones in front) on a background: uint8 [H, W, 3]."""
    for figure in figures:
        paint(canvas, figure)
    return np.clip(np.round(canvas), 0, 255).astype(np.uint8)
