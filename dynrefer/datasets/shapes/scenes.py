"""One image of the shapes world: its pixels, its regions, and the annotation of each."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from dynrefer.datasets.shapes import words
from dynrefer.datasets.shapes.grounds import lay_papers, paint_grounds, sample_grounds
from dynrefer.datasets.shapes.language import (
    TEMPLATES,
    TRAIN_TEMPLATE_SHARES,
    TRAIN_TEMPLATES,
    caption,
    facts_by_kind,
)
from dynrefer.datasets.shapes.layout import place_in_image, relate, sample_layout
from dynrefer.datasets.shapes.rendering import Figure, draw, visible_part
from dynrefer.datasets.shapes.words import Facts

IMAGE_SIDES = (288, 353)  # px, width and height are drawn from this range
UNLABELLED_SHARE = 0.1  # of the attribute labels


@dataclass(frozen=True)
class Region:
    """A figure as it can be seen in its image.

    ``box`` float64 [4] (xyxy, pixels) is the tight box of ``polygon``, the outline of the visible
    part (COCO's flat x, y list); ``area`` is that part's area in square pixels. ``other`` is the
    index of the region that the relation refers to, None where no relation is clear.
    """

    figure: Figure
    box: np.ndarray
    polygon: list[float]
    area: float
    facts: Facts
    other: int | None = None


def render_scene(rng: np.random.Generator) -> tuple[np.ndarray, list[Region]]:
    """Draws one image (uint8 [H, W, 3], RGB) and returns it with its regions.

    The regions come in drawing order: a later one stands in front of an earlier one.
    """
    width, height = (int(side) for side in rng.integers(*IMAGE_SIDES, size=2))
    grounds = sample_grounds(rng, width, height)
    figures = sample_layout(rng, grounds)
    canvas = lay_papers(rng, paint_grounds(rng, grounds), [figure.box for figure in figures])
    image = draw(figures, canvas)
    seen = [visible_part(figures, i, width, height) for i in range(len(figures))]
    relations = relate(np.array([box for box, _, _ in seen]))
    regions = []
    for figure, (box, polygon, area), pair in zip(figures, seen, relations, strict=True):
        relation, other = pair or (None, None)
        facts = Facts(
            figure=figure.name,
            colour=figure.colour,
            texture=figure.texture,
            size=figure.size,
            place=place_in_image(box, width, height),
            # What lies in another figure has that one under it.
            ground=None if relation == "inside" else grounds.under(figure.box),
            relation=relation,
            neighbour=None if other is None else (figures[other].colour, figures[other].name),
        )
        regions.append(Region(figure, box, polygon, area, facts, other))
    return image, regions


def captions_of(facts: Facts) -> list[str]:
    """All reference captions of a region, the canonical one first."""
    return [caption(template, facts) for template in TEMPLATES]


def annotation_of(
    regions: list[Region], index: int, image_id: int, split: str, rng: np.random.Generator
) -> dict[str, Any]:
    """A region of an image in the release's format, with every label that the tasks judge by.

    A share of the attribute labels is left out at random. ``extra_info.facts`` holds what is true
    of it by kind.
    """
    region = regions[index]
    facts, box = region.facts, region.box
    own_tags, other_tags = words.tags_of(facts)
    # drawn in every split, so that a caption never shifts the labels behind it
    drawn = int(rng.choice(len(TRAIN_TEMPLATES), p=TRAIN_TEMPLATE_SHARES))
    labels = words.attribute_labels(facts, alone=len(regions) == 1)
    labels = [-1 if rng.random() < UNLABELLED_SHARE else label for label in labels]
    captions = captions_of(facts)
    annotation = {
        "id": image_id * 10 + index,
        "image_id": image_id,
        "bbox": [round(float(v), 2) for v in (box[0], box[1], box[2] - box[0], box[3] - box[1])],
        "segmentation": [region.polygon],
        "area": round(region.area, 2),
        "iscrowd": 0,
        "category_id": words.CLASSES.index(facts.figure) + 1,
        "caption": captions[0] if split == "test" else caption(TRAIN_TEMPLATES[drawn], facts),
        "extra_info": {
            "parser_result": {"tag_set1": own_tags, "tag_set2": other_tags},
            "ovad_result": {"att_vec": labels},
            "coco_result": {"category": facts.figure},
            "facts": facts_by_kind(facts),
        },
    }
    if split == "test":
        annotation["captions"] = captions
    return annotation
