"""Times and weighs the data side of training: index, opening, workers, files against shards.

    python scripts/benchmark_data.py [--regions 1000000] [--files 2000] [--workers 2]

Makes an annotation file, JPEGs of 640 x 480 px that its images share, and shards of the JPEGs, in
a folder that is deleted afterwards (about 1.5 GB; --folder chooses where). Index and opening are
measured in processes of their own. "Cold" asks the system to forget the files (Linux).
"""

import argparse
from pathlib import Path

from dynrefer.command_line import plain_parser


def parse() -> argparse.Namespace:
    """Command line."""
    parser = plain_parser(__doc__)
    parser.add_argument("--regions", type=int, default=1_000_000)
    parser.add_argument("--files", type=int, default=2000, help="JPEGs")
    parser.add_argument("--workers", type=int, default=2, help="of the DataLoader")
    parser.add_argument("--batches", type=int, default=30, help="that a figure is measured over")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    return parser.parse_args()


if __name__ == "__main__":  # before the imports that take seconds
    arguments = parse()

import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterable

import cv2
import numpy as np
from torch.utils.data import DataLoader

from dynrefer.datasets.annotations import AnnotationIndex
from dynrefer.datasets.batch import RegionBatch
from dynrefer.datasets.loading import start_loading
from dynrefer.datasets.region_dataset import RegionDataset
from dynrefer.datasets.shards.reading import open_shards
from dynrefer.datasets.shards.writing import write_shards
from dynrefer.distributed import TrainingBatchSampler
from dynrefer.processors.caption import CaptionProcessor
from dynrefer.processors.control_words import ControlWordSampler
from dynrefer.processors.region_image import RegionImageProcessor
from dynrefer.progress import Progress
from dynrefer.views.selectors import StochasticSelector
from dynrefer.vocabulary import TagVocabulary

WIDTH, HEIGHT, REGIONS_AN_IMAGE = 640, 480, 50
TAGS = TagVocabulary(tuple(f"tag {number}" for number in range(4585)))
BATCH_SIZE = 64


def make_files(folder: Path, count: int) -> list[str]:
    """Names of JPEGs of blurred noise, about 100 kB each, in ``folder``/images."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    names = [f"{number:06d}.jpg" for number in range(count)]
    for name in Progress(names, desc="images", leave=False):
        noise = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        pixels = cv2.GaussianBlur(noise, (0, 0), 1)
        cv2.imwrite(str(folder / "images" / name), pixels)
    return names


def make_annotations(path: Path, names: list[str], num_images: int, num_regions: int) -> None:
    """An annotation file whose images share the files; captions and tags as of Visual Genome."""
    rng = np.random.default_rng(0)
    corners = rng.integers(0, (WIDTH - 200, HEIGHT - 200), (num_regions, 2)).tolist()
    sides = rng.integers(20, 200, (num_regions, 2)).tolist()
    tags = rng.integers(len(TAGS), size=(num_regions, 4)).tolist()
    images = (
        {"id": i, "file_name": names[i % len(names)], "width": WIDTH, "height": HEIGHT}
        for i in range(num_images)
    )
    regions = (
        {
            "id": i,
            "image_id": i * num_images // num_regions,
            "bbox": corners[i] + sides[i],
            "caption": f"a man in a red shirt number {i} beside the table",
            "extra_info": {"parser_result": {"tag_set1": tags[i][:2], "tag_set2": tags[i][2:]}},
        }
        for i in range(num_regions)
    )
    with path.open("w") as file:
        file.write('{"dataset": {"image_root": "images"}, "images": [')
        file.writelines(_joined(images))
        file.write('], "annotations": [')
        file.writelines(_joined(regions))
        file.write("]}")


def _joined(records: Iterable[dict]) -> Iterable[str]:
    return ((", " if i else "") + json.dumps(record) for i, record in enumerate(records))


def training(index: AnnotationIndex) -> RegionDataset:
    """The dataset of a training run: three drawn views of 224 px a region."""
    processor = RegionImageProcessor(224, StochasticSelector(3))
    words = ControlWordSampler(0.5, 0.5)
    return RegionDataset(index, processor, CaptionProcessor(), TAGS, control_words=words)


def loader_of(dataset: RegionDataset, workers: int) -> DataLoader:
    """Batches of shuffled regions as ``EpochRunner`` loads them."""
    sampler = TrainingBatchSampler(len(dataset), min(BATCH_SIZE, len(dataset)), seed=0)
    collate = RegionBatch.collate
    return DataLoader(dataset, batch_sampler=sampler, num_workers=workers, collate_fn=collate)


def open_index(path: Path) -> None:
    """What is measured as making an index, or as opening it for training."""
    dataset = training(AnnotationIndex.open(path, require_caption=True))
    next(iter(TrainingBatchSampler(len(dataset), 1, seed=0)))


def _measure(function: Callable[[Path], None], path: Path, results: multiprocessing.Queue) -> None:
    before = memory_of(os.getpid(), "status")["VmRSS"]
    began = time.perf_counter()
    function(path)
    seconds = time.perf_counter() - began
    results.put((seconds, memory_of(os.getpid(), "status")["VmHWM"] - before, before))


def in_a_process(function: Callable[[Path], None], path: Path) -> tuple[float, float, float]:
    """Seconds, MB of memory at the peak beyond those before, and those, in a fresh process."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=_measure, args=(function, path, results))
    process.start()
    measured = results.get()
    process.join()
    return measured


