"""Pictures of results: the image with its regions, and for each of them its views and words.

Lengths are pixels of the picture, which is made for about two pixels a point.
"""

import math
import statistics
from collections.abc import Sequence
from itertools import accumulate, chain, combinations
from pathlib import Path

import numpy as np
from matplotlib.offsetbox import OffsetBox
from numpy.typing import ArrayLike
from PIL import Image

from dynrefer.files import check_writable, whole_file
from dynrefer.models.dynrefer import RegionPrediction
from dynrefer.pictures.blocks import (
    CAPTION,
    FAINT,
    INK,
    LINE,
    MOST_LINES,
    SMALL,
    TEXT,
    area,
    below,
    beside,
    box,
    boxed,
    height_of,
    line,
    paragraph,
    rendered,
    size_of,
    wrapped,
)
from dynrefer.pictures.views import IMAGE_LIMITS, Region, badge, views_of, whole_image
from dynrefer.processors.region_image import check_boxes
from dynrefer.vocabulary import best_attributes

BAR, TRUE = "#748ffc", "#18794e"
MARGIN, GAP = 40, 32
LABELS, VALUES, SCORES, BAR_SIZE = 136, 520, 64, (150, 14)  # widths of the table's columns
COLUMN, SHAPE, MOST_COLUMNS = IMAGE_LIMITS[0], 1.5, 8
REGIONS_PER_PAGE, MOST_BARS = 20, 60  # a page is then small enough for every format
FORMATS = {".png": 2**31 - 1, ".jpg": 65_500, ".jpeg": 65_500, ".webp": 16_383}  # longest side


def draw_regions(
    image: Image.Image,
    predictions: Sequence[RegionPrediction],
    boxes: ArrayLike,
    attribute_names: Sequence[str] = (),
    references: Sequence[str] | None = None,
    masks: Sequence[np.ndarray | None] | None = None,
    top: int = 5,
) -> list[Image.Image]:
    """The image with numbered regions, then each region's views with their ratios and its words.

    The words are caption, class, tags and the ``top`` best attributes, these with how far their
    scores are above the mean of the region's; fields that are None are left out. There is one at
    least of the pages, which hold ``REGIONS_PER_PAGE`` regions.

    The image is RGB, of any size; boxes are [N, 4] xyxy in its pixels; the ``ratios`` of the N
    predictions say which views were looked at; ``references``, true captions, are shown below the
    predicted ones; ``masks`` give the shape of a region, bool [H, W], or None where it is its box.
    Raises ValueError for a box outside the image, or lists of different length.
    """
    boxes = check_boxes(boxes, *image.size)
    lists = {"predictions": predictions, "boxes": boxes, "references": references, "masks": masks}
    counts = {name: len(values) for name, values in lists.items() if values is not None}
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise ValueError(f"{found}; a region has one of each")
    shapes = [None] * len(boxes) if masks is None else masks
    regions = list(map(Region, range(len(boxes)), boxes, shapes))
    pages = []
    for start in range(0, max(len(regions), 1), REGIONS_PER_PAGE):
        shown = regions[start : start + REGIONS_PER_PAGE]
        blocks = [whole_image(image, shown)]
        for region in shown:
            prediction, mark = predictions[region.number], badge(region)
            reference = None if references is None else references[region.number]
            views = views_of(image, region, prediction.ratios)
            words = _words(prediction, reference, attribute_names, top)
            blocks.append(below([beside([mark, views], LABELS - mark.width), *words], 12))
        pages.append(rendered(_in_columns(blocks), MARGIN))
    return pages


def draw_views(image: Image.Image, box: np.ndarray, ratios: Sequence[float]) -> Image.Image:
    """Thumbnails of a region's views in a row, the region outlined in each."""
    return rendered(views_of(image, Region(1, box), ratios))


def page_paths(path: Path, regions: int = 1) -> list[Path]:
    """Where the pages of a picture of some regions go: "a.png", "a-2.png", ..."""
    pages = max(1, math.ceil(regions / REGIONS_PER_PAGE))
    return [path, *(path.with_stem(f"{path.stem}-{number}") for number in range(2, pages + 1))]


def check_picture_path(path: Path, regions: int = 1) -> None:
    """Checks that the pages of a picture can be written, before the work that makes them.

    Raises ValueError where the suffix names no picture format, and OSError where the folder is
    missing or cannot be written, or the name is no file's.
    """
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"picture {path}: suffix '{path.suffix}'; valid: {', '.join(FORMATS)}")
    for page in page_paths(path, regions):
        check_writable(page)


def save_picture(path: Path, pages: Sequence[Image.Image]) -> list[Path]:
    """Writes the pages of a picture, each whole or not at all; returns where they are.

    Raises as :func:`check_picture_path` does, and ValueError for a page that no file of the format
    can hold.
    """
    paths, most = page_paths(path, REGIONS_PER_PAGE * len(pages)), FORMATS[path.suffix.lower()]
    for place, page in zip(paths, pages, strict=True):
        if max(page.size) > most:
            size = f"{page.width} x {page.height} pixels"
            raise ValueError(f"picture {place} of {size}; {path.suffix} takes {most} a side")
        with whole_file(place) as part:
            page.save(part)
    return paths


