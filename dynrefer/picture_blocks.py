"""What pictures are composed of: lines and paragraphs of text, and images beside and below others.

Every block is an RGB image of its own size on white. Lengths are pixels of the picture.
"""

import functools
import unicodedata
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]

PAPER, INK, FAINT, LINE = (255, 255, 255), (33, 37, 41), (125, 131, 139), (226, 229, 233)
MOST_LINES = 6


def paragraph(text: str, size: int, color: Color, width: int, paper: Color = PAPER) -> Image.Image:
    """Text in lines of at most ``width``; after ``MOST_LINES`` the rest is left out ("...")."""
    lines = wrapped(text, size, width)
    if len(lines) > MOST_LINES:
        lines[MOST_LINES - 1 :] = [wrapped(lines[MOST_LINES - 1], size, width - size)[0] + " ..."]
    return below([line(words, size, color, paper) for words in lines], 0)


def wrapped(text: str, size: int, width: int) -> list[str]:
    """Lines of at most ``width``; a word too long for a line is cut into pieces."""
    font, lines = _font(size), [""]
    for word in _printable(text).split():
        while font.getlength(word) > width:
            cut = next(n for n in range(len(word), 0, -1) if font.getlength(word[:n]) <= width)
            lines, word = [*lines, word[:cut]], word[cut:]
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return [words for words in lines if words] or [""]


def line(text: str, size: int, color: Color, paper: Color = PAPER) -> Image.Image:
    """One line of text, as wide as it is."""
    font, text = _font(size), _printable(text)
    block = Image.new("RGB", (max(1, round(font.getlength(text))), round(size * 1.36)), paper)
    ImageDraw.Draw(block).text((0, size * 1.05), text, font=font, fill=color, anchor="ls")
    return block


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=size)


def _printable(text: str) -> str:
    """Text in ASCII: PIL's own font has no other letters (accents go, the rest becomes "?")."""
    plain = unicodedata.normalize("NFKD", text)
    letters = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return letters.encode("ascii", "replace").decode()


def fitted(image: Image.Image, limits: tuple[int, int]) -> Image.Image:
    """The image, scaled to be as large as the limits allow; a side has a pixel at least."""
    scale = min(limits[0] / image.width, limits[1] / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGB").resize(size, Image.Resampling.BICUBIC)


def beside(blocks: Sequence[Image.Image], gap: int) -> Image.Image:
    """Blocks in a row, their tops aligned."""
    width = sum(block.width for block in blocks) + gap * (len(blocks) - 1)
    joined = Image.new("RGB", (max(width, 1), max(b.height for b in blocks)), PAPER)
    x = 0
    for block in blocks:
        joined.paste(block, (x, 0))
        x += block.width + gap
    return joined


def below(blocks: Sequence[Image.Image], gap: int, rule: bool = False) -> Image.Image:
    """Blocks in a column; ``rule`` draws a line in the middle of every gap."""
    if not blocks:
        return Image.new("RGB", (1, 1), PAPER)
    height = sum(block.height for block in blocks) + gap * (len(blocks) - 1)
    joined = Image.new("RGB", (max(b.width for b in blocks), height), PAPER)
    y = 0
    for block in blocks:
        if rule and y:
            joined.paste(LINE, (0, y - gap // 2 - 1, joined.width, y - gap // 2 + 1))
        joined.paste(block, (0, y))
        y += block.height + gap
    return joined
