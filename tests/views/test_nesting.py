"""Geometry of nested views: against the published code's numbers, and its invariants."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynrefer.processors.region_image import check_boxes
from dynrefer.views import CANDIDATE_RATIOS, nested_boxes, pixel_boxes, region_boxes_in_views

# Boxes, ratios and results of the published code on six photographs (their sizes only).
PUBLISHED = json.loads((Path(__file__).parents[1] / "data/nested_views.json").read_text())


@pytest.mark.parametrize("case", PUBLISHED)
def test_boxes_equal_those_of_the_published_code(case):
    width, height = case["width"], case["height"]
    views = nested_boxes(np.array(case["boxes"]), np.array(case["ratios"]), width, height)
    np.testing.assert_array_equal(views, np.array(case["view_boxes"], dtype=np.float32))
    inside = region_boxes_in_views(pixel_boxes(views, width, height), 224)
    np.testing.assert_array_equal(inside, np.array(case["region_boxes"], dtype=np.float32))
    assert views.dtype == inside.dtype == np.float32


def test_ends_of_the_ratio_are_region_and_image():
    box = np.array([[10, 20, 110, 70]], dtype=np.float32)
    views = nested_boxes(box, np.array([[0, 1, 0.5]]), 200, 100)
    assert views.tolist() == [[[10, 20, 110, 70], [0, 0, 200, 100], [5, 10, 155, 85]]]


def test_pixel_boxes_clip_and_truncate():
    boxes = np.array([[-3.5, -1, 10.9, 700], [1.2, 2.9, 3.1, 5]])
    assert pixel_boxes(boxes, 640, 480).tolist() == [[0, 0, 10, 480], [1, 2, 3, 5]]


@pytest.mark.parametrize(
    ("box", "widened"),
    [
        ([10.2, 10.2, 10.9, 10.9], [10, 10, 11, 11]),
        ([639.2, 479.5, 639.9, 479.6], [639, 479, 640, 480]),
        ([640, 5, 640, 9], [639, 5, 640, 9]),
        ([0, 0, 0.5, 0.5], [0, 0, 1, 1]),
    ],
)
def test_pixel_boxes_keep_one_pixel(box, widened):
    assert pixel_boxes(np.array(box), 640, 480).tolist() == widened


def test_a_region_that_fills_its_view_ends_where_float32_says():
    """The truncated float32 product: some widths end at 224, others at 223."""
    widths = np.arange(1, 2001)
    boxes = np.zeros((2000, 1, 4), dtype=np.int64)
    boxes[:, 0, 2], boxes[:, 0, 3] = widths, 224
    ends = region_boxes_in_views(boxes, 224)[:, 0]
    expected = [int(np.float32(w) * np.float32(224 / w)) for w in widths]
    assert ends[:, 2].tolist() == expected
    assert set(expected) == {223, 224}
    assert (ends[:, 3] == 224).all()


@st.composite
def boxes_in_images(draw):
    width, height = draw(st.integers(1, 3000)), draw(st.integers(1, 3000))
    sides = []
    for length in (width, height):
        low = draw(st.floats(0, length, exclude_max=True))
        sides.append((low, draw(st.floats(low, length, exclude_min=True))))
    (x1, x2), (y1, y2) = sides
    return width, height, [x1, y1, x2, y2]


@settings(deadline=None)
@given(boxes_in_images())
def test_views_hold_the_region_and_stay_in_the_image(case):
    width, height, box = case
    boxes = check_boxes([box], width, height)
    ratios = np.append(0, CANDIDATE_RATIOS)[None]
    views = pixel_boxes(nested_boxes(boxes, ratios, width, height), width, height)[0]
    assert (views[:, :2] >= 0).all() and (views[:, 2:] <= (width, height)).all()
    assert (views[:, :2] < views[:, 2:]).all()
    assert (np.diff(views[:, :2], axis=0) <= 0).all() and (np.diff(views[:, 2:], axis=0) >= 0).all()
    assert (abs(views[-1] - (0, 0, width, height)) <= 1).all()
    inside = region_boxes_in_views(views[None], 224)
    assert (inside >= 0).all() and (inside <= 224).all()
    assert (inside[..., :2] <= inside[..., 2:]).all()
