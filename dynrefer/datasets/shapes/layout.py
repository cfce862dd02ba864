"""Where the figures of a shapes image stand, and how each relates to the nearest other one."""

from dataclasses import replace

import cv2
import numpy as np

from dynrefer.datasets.shapes.grounds import Grounds
from dynrefer.datasets.shapes.rendering import (
    COLOUR_RGB,
    SUPERSAMPLING,
    Figure,
    silhouette,
    window_of,
)
from dynrefer.datasets.shapes.words import COLOURS, FIGURES, SIZES, TEXTURES

MAX_FIGURES = 6
COUNT_SHARES = (0.06, 0.14, 0.20, 0.22, 0.20, 0.18)
EXTENTS = {"small": (36.0, 42.0), "medium": (54.0, 64.0), "large": (84.0, 98.0)}
IMAGE_MARGIN = 8.0  # px between a figure and the edge of the image
FIGURE_GAP = 10.0  # px between the boxes of figures that do not overlap on purpose
HIDDEN_SHARES = (0.08, 0.28)  # how much of a figure the one in front may hide
CANDIDATES, LAYOUTS = 40, 5

# px: the nearest figure is nearer than the next by this much, which shows in a view of the whole
# image at 64 px too; a figure that overlaps another one needs less
NEAREST_MARGIN, OVERLAP_MARGIN = 12.0, 4.0
PLACE_BORDERS = (0.35, 0.65)  # shares of the image's width and height
PLACE_MARGIN = 0.02  # nearer to a border than this it is unclear which place is meant
ALIGNED, DIAGONAL = 0.5, 0.25  # shares of the shorter side that two boxes have in common


def relate(boxes: np.ndarray) -> list[tuple[str, int] | None]:
    """The relation of every figure to the figure nearest to it, or None where it is unclear.

    ``boxes`` is float [N, 4], xyxy in pixels, in drawing order (later ones in front). Nearest
    means the smallest gap between the boxes, clearly smaller than the next. Boxes that overlap are
    "inside" / "around" (one holds the other) or "front" / "behind". Boxes apart are "left",
    "right", "above" or "below" where they share at least half of the shorter side across, "near"
    where they share less than a quarter on both axes, otherwise unclear.
    """
    relations: list[tuple[str, int] | None] = []
    for i, box in enumerate(boxes):
        # per axis: positive = distance apart, negative = length in common
        apart = np.maximum(boxes[:, :2] - box[2:], box[:2] - boxes[:, 2:])
        gaps = np.linalg.norm(np.maximum(apart, 0), axis=1)
        gaps[i] = np.inf
        first, second = np.sort(np.append(gaps, np.inf))[:2]
        margin = NEAREST_MARGIN if first > 0 else OVERLAP_MARGIN
        if np.isinf(first) or second - first < margin:
            relations.append(None)
            continue
        j = int(np.argmin(gaps))
        name = _relation_of_pair(box, boxes[j], apart[j], in_front=i > j)
        relations.append(None if name is None else (name, j))
    return relations


def _relation_of_pair(
    box: np.ndarray, other: np.ndarray, apart: np.ndarray, in_front: bool
) -> str | None:
    if (apart <= 0).all():
        if (box[:2] >= other[:2]).all() and (box[2:] <= other[2:]).all():
            return "inside"
        if (box[:2] <= other[:2]).all() and (box[2:] >= other[2:]).all():
            return "around"
        return "front" if in_front else "behind"
    common_x, common_y = -apart / np.minimum(box[2:] - box[:2], other[2:] - other[:2])
    if apart[0] > 0 and common_y >= ALIGNED:
        return "left" if box[0] < other[0] else "right"
    if apart[1] > 0 and common_x >= ALIGNED:
        return "above" if box[1] < other[1] else "below"
    return "near" if max(common_x, common_y) < DIAGONAL else None


def place_in_image(box: np.ndarray, width: int, height: int) -> str | None:
    """Where the middle of a box (xyxy, pixels) is, as one of nine places; None at their borders."""
    names = []
    for low, high, side, words in (
        (box[0], box[2], width, ("left", "", "right")),
        (box[1], box[3], height, ("top", "", "bottom")),
    ):
        position = (low + high) / 2 / side
        if min(abs(position - border) for border in PLACE_BORDERS) < PLACE_MARGIN:
            return None
        names.append(words[int(np.searchsorted(PLACE_BORDERS, position))])
    across, down = names
    return f"{down} {across}".strip() or "middle"


def sample_layout(rng: np.random.Generator, grounds: Grounds) -> list[Figure]:
    """1 to 6 figures in drawing order, most of them in a clear relation to a neighbour."""
    count = int(rng.choice(MAX_FIGURES, p=COUNT_SHARES)) + 1
    best, best_score = [], -1
    for _ in range(LAYOUTS):
        figures = _place_figures(rng, count, grounds)
        related = sum(r is not None for r in relate(np.array([f.box for f in figures])))
        if related > best_score:
            best, best_score = figures, related
        if best_score == len(best):
            break
    return best


def _place_figures(rng: np.random.Generator, count: int, grounds: Grounds) -> list[Figure]:
    figures: list[Figure] = []
    paired: set[int] = set()  # figures that already overlap another one
    image_size = np.array(grounds.zones.shape[::-1])
    for _ in range(count * CANDIDATES):
        if len(figures) == count:
            break
        figure, partner = _candidate(rng, figures, paired, image_size)
        if grounds.under(figure.box) and _fits(figure, figures, partner, image_size):
            if partner is not None:
                paired |= {partner, len(figures)}
            figures.append(figure)
    return figures


