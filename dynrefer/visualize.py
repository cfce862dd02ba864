"""Pictures of results: the image with its regions, and for each region its views and words.

Lengths are pixels of the picture, which is made for about two pixels a point.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw

from dynrefer.files import whole_file
from dynrefer.models.dynrefer import RegionPrediction
from dynrefer.picture_blocks import (
    FAINT,
    INK,
    LINE,
    MOST_LINES,
    PAPER,
    Color,
    below,
    beside,
    fitted,
    line,
    paragraph,
)
from dynrefer.processors.region_image import check_boxes
from dynrefer.views import nested_boxes, pixel_boxes

CELL, BAR = (246, 247, 249), (116, 143, 252)
TRUE: Color = (24, 121, 78)
COLORS: tuple[Color, ...] = (
    (224, 49, 49),
    (25, 113, 194),
    (47, 158, 68),
    (232, 89, 12),
    (132, 62, 206),
    (12, 133, 153),
    (214, 51, 132),
    (134, 90, 50),
)
MARGIN, GAP = 40, 32
IMAGE_SIZE, VIEW_SIZE, VIEWS_PER_LINE = (720, 960), (176, 176), 4
LABEL_WIDTH, VALUE_WIDTH, SCORE_WIDTH, BAR_SIZE = 136, 520, 64, (150, 14)
CAPTION, TEXT, SMALL = 28, 24, 20
FORMATS = (".png", ".jpg", ".jpeg", ".webp")


def draw_regions(
    image: Image.Image,
    predictions: Sequence[RegionPrediction],
    boxes: ArrayLike,
    attribute_names: Sequence[str] = (),
    references: Sequence[str] | None = None,
    top: int = 5,
) -> Image.Image:
    """The image with numbered regions at the left, a row for each region at the right.

    A row holds the region's views with their ratios, and what was predicted: caption, class, tags
    and the best attributes; fields that are None are left out.

    Args:
        image: the whole image, RGB, of any size.
        predictions: N regions; their ``ratios`` say which views were looked at.
        boxes: [N, 4] xyxy in pixels of the image.
        attribute_names: names in the order of ``RegionPrediction.attributes``.
        references: true captions, shown below the predicted ones.
        top: how many attributes are shown.

    Raises:
        ValueError: a box outside the image, or lists of different length.
    """
    boxes = check_boxes(boxes, *image.size)
    true_captions = [None] * len(boxes) if references is None else references
    if not len(boxes) == len(predictions) == len(true_captions):
        raise ValueError(
            f"{len(predictions)} predictions, {len(boxes)} boxes and {len(true_captions)} "
            "references; a region has one of each"
        )
    rows = []
    for number, (prediction, box) in enumerate(zip(predictions, boxes, strict=True)):
        views = draw_views(image, box, prediction.ratios, _color(number))
        words = _words(prediction, true_captions[number], attribute_names, top)
        rows.append(beside([beside([_badge(number), views], GAP // 2), words], GAP))
    parts = [draw_boxes(image, boxes), below(rows, GAP, rule=True)]
    picture = beside(parts if rows else parts[:1], GAP)
    framed = Image.new("RGB", (picture.width + 2 * MARGIN, picture.height + 2 * MARGIN), PAPER)
    framed.paste(picture, (MARGIN, MARGIN))
    return framed


def draw_boxes(image: Image.Image, boxes: ArrayLike) -> Image.Image:
    """The image, scaled for display, with the boxes ([N, 4] xyxy pixels) coloured and numbered."""
    scaled = fitted(image, IMAGE_SIZE)
    # A strip of an image would have no room for a number.
    shown = Image.new("RGB", (max(scaled.width, 96), max(scaled.height, 96)), CELL)
    corner = ((shown.width - scaled.width) // 2, (shown.height - scaled.height) // 2)
    shown.paste(scaled, corner)
    scale = np.tile(np.divide(scaled.size, image.size), 2)
    places = np.asarray(boxes).reshape(-1, 4) * scale + np.tile(corner, 2)
    for number, place in enumerate(places):
        _outline(shown, place, _color(number), 4)
    taken: list[tuple[int, int]] = []
    for number, place in enumerate(places):
        badge = _badge(number)
        taken.append(_free_place(place, badge.size, shown.size, taken))
        shown.paste(badge, taken[-1])
    return shown


def draw_views(
    image: Image.Image, box: np.ndarray, ratios: Sequence[float], color: Color
) -> Image.Image:
    """Thumbnails of a region's views, the region outlined in each, its ratio t below."""
    nested = nested_boxes(box[None], np.array(ratios).reshape(1, -1), *image.size)
    windows = pixel_boxes(nested, *image.size)[0]
    cells = []
    for window, ratio in zip(windows, ratios, strict=True):
        crop = image.crop(tuple(window.tolist()))
        view = fitted(crop, VIEW_SIZE)
        scale = np.tile(np.divide(view.size, crop.size), 2)
        _outline(view, (windows[0] - np.tile(window[:2], 2)) * scale, color, 3)
        cell = Image.new("RGB", VIEW_SIZE, CELL)
        cell.paste(view, ((cell.width - view.width) // 2, (cell.height - view.height) // 2))
        cells.append(below([cell, line(f"t = {ratio:.2g}", SMALL, FAINT)], 4))
    starts = range(0, len(cells), VIEWS_PER_LINE)
    return below([beside(cells[start : start + VIEWS_PER_LINE], 14) for start in starts], 14)


def attribute_label(name: str) -> str:
    """What is shown of an attribute: "color:red/crimson" becomes "color: red"."""
    kind, _, synonyms = name.partition(":")
    return f"{kind}: {synonyms.split('/')[0]}" if synonyms else kind


def best_attributes(
    scores: Sequence[float], names: Sequence[str], top: int
) -> list[tuple[str, float]]:
    """Labels and scores of the ``top`` attributes, best first; ValueError where counts differ."""
    if len(scores) != len(names):
        raise ValueError(f"{len(scores)} attribute scores for {len(names)} attribute names")
    order = sorted(range(len(scores)), key=lambda index: -scores[index])[:top]
    return [(attribute_label(names[index]), scores[index]) for index in order]


def check_picture_path(path: Path) -> None:
    """Checks that a picture can be written to ``path``, before the work that makes it.

    Raises:
        ValueError: the suffix names no picture format.
        FileNotFoundError, PermissionError: its folder is missing or cannot be written.
    """
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"picture {path}: suffix '{path.suffix}'; valid: {', '.join(FORMATS)}")
    if path.is_dir():
        raise PermissionError(f"picture {path} is a folder; give the name of a file")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"picture {path}: there is no folder {path.parent}")
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise PermissionError(
            f"picture {path}: folder {path.parent} cannot be written ({error.strerror})"
        ) from error