def memory_of(pid: int, file: str = "smaps_rollup") -> dict[str, float]:
    """Kinds of memory of a process in MB, from /proc."""
    lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    fields = (line.split() for line in lines if line.endswith(" kB"))
    return {field[0].rstrip(":"): int(field[1]) * 1024 / 1e6 for field in fields}


def weigh_workers(dataset: RegionDataset, workers: int, num_batches: int) -> None:
    """Prints what workers add: memory of their own (USS), and PSS, shared pages divided fairly."""
    before = memory_of(os.getpid())["Pss"]
    batches = start_loading(loader_of(dataset, workers))
    for _, _ in zip(range(num_batches), batches, strict=False):
        weights = [memory_of(worker.pid) for worker in multiprocessing.active_children()]
    after = sum(weight["Pss"] for weight in weights) + memory_of(os.getpid())["Pss"]
    own = max(weight["Private_Clean"] + weight["Private_Dirty"] for weight in weights)
    shared = max(weight["Pss"] for weight in weights)
    print(
        f"{len(dataset):>10,} regions, {workers} worker(s): USS {own:.0f} MB, PSS {shared:.0f} MB; "
        f"all processes' PSS grew by {(after - before) / workers:.0f} MB a worker"
    )


def samples_a_second(dataset: RegionDataset, workers: int, num_batches: int) -> float:
    """Regions a second that a loader gives, its start left out."""
    batches = start_loading(loader_of(dataset, workers))
    next(batches)
    began, regions = time.perf_counter(), 0
    for _, batch in zip(range(num_batches), batches, strict=False):
        regions += len(batch)
    return regions / (time.perf_counter() - began)


def forget(folder: Path) -> None:
    """Asks the system to drop the files of a folder from memory."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def reads_a_second(index: AnnotationIndex) -> tuple[float, float]:
    """Image files a second and MB a second, read in random order without decoding."""
    order = np.random.default_rng(0).permutation(index.num_images)
    began, size = time.perf_counter(), 0
    for image in order.tolist():
        with index.image(image).path.open("rb") as file:
            size += len(file.read())
    seconds = time.perf_counter() - began
    return len(order) / seconds, size / 1e6 / seconds


def compare_with_shards(folder: Path, names: list[str], workers: int, num_batches: int) -> None:
    """Prints reading and training from files and from shards, both of the same images."""
    path = folder / "files.json"
    make_annotations(path, names, len(names), len(names) * REGIONS_AN_IMAGE)
    AnnotationIndex.open(path)
    began = time.perf_counter()
    counts = write_shards(path, folder / "shards", progress=False)
    seconds = time.perf_counter() - began
    speed = counts.bytes / 1e6 / seconds
    print(f"{counts.images:,} images in {counts.shards} shards: {seconds:.1f} s, {speed:.0f} MB/s")
    open_shards(folder / "shards", require_caption=True)
    sources = {
        "files": (AnnotationIndex.open(path, require_caption=True), folder / "images"),
        "shards": (open_shards(folder / "shards", require_caption=True), folder / "shards"),
    }
    print(f"{'':22}{'images/s':>10}{'MB/s':>8}{'regions/s in training':>24}")
    for state in ("cold", "warm"):
        for name, (index, place) in sources.items():
            if state == "cold":
                forget(place)
            read, megabytes = reads_a_second(index)
            if state == "cold":
                forget(place)
            regions = samples_a_second(training(index), workers, num_batches)
            print(f"{name + ', ' + state:22}{read:10,.0f}{megabytes:8,.0f}{regions:24,.0f}")


def benchmark(folder: Path, arguments: argparse.Namespace) -> None:
    """Prints all figures."""
    names = make_files(folder, arguments.files)
    path = folder / "annotations.json"
    num_images = max(arguments.regions // REGIONS_AN_IMAGE, 1)
    make_annotations(path, names, num_images, arguments.regions)
    size = path.stat().st_size / 1e6
    print(f"{arguments.regions:,} regions of {num_images:,} images, {size:.0f} MB of JSON")
    seconds, peak, before = in_a_process(open_index, path)
    print(f"index made: {seconds:.1f} s, {peak:.0f} MB at the peak (libraries {before:.0f} MB)")
    seconds, peak, _ = in_a_process(open_index, path)
    print(f"opened for training, index there: {seconds:.2f} s, {peak:.0f} MB at the peak")
    small = folder / "small.json"
    make_annotations(small, names, min(200, num_images), min(10_000, arguments.regions))
    print(f"a worker, batches of {BATCH_SIZE} regions:")
    for file in (small, path):
        dataset = training(AnnotationIndex.open(file, require_caption=True))
        for workers in sorted({1, arguments.workers}):
            weigh_workers(dataset, workers, arguments.batches)
    compare_with_shards(folder, names, arguments.workers, arguments.batches)


def main(arguments: argparse.Namespace) -> None:
    """Runs the benchmark and prints its tables."""
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        benchmark(Path(folder), arguments)


if __name__ == "__main__":
    main(arguments)