def _words(
    prediction: RegionPrediction, reference: str | None, names: Sequence[str], top: int
) -> list[OffsetBox]:
    """What was predicted of a region, rows of a table: field, value, score."""
    rows = []
    if prediction.caption is not None:
        caption = paragraph(prediction.caption or "(empty)", VALUES, CAPTION)
        rows.append(_row("caption", caption, prediction.score, CAPTION))
    if reference is not None:
        rows.append(_row("reference", paragraph(reference, VALUES, color=TRUE)))
    if prediction.class_name is not None:
        score = max(prediction.class_logits or [None])
        rows.append(_row("class", paragraph(prediction.class_name, VALUES), score))
    if prediction.tags is not None:
        rows.append(_row("tags", _chips(prediction.tags or ["(none)"])))
    if prediction.attributes is not None and top:
        best = best_attributes(prediction.attributes, names, top)
        mean = statistics.fmean(prediction.attributes)
        labels = ["attributes", *[""] * len(best)]
        bars = [
            _row(label, _bar(name, score - mean, best[0][1] - mean), f"{score - mean:+.2f}")
            for label, (name, score) in zip(labels, best[:MOST_BARS], strict=False)
        ]
        bars += [_row("", _more(len(best) - MOST_BARS))] if len(best) > MOST_BARS else []
        rows.append(below(bars, 2))
    return rows


def _row(
    label: str, value: OffsetBox, score: float | str | None = None, size: int = TEXT
) -> OffsetBox:
    """A row of the table; label and score stand on the first line (of ``size``) of the value."""
    height, base = height_of(size), 0.31 * (size - SMALL)
    name = area(LABELS, height, line(label, SMALL, FAINT, (0, base)))
    if score is None:
        return beside([name, value], 0)
    text = score if isinstance(score, str) else f"{score:.2f}"
    number = line(text, SMALL, FAINT, (SCORES, base), ha="right")
    return beside([name, value, area(SCORES, height, number)], 0)


def _bar(label: str, above: float, most: float) -> OffsetBox:
    """An attribute's label, and how far its score is above the mean as a bar, whole at ``most``.

    The scores themselves have no temperature: all of a vocabulary are near each other.
    """
    (width, height), whole = BAR_SIZE, height_of(TEXT)
    (shown,) = wrapped(label, TEXT, VALUES - width - 16, most=1)
    x, y, end = (
        VALUES - width,
        (whole - height) // 2,
        round(width * min(max(above / most, 0), 1)) if most else 0,
    )
    bar = box(x, y, width, height, LINE), box(x, y, end, height, BAR)
    return area(VALUES, whole, line(shown), *bar)


def _chips(words: Sequence[str]) -> OffsetBox:
    """Words on grey, as many a line as fit; after ``MOST_LINES`` the others are counted."""
    rows: list[list[OffsetBox]] = []
    room = 0
    for index, word in enumerate(words):
        (shown,) = wrapped(word, SMALL, VALUES - 20, most=1)
        chip = boxed(shown, SMALL, INK, LINE, height_of(SMALL) + 8)
        if room < chip.width:
            if len(rows) == MOST_LINES:
                rows.append([_more(len(words) - index)])
                break
            rows, room = [*rows, []], VALUES
        rows[-1].append(chip)
        room -= chip.width + 8
    return below([beside(row, 8) for row in rows], 8)


def _more(count: int) -> OffsetBox:
    return paragraph(f"... and {count} more", VALUES, SMALL, FAINT)


def _in_columns(blocks: Sequence[OffsetBox]) -> OffsetBox:
    """Blocks, divided by lines, in columns that leave little empty and have about ``SHAPE``."""
    heights = [size_of(block)[1] + GAP for block in blocks]

    def columns_of(limit: int) -> list[list[OffsetBox]]:
        columns: list[list[OffsetBox]] = []
        room = 0
        for block, height in zip(blocks, heights, strict=True):
            if room < height:
                columns, room = [*columns, []], limit
            columns[-1].append(block)
            room -= height
        return columns

    def cost(limit: int) -> float:
        count = len(columns_of(limit))
        empty = 1 - sum(heights) / (count * limit)
        off = abs(math.log(count * COLUMN / limit / SHAPE))
        return math.inf if count > MOST_COLUMNS else off + 3 * empty

    def ruled(column: Sequence[OffsetBox]) -> OffsetBox:
        rules = [area(COLUMN, 2, box(0, 0, COLUMN, 2, LINE)) for _ in column]
        return below([*chain(*zip(column, rules, strict=True))][:-1], GAP / 2 - 1)

    runs = {end - start for start, end in combinations(accumulate(heights, initial=0), 2)}
    limit = min(sorted(run for run in runs if run >= max(heights)), key=cost)
    return beside(map(ruled, columns_of(limit)), GAP)
