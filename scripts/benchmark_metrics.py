"""Times dense-captioning mAP without METEOR, and METEOR by one process and by all cores.

    python scripts/benchmark_metrics.py [--predictions 250000] [--sentences 250000]

mAP: random predictions, by the metric and by the whole task from its files, against plain loops on
a part of them. A count of shared words stands in for METEOR there, whose time depends on the
sentences. METEOR: made captions by one process and by all cores; the scores must be the same.
"""

import argparse

from dynrefer.command_line import plain_parser


def parse() -> argparse.Namespace:
    """Command line."""
    parser = plain_parser(__doc__)
    parser.add_argument("--predictions", type=int, default=250_000)
    parser.add_argument("--loop-predictions", type=int, default=1_000)
    parser.add_argument("--per-image", type=int, default=50)
    parser.add_argument("--targets", type=int, default=30, help="ground truth boxes of an image")
    parser.add_argument("--sentences", type=int, default=250_000, help="for METEOR; 0 for none")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":  # before the imports that take seconds
    arguments = parse()

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dynrefer.datasets.annotations.index import AnnotationIndex
from dynrefer.metrics.dense_captions import DenseCaptionImage, dense_caption_map
from dynrefer.metrics.java import Meteor, usable_cores
from dynrefer.tasks import dense_captioning
from dynrefer.tasks.ground_truth import GroundTruth
from dynrefer.tasks.results import read_predictions
from tests.metrics import loops

COLOURS = ("red", "blue", "green", "white", "black", "brown", "yellow", "wooden", "large", "small")
THINGS = ("dog", "cat", "man", "woman", "table", "tree", "car", "bus", "plate", "window", "shirt")
PLACES = ("on", "near", "behind", "under", "in front of", "to the left of", "wearing", "with")
WIDTH, HEIGHT = 640, 480


def captions(rng: np.random.Generator, count: int) -> list[str]:
    """Made captions of seven words or more."""
    parts = [rng.choice(words, count) for words in (COLOURS, THINGS, PLACES, COLOURS, THINGS)]
    return ["a {} {} {} the {} {}".format(*words) for words in zip(*parts, strict=True)]


def random_images(
    num_predictions: int, per_image: int, targets: int, seed: int
) -> Iterator[tuple[np.ndarray, list[str], np.ndarray, list[str], np.ndarray]]:
    """Fields of ``DenseCaptionImage``: random ground truth, predictions scattered about it."""
    rng = np.random.default_rng(seed)
    while num_predictions > 0:
        count = min(per_image, num_predictions)
        num_predictions -= count
        corners = rng.uniform((0, 0), (500, 350), (targets, 2))
        truth = np.concatenate([corners, corners + rng.uniform(20, 140, (targets, 2))], axis=1)
        boxes = truth[rng.integers(targets, size=count)] + rng.uniform(-9, 9, (count, 4))
        yield truth, captions(rng, targets), boxes, captions(rng, count), rng.random(count)


def row(name: str, count: int, seconds: float, value: float) -> None:
    """Prints a row of the table."""
    print(f"{name:28}{count:12,}{seconds:10.2f}{1e6 * seconds / count:10.1f}{value:10.6f}")


def timed(name: str, compute: Callable, fields: list[tuple]) -> float:
    """Seconds that mAP of images takes, from their plain fields on."""
    count = sum(len(scores) for *_, scores in fields)
    began = time.perf_counter()
    result = compute([DenseCaptionImage(*values) for values in fields], loops.WordOverlap())
    seconds = time.perf_counter() - began
    row(name, count, seconds, result["map"])
    return seconds


class StandIn(loops.WordOverlap):
    """The count of shared words where the task starts METEOR; ``seconds`` sums up its time."""

    seconds = 0.0

    def scores(self, *pairs: list) -> tuple[float, list[float]]:
        began = time.perf_counter()
        scores = super().scores(*pairs)
        StandIn.seconds += time.perf_counter() - began
        return scores


def write_files(folder: Path, num_regions: int, per_image: int, seed: int) -> None:
    """``truth.json``, annotated regions, and ``results.jsonl``, one prediction for each of them."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, (500, 350), (num_regions, 2)).round(1).tolist()
    sides = rng.uniform(20, 140, (num_regions, 2)).round(1).tolist()
    said, true, scores = (
        captions(rng, num_regions),
        captions(rng, num_regions),
        rng.random(num_regions),
    )
    owners = [i // per_image for i in range(num_regions)]
    images = [
        {"id": i, "file_name": f"{i}.jpg", "width": WIDTH, "height": HEIGHT}
        for i in range(owners[-1] + 1)
    ]
    regions = [
        {"id": i, "image_id": owners[i], "bbox": corners[i] + sides[i], "caption": true[i]}
        for i in range(num_regions)
    ]
    (folder / "truth.json").write_text(json.dumps({"images": images, "annotations": regions}))
    with (folder / "results.jsonl").open("w") as lines:
        for i in range(num_regions):
            lines.write(json.dumps({"id": i, "caption": said[i], "score": scores[i]}) + "\n")


def time_task(num_regions: int, per_image: int, seed: int) -> None:
    """Prints the time of the task "dense_captioning" from its files on, without METEOR."""
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), num_regions, per_image, seed)
        index = AnnotationIndex.open(Path(folder) / "truth.json")
        began = time.perf_counter()
        predictions = read_predictions(Path(folder) / "results.jsonl")
        read = time.perf_counter() - began
        with mock.patch.object(dense_captioning, "Meteor", StandIn):
            task = dense_captioning.DenseCaptioning()
            metrics = task.evaluate(predictions, GroundTruth(index, vocabularies=None))
        seconds = time.perf_counter() - began - StandIn.seconds
    row("task, from files", num_regions, seconds, metrics["mAP"] / 100)
    print(f"({read:.2f} s of it for reading the result file)")


def time_meteor(num_sentences: int, seed: int) -> None:
    """Prints METEOR's time by one process and by as many as it takes, each with its start."""
    rng = np.random.default_rng(seed)
    references = [[caption] for caption in captions(rng, num_sentences)]
    candidates = captions(rng, num_sentences)
    measured = []
    for processes in (1, None):
        began = time.perf_counter()
        with Meteor(processes) as meteor:
            scores = meteor.scores(references, candidates)
            used = len(meteor.processes)
        seconds = time.perf_counter() - began
        measured.append((seconds, scores))
        print(f"METEOR, {num_sentences:,} sentences, {used} process(es): {seconds:.1f} s")
    (alone, expected), (together, found) = measured
    if found != expected:
        raise SystemExit("the scores of one process and of several differ")
    print(f"ratio {alone / together:.2f} on {usable_cores()} cores; all scores are equal")


def main(args: argparse.Namespace) -> None:
    """Runs the benchmark and prints its tables."""
    shape = args.per_image, args.targets, args.seed

    print(f"{'':28}{'predictions':>12}{'seconds':>10}{'us each':>10}{'mAP':>10}")
    timed("vectorised", dense_caption_map, list(random_images(args.predictions, *shape)))
    time_task(args.predictions, args.per_image, args.seed)
    part = list(random_images(args.loop_predictions, *shape))
    fast = timed("vectorised", dense_caption_map, part)
    slow = timed("loops", loops.dense_caption_map, part)
    print(f"loops take {slow / fast:.0f} times as long on {args.loop_predictions:,} predictions")
    if args.sentences:
        time_meteor(args.sentences, args.seed)


if __name__ == "__main__":
    main(arguments)
