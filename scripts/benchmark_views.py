"""Times the choice of views and the cutting of crops against the straightforward ways.

    python scripts/benchmark_views.py [--image photo.jpg] [--regions 20] [--repeats 5]

Prints milliseconds a region (best of the repeats), for 11 hashed windows and 3 crops (ratios 0,
0.5 and 1) a region. Without ``--image`` it makes an image of 640 x 480. Set OPENBLAS_NUM_THREADS=1
for figures of one core, as a loader's worker has it.
"""

import argparse

from dynrefer.command_line import plain_parser


def parse() -> argparse.Namespace:
    """Command line."""
    parser = plain_parser(__doc__)
    parser.add_argument("--image", help="an image file; made if not given")
    parser.add_argument("--regions", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":  # before the imports that take seconds
    arguments = parse()

import time
from collections.abc import Callable
from functools import cache

import cv2
import numpy as np
from PIL import Image

from dynrefer.processors.images import open_image
from dynrefer.processors.region_image import RegionImageProcessor
from dynrefer.views import (
    CANDIDATE_RATIOS,
    TaskPriorSelector,
    nested_boxes,
    perceptual_hashes,
    pixel_boxes,
)
from dynrefer.views.phash import DCT_BASIS

SIDE = 224
CROP_RATIOS = (0.0, 0.5, 1.0)


def made_image(rng: np.random.Generator) -> Image.Image:
    """Blurred noise, 640 x 480: what it shows does not change the time."""
    noise = rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)
    return Image.fromarray(cv2.GaussianBlur(noise, (0, 0), 4))


def random_regions(rng: np.random.Generator, count: int, width: int, height: int) -> np.ndarray:
    """Boxes with sides of 5 % to 60 % of the image, float32 [N, 4]."""
    sides = rng.uniform(0.05, 0.6, (count, 2)) * (width, height)
    starts = rng.random((count, 2)) * ((width, height) - sides)
    return np.concatenate([starts, starts + sides], axis=1).astype(np.float32)


def full_dct_hashes(gray: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """The definition: resize, whole DCT, its corner."""
    hashes = []
    for x1, y1, x2, y2 in boxes:
        corner = cv2.dct(cv2.resize(gray[y1:y2, x1:x2], (SIDE, SIDE)))[:8, :8]
        hashes.append((corner > corner.mean()).ravel())
    return np.array(hashes)


@cache
def folded_basis(length: int) -> np.ndarray:
    """The bilinear resize of ``length`` pixels to 224 and the DCT basis, as one [8, length]."""
    resize = cv2.resize(np.eye(length, dtype=np.float32), (length, SIDE))
    return (DCT_BASIS @ resize).astype(np.float32)


def folded_hashes(gray: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """The alternative that multiplies the window itself with two folded matrices."""
    hashes = []
    for x1, y1, x2, y2 in boxes:
        corner = folded_basis(y2 - y1) @ gray[y1:y2, x1:x2] @ folded_basis(x2 - x1).T
        hashes.append((corner > corner.mean()).ravel())
    return np.array(hashes)


def best_time(work: Callable[[], object], repeats: int) -> float:
    """Shortest of some runs in seconds, after one run to warm up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def measure(
    image: Image.Image, regions: np.ndarray, repeats: int, rng: np.random.Generator
) -> None:
    """Prints the table for the regions of one image."""
    count, size = len(regions), image.size
    pixels = np.asarray(image)
    gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
    candidates = np.tile(np.append(0, CANDIDATE_RATIOS), (count, 1))
    windows = pixel_boxes(nested_boxes(regions, candidates, *size), *size).reshape(-1, 4)
    processor = RegionImageProcessor(SIDE, TaskPriorSelector(3, CROP_RATIOS[1:]))
    views = processor(image, regions, rng).view_boxes.reshape(-1, 4).tolist()
    crops = [tuple(box) for box in views]

    expected = full_dct_hashes(gray, windows)
    for name, hashes in (("ours", perceptual_hashes), ("folded", folded_hashes)):
        differing = int((hashes(gray, windows) != expected).sum())
        print(f"hash bits that differ from the full DCT's, {name}: {differing} of {expected.size}")
    stages = (
        ("hash: resize + full DCT", "hash", lambda: full_dct_hashes(gray, windows)),
        ("hash: resize folded into the DCT", "hash", lambda: folded_hashes(gray, windows)),
        ("hash: resize + 8 DCT rows (ours)", "hash", lambda: perceptual_hashes(gray, windows)),
        ("crop: every view", "crop", lambda: processor.crop(image, crops)),
        ("crop: distinct views (ours)", "crop", lambda: processor.crop(image, [*set(crops)])),
    )
    print(f"{count} regions, image {size[0]} x {size[1]}\n{'stage':36}ms a region   speed-up")
    baseline: dict[str, float] = {}
    for name, stage, work in stages:
        seconds = best_time(work, repeats)
        speedup = baseline.setdefault(stage, seconds) / seconds
        print(f"{name:36}{seconds / count * 1000:11.3f}{speedup:10.1f}x")


def main(options: argparse.Namespace) -> None:
    """Measures the stages and prints the table."""
    cv2.setNumThreads(1)
    rng = np.random.default_rng(0)
    image = open_image(options.image) if options.image else made_image(rng)
    measure(image, random_regions(rng, options.regions, *image.size), options.repeats, rng)


if __name__ == "__main__":
    main(arguments)
