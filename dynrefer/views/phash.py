"""Perceptual hash of image windows: 64 low frequencies of a DCT, compared with their mean.

The published hash resizes a window to 224 x 224, takes the whole two-dimensional DCT and keeps its
top-left 8 x 8 corner. That corner is ``B @ window @ B.T`` with the first eight rows B of the
orthonormal DCT-II matrix, so the other 50,112 coefficients need not be computed. B is float64:
the result is then as close to the published float32 numbers as their own rounding allows. (Folding
the resize into B as well would save a tenth of the time on 640 x 480 but be slower than the full
DCT on 3000 x 2000: the product grows with the window, whereas ``cv2.resize`` touches a fixed number
of pixels. See scripts/benchmark_views.py.)
"""

import cv2
import numpy as np

RESIZED_SIDE = 224
FREQUENCIES = 8


def _dct_basis() -> np.ndarray:
    """First rows of the orthonormal DCT-II matrix, float64 [8, 224]."""
    frequency = np.arange(FREQUENCIES)[:, None]
    position = np.arange(RESIZED_SIDE) + 0.5
    basis = np.cos(np.pi / RESIZED_SIDE * frequency * position) * np.sqrt(2 / RESIZED_SIDE)
    basis[0] /= np.sqrt(2)
    return basis


DCT_BASIS = _dct_basis()


def low_frequencies(gray: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Lowest DCT coefficients of one window after bilinear resizing to 224 x 224.

    ``gray`` is float32 [H, W], ``box`` four integers xyxy, end exclusive, inside the image and not
    empty. Returns float64 [8, 8], vertical frequency first; [0, 0] is 224 times the mean grey.
    """
    x1, y1, x2, y2 = box
    resized = cv2.resize(gray[y1:y2, x1:x2], (RESIZED_SIDE, RESIZED_SIDE))
    return DCT_BASIS @ resized @ DCT_BASIS.T


def perceptual_hashes(gray: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Hashes of many windows of one image: which of the 8 x 8 coefficients exceed their mean.

    Takes float32 [H, W], grey values 0 to 255, and int64 [M, 4], xyxy in pixels, end exclusive; a
    box that occurs several times is hashed once. Returns bool [M, 64]. Raises ValueError where a
    box is empty or reaches outside the image.
    """
    height, width = gray.shape
    starts, ends = boxes[:, :2], boxes[:, 2:]
    valid = ((starts >= 0) & (starts < ends) & (ends <= (width, height))).all(axis=1)
    if not valid.all():
        index = int(np.argmin(valid))
        raise ValueError(
            f"box {index} is {boxes[index].tolist()}; valid are whole pixels with "
            f"0 <= x1 < x2 <= {width} and 0 <= y1 < y2 <= {height}"
        )
    windows, places = np.unique(boxes, axis=0, return_inverse=True)
    coefficients = np.array([low_frequencies(gray, box) for box in windows])
    coefficients = coefficients.reshape(-1, FREQUENCIES**2)
    return (coefficients > coefficients.mean(axis=1, keepdims=True))[places.ravel()]
