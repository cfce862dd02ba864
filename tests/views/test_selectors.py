"""View selectors: the published image prior, the stochastic draw and task priors."""

import json
import random

import cv2
import numpy as np
import pytest

from dynrefer.processors.images import open_image
from dynrefer.registry import registry
from dynrefer.views import (
    CANDIDATE_RATIOS,
    ImagePriorSelector,
    StochasticSelector,
    TaskPriorSelector,
)
from tests.shared import shared_path

BOXES = np.array([[10, 12, 60, 50], [70, 5, 118, 80.5], [0, 0, 120, 90]], dtype=np.float32)
RNG = np.random.default_rng(0)


def patchwork(seed=0, height=90, width=120):
    """Random rectangles over a gradient: windows of it differ in their hashes."""
    rng = random.Random(seed)
    image = np.tile(np.linspace(0, 255, width, dtype=np.uint8)[None, :, None], (height, 1, 3))
    for _ in range(30):
        corner = (rng.randrange(width), rng.randrange(height))
        opposite = (rng.randrange(width), rng.randrange(height))
        color = tuple(rng.randrange(256) for _ in range(3))
        image = cv2.rectangle(np.ascontiguousarray(image), corner, opposite, color, -1)
    return image


def published_hash(gray, box):
    x1, y1, x2, y2 = box.astype(np.int64)
    corner = cv2.dct(cv2.resize(gray[y1:y2, x1:x2], (224, 224)))[:8, :8]
    return (corner > corner.mean()).ravel()


def published_image_prior(image, box, num_views):
    """The rule region by region, straight from its description."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    whole = np.array([0, 0, image.shape[1], image.shape[0]], dtype=np.float32)
    region = published_hash(gray, box)
    scores = []
    for tenth in range(1, 11):
        view = box + (whole - box) * np.float32(tenth / 10)
        scores.append((region != published_hash(gray, view)).sum() / (tenth / 10))
    ratios = [0.0]
    for _ in range(num_views - 1):
        best = scores.index(max(scores))
        ratios.append((best + 1) / 10)
        scores[best] = 0
    return ratios


@pytest.mark.parametrize("num_views", [1, 2, 3, 11])
@pytest.mark.parametrize("seed", range(4))
def test_image_prior_follows_the_description(num_views, seed):
    image = patchwork(seed)
    ratios = ImagePriorSelector(num_views)(image, BOXES, RNG)
    assert ratios.dtype == np.float64
    assert ratios.tolist() == [published_image_prior(image, box, num_views) for box in BOXES]


def test_image_prior_equals_the_published_ratios():
    published = shared_path("parity/official_metrics/views.json")
    for case in json.loads(published.read_text()):
        image = np.asarray(open_image(shared_path(f"parity/official_metrics/{case['image']}")))
        ratios = ImagePriorSelector(3)(image, np.array(case["boxes"], dtype=np.float32))
        assert ratios.tolist() == case["ratios"]


def test_image_prior_takes_the_smallest_ratio_again_where_nothing_differs():
    image = np.full((90, 120, 3), 77, dtype=np.uint8)
    assert ImagePriorSelector(4)(image, BOXES, RNG).tolist() == [[0, 0.1, 0.1, 0.1]] * 3


def test_image_prior_names_a_wrong_image():
    with pytest.raises(ValueError, match=r"float64 \[90, 120\]; valid is uint8"):
        ImagePriorSelector(3)(np.zeros((90, 120)), BOXES, RNG)


def test_stochastic_draws_without_replacement_in_drawn_order():
    boxes = np.zeros((4000, 4), dtype=np.float32)
    ratios = StochasticSelector(4)(patchwork(), boxes, np.random.default_rng(3))
    assert ratios.shape == (4000, 4) and (ratios[:, 0] == 0).all()
    drawn = ratios[:, 1:]
    assert set(drawn.ravel()) == set(CANDIDATE_RATIOS.tolist())
    assert all(len(set(row)) == 3 for row in drawn.tolist())
    unsorted = (np.diff(drawn, axis=1) < 0).any(axis=1).mean()
    assert 0.8 < unsorted < 0.87  # five of the six orders of three
    for column in drawn.T:  # each candidate is as likely as any other in each place
        counts = np.unique(column, return_counts=True)[1]
        assert abs(counts - 400).max() < 100


def test_stochastic_depends_on_the_generator_alone():
    draws = [StochasticSelector(3)(patchwork(), BOXES, np.random.default_rng(s)) for s in (1, 1, 2)]
    assert (draws[0] == draws[1]).all() and (draws[0] != draws[2]).any()


def test_task_prior_gives_every_region_the_same_views():
    ratios = TaskPriorSelector(3, [0.6, 0.3])(patchwork(), BOXES, RNG)
    assert ratios.tolist() == [[0, 0.6, 0.3]] * 3
    assert (TaskPriorSelector(3, [0, 0])(patchwork(), BOXES, RNG) == 0).all()


@pytest.mark.parametrize("ratios", [[], [0.1], [0.1, 0.2, 0.3]])
def test_task_prior_names_a_wrong_count(ratios):
    with pytest.raises(ValueError, match="3 views need 2"):
        TaskPriorSelector(3, ratios)


@pytest.mark.parametrize("ratio", [-0.1, 1.01, float("nan")])
def test_task_prior_names_a_wrong_ratio(ratio):
    with pytest.raises(ValueError, match=f"ratios holds {ratio}; valid is 0"):
        TaskPriorSelector(3, [0.5, ratio])


def test_fixed_views_include_view_0():
    selector = registry.get("view_selector", "fixed")(3, [1.0, 0.25, 0.0])
    ratios = selector(patchwork(), BOXES, RNG)
    assert ratios.dtype == np.float64 and (ratios == [[1.0, 0.25, 0.0]] * len(BOXES)).all()
    with pytest.raises(ValueError, match=r"3 views need 3 of them, one for every view"):
        registry.get("view_selector", "fixed")(3, [0.5, 1.0])
    with pytest.raises(ValueError, match="ratios holds 2; valid is 0"):
        registry.get("view_selector", "fixed")(2, [0, 2])


SELECTORS = {
    "stochastic": lambda num_views: StochasticSelector(num_views),
    "image_prior": lambda num_views: ImagePriorSelector(num_views),
    "task_prior": lambda num_views: TaskPriorSelector(num_views, [0.5] * (int(num_views) - 1)),
}


@pytest.mark.parametrize("name", SELECTORS)
def test_every_selector(name):
    build = SELECTORS[name]
    assert isinstance(build(3), registry.get("view_selector", name))
    assert build(1)(patchwork(), BOXES, RNG).tolist() == [[0], [0], [0]]
    assert build(11)(patchwork(), BOXES, RNG).shape == (3, 11)
    assert build(3)(patchwork(), BOXES[:0], RNG).shape == (0, 3)
    for num_views in (0, 12, 2.0, -1):
        with pytest.raises(ValueError, match="num_views is .* from 1 to 11"):
            build(num_views)
