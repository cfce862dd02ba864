"""Times dense-captioning mAP on random predictions, against plain loops on a part of them.

METEOR is left out on both sides (a count of shared words stands in for it): its time depends on
the sentences and not on this code.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dynrefer.metrics.dense_captions import DenseCaptionImage, dense_caption_map  # noqa: E402
from tests.metrics import loops  # noqa: E402

WORDS = np.array(
    "a the red blue small dog cat man tree table on near with white black".split()  # noqa: SIM905
)


def random_images(
    num_predictions: int, per_image: int, targets: int, seed: int
) -> list[DenseCaptionImage]:
    """Images of 640 x 480 px: random ground truth, predictions scattered about it."""
    rng = np.random.default_rng(seed)

    def captions(count: int) -> list[str]:
        return [" ".join(row) for row in rng.choice(WORDS, (count, 5))]

    images = []
    while num_predictions > 0:
        count = min(per_image, num_predictions)
        num_predictions -= count
        corners = rng.uniform((0, 0), (500, 350), (targets, 2))
        truth = np.concatenate([corners, corners + rng.uniform(20, 140, (targets, 2))], axis=1)
        boxes = truth[rng.integers(targets, size=count)] + rng.uniform(-9, 9, (count, 4))
        scores = rng.random(count)
        images.append(DenseCaptionImage(truth, captions(targets), boxes, captions(count), scores))
    return images


def timed(name: str, compute: Callable, images: list[DenseCaptionImage]) -> float:
    """Seconds that mAP of the images takes; prints a row of the table."""
    count = sum(len(image.scores) for image in images)
    start = time.perf_counter()
    result = compute(images, loops.WordOverlap())
    seconds = time.perf_counter() - start
    each = 1e6 * seconds / count
    print(f"{name:12}{count:12,}{seconds:10.2f}{each:10.1f}{result['map']:10.6f}")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--predictions", type=int, default=250_000)
    parser.add_argument("--loop-predictions", type=int, default=1_000)
    parser.add_argument("--per-image", type=int, default=50)
    parser.add_argument("--targets", type=int, default=30, help="ground truth boxes of an image")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    shape = args.per_image, args.targets, args.seed

    print(f"{'':12}{'predictions':>12}{'seconds':>10}{'us each':>10}{'mAP':>10}")
    timed("vectorised", dense_caption_map, random_images(args.predictions, *shape))
    part = random_images(args.loop_predictions, *shape)
    fast = timed("vectorised", dense_caption_map, part)
    slow = timed("loops", loops.dense_caption_map, part)
    print(f"loops take {slow / fast:.0f} times as long on {args.loop_predictions:,} predictions")


if __name__ == "__main__":
    main()
