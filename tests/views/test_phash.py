"""The hash against its definition: OpenCV's resize and full DCT."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynrefer.views import perceptual_hashes
from dynrefer.views.phash import low_frequencies


def published_coefficients(gray, box):
    x1, y1, x2, y2 = box
    return cv2.dct(cv2.resize(gray[y1:y2, x1:x2], (224, 224)))[:8, :8]


def noise_image(rng, height, width):
    return rng.integers(0, 256, (height, width)).astype(np.float32)


def natural_image(rng, height, width):
    """Whole grey values whose spectrum falls with frequency, as in photographs."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    spectrum = np.fft.rfft2(rng.standard_normal((height, width))) / (frequency + 1 / height)
    values = np.fft.irfft2(spectrum, (height, width))
    return np.clip(np.round(128 + 50 * values / values.std()), 0, 255).astype(np.float32)


def random_boxes(rng, count, height, width):
    sizes = np.exp(rng.uniform(0, np.log([width, height]), (count, 2))).astype(np.int64)
    starts = (rng.random((count, 2)) * ([width, height] - sizes + 1)).astype(np.int64)
    return np.concatenate([starts, starts + sizes], axis=1)


def rounding_limit(coefficients):
    """How far OpenCV's float32 coefficients may lie from the true ones: 8 units of rounding."""
    return 8 * np.finfo(np.float32).eps * abs(coefficients).max()


@pytest.mark.parametrize("make_image", [noise_image, natural_image])
def test_bits_equal_the_definition(make_image):
    """Over 32,000 bits each; only a coefficient within rounding of the mean could differ."""
    rng = np.random.default_rng(5)
    differing = 0
    for height, width in ((480, 640), (333, 217)):
        gray = make_image(rng, height, width)
        boxes = random_boxes(rng, 250, height, width)
        for box, bits in zip(boxes, perceptual_hashes(gray, boxes), strict=True):
            expected = published_coefficients(gray, box)
            found = low_frequencies(gray, box)
            assert abs(found - expected).max() <= rounding_limit(expected)
            wrong = bits.reshape(8, 8) != (expected > expected.mean())
            assert (abs(expected - expected.mean())[wrong] <= rounding_limit(expected)).all()
            differing += wrong.sum()
    assert differing == 0


@pytest.mark.parametrize("side", [1, 2, 7, 112, 223, 224, 225, 448, 449, 896])
def test_special_sides(side):
    gray = natural_image(np.random.default_rng(side), 896, 896)
    box = np.array([[0, 0, side, side]])
    expected = published_coefficients(gray, box[0])
    np.testing.assert_allclose(
        low_frequencies(gray, box[0]), expected, rtol=0, atol=rounding_limit(expected)
    )
    assert perceptual_hashes(gray, box)[0].tolist() == (expected > expected.mean()).ravel().tolist()


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 300), st.integers(1, 300))
def test_any_window_matches_the_definition(seed, height, width):
    rng = np.random.default_rng(seed)
    gray = noise_image(rng, height, width)
    box = random_boxes(rng, 1, height, width)
    expected = published_coefficients(gray, box[0])
    wrong = perceptual_hashes(gray, box)[0].reshape(8, 8) != (expected > expected.mean())
    assert (abs(expected - expected.mean())[wrong] <= rounding_limit(expected)).all()


def test_flat_windows():
    """A grey window has only the constant coefficient, a black one none above the mean."""
    boxes = np.array([[0, 0, 30, 20]])
    black = np.zeros((20, 30), dtype=np.float32)
    assert np.flatnonzero(perceptual_hashes(black + 90, boxes)).tolist() == [0]
    assert not perceptual_hashes(black, boxes).any()


def test_order_repeats_and_no_boxes():
    gray = natural_image(np.random.default_rng(0), 60, 80)
    boxes = np.array([[0, 0, 80, 60], [5, 5, 40, 30], [0, 0, 80, 60]])
    together = perceptual_hashes(gray, boxes)
    assert together.shape == (3, 64) and together.dtype == bool
    for index in range(3):
        assert (together[index] == perceptual_hashes(gray, boxes[index : index + 1])[0]).all()
    assert perceptual_hashes(gray, np.zeros((0, 4), np.int64)).shape == (0, 64)


@pytest.mark.parametrize(
    "box", [[3, 3, 3, 9], [3, 9, 5, 3], [-1, 0, 5, 5], [0, 0, 81, 60], [0, 0, 80, 61]]
)
def test_invalid_boxes_are_named(box):
    boxes = np.array([[0, 0, 80, 60], box])
    with pytest.raises(ValueError, match=r"box 1 is \[.*x2 <= 80 and 0 <= y1 < y2 <= 60"):
        perceptual_hashes(np.zeros((60, 80), np.float32), boxes)