def save_picture(path: Path, image: Image.Image) -> None:
    """Writes a picture, whole or not at all; errors as in :func:`check_picture_path`."""
    check_picture_path(path)
    with whole_file(path) as part:
        image.save(part)


def _words(
    prediction: RegionPrediction, reference: str | None, names: Sequence[str], top: int
) -> Image.Image:
    """What was predicted of a region, as a table: field, value, score."""
    fields = []
    if prediction.caption is not None:
        caption = paragraph(prediction.caption or "(empty)", CAPTION, INK, VALUE_WIDTH)
        fields.append(_field("caption", caption, prediction.score, CAPTION))
    if reference is not None:
        fields.append(_field("reference", paragraph(reference, TEXT, TRUE, VALUE_WIDTH)))
    if prediction.class_name is not None:
        name = paragraph(prediction.class_name, TEXT, INK, VALUE_WIDTH)
        logits = prediction.class_logits
        fields.append(_field("class", name, max(logits) if logits else None))
    if prediction.tags is not None:
        fields.append(_field("tags", _chips(prediction.tags or ["(none)"])))
    if prediction.attributes is not None:
        best = best_attributes(prediction.attributes, names, top)
        labels = ["attributes"] + [""] * len(best)
        bars = [
            _field(label, _bar(name, score), score)
            for label, (name, score) in zip(labels, best, strict=False)
        ]
        fields.append(below(bars, 2))
    return below(fields, 12)


