"""What pictures are packed of: text of any script, boxes and areas of fixed size (matplotlib).

Sizes are pixels of a picture of ``DPI``, at which a point is a pixel; pyplot is not used.
"""

import bisect
import functools
import logging
import math
import unicodedata
from collections.abc import Iterable

import numpy as np
from matplotlib import get_data_path
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager, get_font
from matplotlib.offsetbox import DrawingArea, HPacker, OffsetBox, VPacker
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image

DPI = 72
PAPER, INK, FAINT, LINE = "#ffffff", "#212529", "#7d838b", "#e2e5e9"
CAPTION, TEXT, SMALL = 28, 24, 20
BASE_FONT, NO_LETTER = "DejaVu Sans", "\u25a1"
MOST_LINES, MOST_LETTERS = 6, 2000

# It says which weight it takes of a font without the regular one.
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)


def wrapped(text: str, size: int, width: int, most: int = MOST_LINES) -> list[str]:
    """Lines of at most ``width``, the ``most``th ending in an ellipsis where more would follow.

    A word too long for a line is cut. Letters that no font has become boxes.
    """
    words, lines, line = _printable(text[:MOST_LETTERS]).split()[::-1], [], ""
    while words and len(lines) < most:
        word = words.pop()
        longer = f"{line} {word}".lstrip()
        if width_of(longer, size) <= width:
            line = longer
        elif line:
            lines, line, words = [*lines, line], "", [*words, word]
        else:
            fits = bisect.bisect(range(1, len(word)), width, key=lambda n: width_of(word[:n], size))
            lines, words = [*lines, word[: max(fits, 1)]], [*words, word[max(fits, 1) :]]
    if line and len(lines) < most:
        lines, line = [*lines, line], ""
    if line or words or text[MOST_LETTERS:].strip():
        while width_of(f"{lines[-1]} \u2026", size) > width:
            lines[-1] = lines[-1][:-1]
        lines[-1] += " \u2026"
    return lines or [""]


def width_of(text: str, size: int) -> float:
    """Width of a line of printable text."""
    return RendererAgg(1, 1, DPI).get_text_width_height_descent(text, font(text, size), False)[0]


def height_of(size: int) -> int:
    """Height of a line of text."""
    return round(1.36 * size)


def font(text: str, size: int) -> FontProperties:
    """The fonts that together have all letters of a text, DejaVu first."""
    families = dict.fromkeys([BASE_FONT, *filter(None, map(_family_with, text))])
    return FontProperties(family=list(families), size=size)


def _printable(text: str) -> str:
    """Text of letters that fonts have; signs without a shape that they lack are left out."""

    def shown(letter: str) -> str:
        if letter.isspace() or _family_with(letter):
            return letter
        return "" if unicodedata.category(letter) in ("Cc", "Cf", "Mn") else NO_LETTER

    return "".join(map(shown, text))


@functools.cache
def _family_with(letter: str) -> str | None:
    """The first font that has a letter: DejaVu, then those of the system."""
    return next((name for name, path in _fonts() if ord(letter) in _letters(path)), None)


@functools.cache
def _fonts() -> list[tuple[str, str]]:
    """Families with their files: DejaVu and the system's (matplotlib's others are for formulas)."""
    system = [entry for entry in fontManager.ttflist if not entry.fname.startswith(get_data_path())]
    names = dict.fromkeys([BASE_FONT, *sorted(entry.name for entry in system)])
    return [(name, fontManager.findfont(FontProperties(family=name))) for name in names]


@functools.cache
def _letters(path: str) -> frozenset[int]:
    return frozenset(get_font(path).get_charmap())


def area(width: int, height: int, *artists: Artist) -> DrawingArea:
    """A block of a fixed size with artists, which measure from its lower left corner."""
    block = DrawingArea(width, height)
    for artist in artists:
        block.add_artist(artist)
    return block


def line(text: str, size: int = TEXT, color: str = INK, place: tuple = (0, 0), **more) -> Text:
    """A line of printable text whose lower left corner is at ``place``."""
    base, family = place[1] + 0.31 * size, font(text, size)
    return Text(place[0], base, text, color=color, fontproperties=family, parse_math=False, **more)


def box(x: float, y: float, width: float, height: float, color: str) -> Rectangle:
    """A rectangle without a border."""
    return Rectangle((x, y), width, height, color=color, linewidth=0)


def paragraph(text: str, width: int, size: int = TEXT, color: str = INK) -> DrawingArea:
    """Text in lines, in an area of a width."""
    lines, height = wrapped(text, size, width)[::-1], height_of(size)
    shown = [line(words, size, color, (0, n * height)) for n, words in enumerate(lines)]
    return area(width, height * len(lines), *shown)


def boxed(text: str, size: int, ink: str, color: str, height: int) -> DrawingArea:
    """A line of text in the middle of a coloured box."""
    width = max(height, math.ceil(width_of(text, size)) + 20)
    place = (width / 2, (height - height_of(size)) / 2)
    return area(
        width, height, box(0, 0, width, height, color), line(text, size, ink, place, ha="center")
    )


def beside(blocks: Iterable[OffsetBox], gap: float) -> HPacker:
    """Blocks in a row, their tops aligned."""
    return HPacker(pad=0, sep=gap, align="top", children=list(blocks))


def below(blocks: Iterable[OffsetBox], gap: float) -> VPacker:
    """Blocks in a column, their left edges aligned."""
    return VPacker(pad=0, sep=gap, align="left", children=list(blocks))


def size_of(block: OffsetBox) -> tuple[int, int]:
    """Width and height of a block."""
    extent = block.get_bbox(RendererAgg(1, 1, DPI))
    return round(extent.width), round(extent.height)


def rendered(block: OffsetBox, margin: int = 0) -> Image.Image:
    """A block as an RGB image."""
    extent = block.get_bbox(RendererAgg(1, 1, DPI))
    block.set_offset((margin - extent.x0, margin - extent.y0))
    # A hair more than the size in pixels, so that its division by DPI is not rounded down.
    sides = [(side + 2 * margin + 0.01) / DPI for side in size_of(block)]
    figure = Figure(sides, DPI, facecolor=PAPER)
    figure.add_artist(block)
    return pixels_of(figure)


def pixels_of(figure: Figure) -> Image.Image:
    """A figure as an RGB image."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
