from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from dynrefer.datasets.builders import build_view_selector
from dynrefer.predictor import RegionPredictor

WIDTH, HEIGHT = 60, 50
BOXES = [[1, 2, 20, 30], [10.5, 10, 40, 40.5], [0, 0, 60, 50]]


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


IMAGE = Image.fromarray(noise(HEIGHT, WIDTH, 3))


def mask_of(*pixels):
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    for x, y in pixels:
        mask[y, x] = True
    return mask


def assert_same(results, others):
    assert len(results) == len(others)
    for result, other in zip(results, others, strict=True):
        assert result.error is None and other.error is None
        assert result.box == other.box and result.view_boxes == other.view_boxes
        one, two = result.prediction, other.prediction
        assert (one.id, one.caption, one.tags) == (two.id, two.caption, two.tags)
        assert one.ratios == two.ratios and one.class_name == two.class_name
        np.testing.assert_allclose(one.attributes, two.attributes, atol=1e-5)
        np.testing.assert_allclose(one.class_logits, two.class_logits, atol=1e-5)
        assert one.score == pytest.approx(two.score, abs=1e-5)


@pytest.fixture
def predictor(model, config):
    selector = build_view_selector(config.run.view_selector, config.model.num_views)
    model.generation = replace(model.generation, max_new_tokens=6)
    return RegionPredictor(model, selector, config.model.image_size)


@pytest.fixture
def looks(predictor):
    """How many crops the vision tower got, call by call."""
    counts = []
    predictor.model.vision.register_forward_pre_hook(lambda _, given: counts.append(len(given[0])))
    return counts