def _field(
    label: str, value: Image.Image, score: float | None = None, size: int = TEXT
) -> Image.Image:
    """One row of the table; label and score stand on the first line (of ``size``) of the value."""
    width = LABEL_WIDTH + VALUE_WIDTH + SCORE_WIDTH
    block = Image.new("RGB", (width, value.height), PAPER)
    block.paste(value, (LABEL_WIDTH, 0))
    name = line(label, SMALL, FAINT)
    number = line("" if score is None else f"{score:.2f}", SMALL, FAINT)
    top = (line("", size, INK).height - name.height + 3) // 2
    block.paste(name, (0, top))
    block.paste(number, (width - number.width, top))
    return block


def _bar(label: str, score: float) -> Image.Image:
    """An attribute's label and its score in [0, 1] as a bar."""
    text = paragraph(label, TEXT, INK, VALUE_WIDTH - BAR_SIZE[0] - 16)
    block = Image.new("RGB", (VALUE_WIDTH, text.height), PAPER)
    block.paste(text, (0, 0))
    left, up = VALUE_WIDTH - BAR_SIZE[0], (line("", TEXT, INK).height - BAR_SIZE[1]) // 2
    block.paste(LINE, (left, up, VALUE_WIDTH, up + BAR_SIZE[1]))
    end = left + round(BAR_SIZE[0] * min(max(score, 0), 1))
    block.paste(BAR, (left, up, end, up + BAR_SIZE[1]))
    return block


def _chips(words: Sequence[str]) -> Image.Image:
    """Words on grey, as many a line as fit."""
    rows: list[list[Image.Image]] = [[]]
    for word in words:
        text = paragraph(word, SMALL, INK, VALUE_WIDTH - 20, LINE)
        chip = Image.new("RGB", (text.width + 20, text.height + 8), LINE)
        chip.paste(text, (10, 4))
        if rows[-1] and sum(other.width + 8 for other in rows[-1]) + chip.width > VALUE_WIDTH:
            rows.append([])
        rows[-1].append(chip)
    if len(rows) > MOST_LINES:
        left_out = sum(map(len, rows[MOST_LINES:]))
        rows[MOST_LINES:] = [[line(f"... and {left_out} more", SMALL, FAINT)]]
    return below([beside(row, 8) for row in rows], 8)


def _badge(number: int) -> Image.Image:
    text = line(str(number), TEXT, PAPER, _color(number))
    badge = Image.new("RGB", (max(38, text.width + 16), 38), _color(number))
    badge.paste(text, ((badge.width - text.width) // 2, (badge.height - text.height) // 2))
    return badge


def _color(number: int) -> Color:
    return COLORS[number % len(COLORS)]


def _outline(image: Image.Image, box: np.ndarray, color: Color, width: int) -> None:
    """Frames a box (xyxy, pixels) from outside, with a white hairline; inside at the edges."""
    draw, last = ImageDraw.Draw(image), np.tile(image.size, 2) - 1
    for grow, ink in ((width + 1, PAPER), (width, color)):
        start, end = np.floor(box[:2]) - grow, np.ceil(box[2:]) - 1 + grow
        frame = np.clip(np.concatenate([start, end]), 0, last)
        draw.rectangle(frame.tolist(), outline=ink, width=grow)


def _free_place(
    box: np.ndarray,
    size: tuple[int, int],
    limits: tuple[int, int],
    taken: Sequence[tuple[int, int]],
) -> tuple[int, int]:
    """Where a badge goes: by a corner or edge of the box, in the picture, on no other badge."""
    (x1, y1, x2, y2), (width, height) = box.round().astype(int).tolist(), size
    outside = [(x1, y1 - height), (x1 - width, y1), (x2, y1), (x1, y2)]
    inside = [(x, y) for y in (y1, y2 - height) for x in range(x1, x2 - width + 1, width)]
    last = (limits[0] - width, limits[1] - height)
    for x, y in outside + inside:
        fits = 0 <= x <= last[0] and 0 <= y <= last[1]
        if fits and all(abs(x - a) >= width or abs(y - b) >= height for a, b in taken):
            return x, y
    return max(0, min(x1, last[0])), max(0, min(y1, last[1]))
