"""A line chart as a picture: curves over dots, a level across, ticks at round numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from dynrefer.picture_blocks import FAINT, INK, LINE, PAPER, Color, below, beside, line

SIZE = (720, 440)  # of the plotting area, in pixels of the picture
TITLE, TEXT, SMALL = 28, 22, 20
LEFT, BOTTOM, GAP = 84, 36, 12
FADED = 0.6  # how far the colour of dots is mixed with white


@dataclass(frozen=True)
class Curve:
    """A line with its name and colour; ``dots`` are further points of it, drawn faintly."""

    label: str
    color: Color
    points: Sequence[tuple[float, float]]
    dots: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True)
class Level:
    """A horizontal dashed line."""

    label: str
    value: float


def line_chart(
    title: str, x_label: str, curves: Sequence[Curve], level: Level | None = None
) -> Image.Image:
    """A chart of all curves on common axes, which end at the least and greatest values shown.

    Raises:
        ValueError: there is no point, or one that is not finite.
    """
    shown = [point for curve in curves for point in (*curve.points, *curve.dots)]
    xs, ys = [x for x, _ in shown], [y for _, y in shown] + ([level.value] if level else [])
    if not shown or not all(map(math.isfinite, xs + ys)):
        raise ValueError(f"chart '{title}': needs points that are finite, has {shown[:3]}")
    area = _Area(_ticks(min(xs), max(xs)), _ticks(min(ys), max(ys)))
    draw = ImageDraw.Draw(area.picture)
    if level:
        height = area.place(0, level.value)[1]
        for x in range(LEFT, LEFT + SIZE[0], 18):
            draw.line((x, height, min(x + 9, LEFT + SIZE[0]), height), fill=FAINT, width=3)
    for curve in curves:
        faded = tuple(round(part + (255 - part) * FADED) for part in curve.color)
        for point in curve.dots:
            _dot(draw, area.place(*point), 4, faded)
    for curve in curves:
        places = [area.place(*point) for point in sorted(curve.points)]
        draw.line(places, fill=curve.color, width=4, joint="curve")
        for place in places:
            _dot(draw, place, 6, curve.color)
    legend = [_key(curve.label, curve.color) for curve in curves]
    legend += [_key(f"{level.label}: {level.value:.4g}", FAINT)] if level else []
    names = [beside([_blank(LEFT, 1), name], 0) for name in (line(title, TITLE, INK), *legend)]
    x_name = beside([_blank(LEFT, 1), line(x_label, TEXT, INK)], 0)
    return below([_blank(1, GAP), *names, area.picture, x_name, _blank(1, GAP)], GAP // 2)


class _Area:
    """The plotting area with its axes' ticks; ``place`` turns values into pixels."""

    def __init__(self, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> None:
        self.x_range, self.y_range = (x_ticks[0], x_ticks[-1]), (y_ticks[0], y_ticks[-1])
        self.picture = _blank(LEFT + SIZE[0] + 24, SIZE[1] + BOTTOM + 2 * GAP)
        draw = ImageDraw.Draw(self.picture)
        for value in y_ticks:
            height = self.place(self.x_range[0], value)[1]
            draw.line((LEFT, height, LEFT + SIZE[0], height), fill=LINE, width=2)
            name = line(f"{value:.4g}", SMALL, FAINT)
            self.picture.paste(name, (LEFT - name.width - 10, height - name.height // 2))
        for value in x_ticks:
            x = self.place(value, self.y_range[0])[0]
            name = line(f"{value:.4g}", SMALL, FAINT)
            self.picture.paste(name, (x - name.width // 2, GAP + SIZE[1] + 10))

    def place(self, x: float, y: float) -> tuple[int, int]:
        """Pixel of a point."""
        right = (x - self.x_range[0]) / (self.x_range[1] - self.x_range[0])
        up = (y - self.y_range[0]) / (self.y_range[1] - self.y_range[0])
        return LEFT + round(SIZE[0] * right), GAP + round(SIZE[1] * (1 - up))


def _ticks(least: float, greatest: float) -> list[float]:
    """About five round numbers, the first at most ``least``, the last at least ``greatest``."""
    span = (greatest - least) or abs(least) or 1.0
    power = 10.0 ** math.floor(math.log10(span / 5))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor * 5 >= span)
    first, last = math.floor(least / step + 1e-9), math.ceil(greatest / step - 1e-9)
    return [step * number for number in range(first, max(last, first + 1) + 1)]


def _key(label: str, color: Color) -> Image.Image:
    return beside([Image.new("RGB", (28, 24), color), line(label, TEXT, INK)], GAP)


def _dot(draw: ImageDraw.ImageDraw, place: tuple[int, int], radius: int, color: Color) -> None:
    x, y = place
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)


def _blank(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), PAPER)
