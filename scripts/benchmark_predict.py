"""Regions a second of RegionPredictor: one by one, image by image, and as a stream in batches.

    python scripts/benchmark_predict.py                 # the quickstart's model on its test images
    python scripts/benchmark_predict.py --full-size     # FLAN-T5-XL's model, random, on a GPU
    python scripts/benchmark_predict.py --checkpoint DIR --annotations FILE.json --threads 4

Prints a Markdown table, how long the parts of a stream take, and whether all three say the same.
"""

import argparse
from pathlib import Path

from dynrefer.command_line import at_least, entry_point, plain_parser


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = plain_parser(__doc__)
    parser.add_argument(
        "--checkpoint", type=Path, default=Path("output/shapes/checkpoints/last"), help="folder"
    )
    parser.add_argument(
        "--annotations", type=Path, default=Path("data/shapes/test.json"), help="images and boxes"
    )
    parser.add_argument("--regions", type=at_least(1), default=400, help="of a stream (400)")
    parser.add_argument("--single", type=at_least(1), default=40, help="one by one (40)")
    parser.add_argument("--threads", type=at_least(0), help="that prepare images")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--full-size", action="store_true", help="random weights of full size")
    parser.add_argument("--tiny", action="store_true", help="--full-size's code, tiny")
    return parser.parse_args(arguments)


if __name__ == "__main__":  # before the imports that take seconds
    arguments = parse()

import itertools
import runpy
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image

from dynrefer.datasets.annotations import AnnotationIndex
from dynrefer.datasets.builders import build_view_selector
from dynrefer.distributed import device_of
from dynrefer.models.builders import build_model
from dynrefer.predictor import RegionPredictor, RegionRequest, RegionResult

SIZE, REGIONS_PER_IMAGE = (640, 480), 8


def annotated(path: Path) -> Iterator[RegionRequest]:
    """The images of an annotation file, each with all its regions."""
    index = AnnotationIndex.open(path)
    for number in range(index.num_images):
        regions = [index.region(position) for position in index.regions_of_image(number)]
        boxes = [region.box for region in regions]
        yield RegionRequest(index.image(number).path, boxes, turn=False)


def drawn(folder: Path) -> Iterator[RegionRequest]:
    """Any number of JPEG files of noise, in which boxes lie at random."""
    rng = np.random.default_rng(0)
    for number in itertools.count():
        path = folder / f"{number}.jpg"
        small = rng.integers(0, 256, (SIZE[1] // 8, SIZE[0] // 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize(SIZE).save(path)
        starts = rng.uniform(0, 0.6, (REGIONS_PER_IMAGE, 2)) * SIZE
        sides = rng.uniform(0.1, 0.4, (REGIONS_PER_IMAGE, 2)) * SIZE
        yield RegionRequest(path, np.hstack([starts, starts + sides]))


def full_size_predictor(folder: Path, device: str, tiny: bool) -> RegionPredictor:
    """The published model with random weights; frozen parts in bf16 on a GPU."""
    sizes = runpy.run_path(str(Path(__file__).with_name("benchmark_full_size.py")))
    fields = sizes["TINY_T5" if tiny else "FLAN_T5_XL"]
    config = sizes["full_config"]("dynrefer_flant5xl", fields, folder / "model", tiny)
    target = device_of(device, "device")
    torch.manual_seed(0)
    with target:
        model = build_model(config.model).to(target)
    selector = build_view_selector(config.run.view_selector, config.model.num_views)
    dtype = torch.bfloat16 if target.type == "cuda" else None
    return RegionPredictor(model, selector, config.model.image_size, config.run.split_size, dtype)


def cut(requests: Iterator[RegionRequest], regions: int) -> list[RegionRequest]:
    """The first requests that have so many regions together, or all."""
    chosen: list[RegionRequest] = []
    while sum(len(request.boxes) for request in chosen) < regions:
        request = next(requests, None)
        if request is None:
            break
        chosen.append(request)
    return chosen


def timed(work: Callable[[], list[RegionResult]]) -> tuple[list[RegionResult], float]:
    """What the work returns, and regions a second."""
    began = time.perf_counter()
    results = work()
    return results, len(results) / (time.perf_counter() - began)


def disagreement(one: list[RegionResult], other: list[RegionResult]) -> str:
    """How much two ways say different things of the same regions."""
    pairs = list(zip(one, other, strict=False))
    captions = sum(a.prediction.caption != b.prediction.caption for a, b in pairs)
    gaps = [
        np.abs(np.subtract(getattr(a.prediction, name), getattr(b.prediction, name))).max()
        for a, b in pairs
        for name in ("score", "attributes", "class_logits")
    ]
    return f"{captions} of {len(pairs)} captions differ, scores by {max(gaps):.1e} at most"


def shares(predictor: RegionPredictor, work: Callable[[], Any]) -> Iterator[tuple[str, float]]:
    """Seconds that the parts of the model and the preparation of images take in some work."""
    model, spent = predictor.model, {}

    def watch(owner: Any, name: str, label: str) -> Callable[[], None]:
        method = getattr(owner, name)

        def measured(*given: Any, **more: Any) -> Any:
            began = time.perf_counter()
            result = method(*given, **more)
            if model.device.type == "cuda":
                torch.cuda.synchronize()
            spent[label] = spent.get(label, 0.0) + time.perf_counter() - began
            return result

        setattr(owner, name, measured)
        return lambda: delattr(owner, name)

    undo = [
        watch(predictor.processor, "cut", "views are cut"),
        watch(model, "queries", "vision, fusion, Q-Former"),
        watch(model, "judge", "tags, attributes, classes"),
        watch(model, "write_captions", "captions"),
    ]
    work()
    for restore in undo:
        restore()
    yield from spent.items()


def main(arguments: argparse.Namespace) -> None:
    """Prints the table."""
    with tempfile.TemporaryDirectory() as name:
        if arguments.full_size or arguments.tiny:
            predictor = full_size_predictor(Path(name), arguments.device, arguments.tiny)
            requests = cut(drawn(Path(name)), arguments.regions)
        else:
            predictor = RegionPredictor.from_checkpoint(arguments.checkpoint, arguments.device)
            requests = cut(annotated(arguments.annotations), arguments.regions)
        singles = [(r, box) for r in requests for box in r.boxes][: arguments.single]
        few = cut(iter(requests), arguments.single)

        def one_by_one() -> list[RegionResult]:
            return [predictor.predict(request.image, [box])[0] for request, box in singles]

        def by_image() -> list[RegionResult]:
            return [result for r in few for result in predictor.predict(r.image, r.boxes)]

        def stream() -> list[RegionResult]:
            results = predictor.predict_many(requests, threads=arguments.threads)
            return [region for result in results for region in result.regions]

        predictor.predict(few[0].image, few[0].boxes)  # what is done once
        device = predictor.model.device
        kind = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
        print(f"{kind}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
        print("| way | regions | regions a second | times as fast |\n| --- | ---: | ---: | ---: |")
        found, first = {}, None
        ways = {"region by region": one_by_one, "image by image": by_image, "stream": stream}
        for label, work in ways.items():
            found[label], rate = timed(work)
            first = first or rate
            count = len(found[label])
            print(f"| {label} | {count} | {rate:.1f} | {rate / first:.1f} |", flush=True)
        print()
        for label, seconds in shares(predictor, stream):
            print(f"{label}: {seconds:.2f} s")
        print(f"stream and region by region: {disagreement(*list(found.values())[::2])}")


if __name__ == "__main__":
    entry_point(main, arguments)