def _sample_figure(rng: np.random.Generator) -> Figure:
    """A figure with all its looks, at the origin."""
    colour = str(rng.choice(list(COLOURS), p=list(COLOURS.values())))
    size = str(rng.choice(list(SIZES), p=list(SIZES.values())))
    texture = str(rng.choice(list(TEXTURES), p=list(TEXTURES.values())))
    tilt = float(rng.uniform(-0.17, 0.17))
    # stripes run in any direction; dots and squares keep to the figure's own axes
    turn = float(rng.uniform(0, np.pi)) if texture == "striped" else 0.0
    name, extent = str(rng.choice(FIGURES)), float(rng.uniform(*EXTENTS[size]))
    rgb = tuple(float(c) for c in COLOUR_RGB[colour] + rng.uniform(-7, 7, 3))
    return Figure(name, colour, texture, size, (0.0, 0.0), extent, tilt, tilt + turn, rgb)


def _candidate(
    rng: np.random.Generator, figures: list[Figure], paired: set[int], image_size: np.ndarray
) -> tuple[Figure, int | None]:
    """A figure at a random place and, where it is to overlap another one, that one's index."""
    figure, partner = _sample_figure(rng), None
    free = [i for i in range(len(figures)) if i not in paired]
    hosts = [i for i in free if figures[i].size == "large" and _room(figures[i]) is not None]
    chance = rng.random()
    if hosts and figure.size == "small" and chance < 0.22:
        partner = int(rng.choice(hosts))
        center = np.array(figures[partner].center) + rng.uniform(-8, 8, 2)
    elif free and chance < 0.06:
        partner = int(rng.choice(free))
        reach = (figures[partner].extent + figure.extent) / 2 * rng.uniform(0.55, 0.85)
        angle = rng.uniform(0, 2 * np.pi)
        offset = reach * np.array([np.cos(angle), np.sin(angle)])
        center = np.array(figures[partner].center) + offset
    elif figures and chance < 0.85:
        center = _beside(rng, figure, figures[int(rng.integers(len(figures)))])
    else:
        center = rng.uniform(0, image_size)
    return replace(figure, center=(float(center[0]), float(center[1]))), partner


def _beside(rng: np.random.Generator, figure: Figure, anchor: Figure) -> np.ndarray:
    """A center straight beside, above or below another figure."""
    axis, side = int(rng.integers(2)), int(rng.choice([-1, 1]))
    half, anchor_half = ((f.box[2:] - f.box[:2]) / 2 for f in (figure, anchor))
    center = np.array(anchor.center)
    center[axis] += side * (half[axis] + anchor_half[axis] + rng.uniform(12, 28))
    center[1 - axis] += rng.uniform(-0.3, 0.3) * min(half[1 - axis], anchor_half[1 - axis])
    return center


def _fits(
    figure: Figure, figures: list[Figure], partner: int | None, image_size: np.ndarray
) -> bool:
    low, high = figure.box[:2], figure.box[2:]
    if low.min() < IMAGE_MARGIN or (high > image_size - IMAGE_MARGIN).any():
        return False
    for i, other in enumerate(figures):
        apart = np.maximum(other.box[:2] - high, low - other.box[2:])
        if i != partner and apart.max() < FIGURE_GAP:
            return False
    if partner is None:
        return True
    back = figures[partner]
    return figure.colour != back.colour and (
        _is_inside(figure, back) or _covers_a_part(figure, back, image_size)
    )


def _room(host: Figure) -> np.ndarray | None:
    """The convex outline that another figure can stand in, of the figures that have one."""
    loop = {"circle": 0, "square": 0, "diamond": 0, "ring": 1}.get(host.name)
    return None if loop is None else host.loops[loop]


def _is_inside(guest: Figure, host: Figure) -> bool:
    """Whether every corner of the guest keeps 2.5 px from the edges of the host's room."""
    room = _room(host)
    if room is None:
        return False
    edge = np.roll(room, -1, axis=0) - room
    # every outline goes round in the same direction
    inward = np.stack([-edge[:, 1], edge[:, 0]], axis=1) / np.linalg.norm(edge, axis=1)[:, None]
    distance = ((guest.loops[0][:, None] - room) * inward).sum(axis=2)
    return bool(distance.min() >= 2.5)


def _covers_a_part(front: Figure, back: Figure, image_size: np.ndarray) -> bool:
    """Whether a moderate part of ``back`` is hidden, the rest one piece, and both stick out."""
    window = window_of(back, *image_size)
    whole = silhouette(back, window)
    seen = whole & ~silhouette(front, window)
    hidden_share = 1 - seen.sum() / whole.sum()
    if not HIDDEN_SHARES[0] <= hidden_share <= HIDDEN_SHARES[1]:
        return False
    if cv2.connectedComponents(seen, connectivity=4)[0] != 2:  # the background counts as one
        return False
    x, y, box_width, box_height = cv2.boundingRect(seen)
    low = np.array([x, y]) / SUPERSAMPLING + window[:2]
    high = low + np.array([box_width, box_height]) / SUPERSAMPLING
    overlap = np.minimum(high, front.box[2:]) - np.maximum(low, front.box[:2])
    back_out = np.maximum(front.box[:2] - low, high - front.box[2:]).max()
    front_out = np.maximum(low - front.box[:2], front.box[2:] - high).max()
    return bool(overlap.min() >= 3 and min(back_out, front_out) >= 6)
