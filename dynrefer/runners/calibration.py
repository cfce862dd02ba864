"""Calibration of views: a grid of view selectors, each evaluated with all tasks, resumable."""

import contextlib
import hashlib
import itertools
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

import dynrefer
from dynrefer.assets import local_path
from dynrefer.config import ConfigError, to_plain
from dynrefer.config.schema import SelectorConfig
from dynrefer.config.values import listed
from dynrefer.datasets.builders import skips_bad_records
from dynrefer.distributed import gather_objects, is_main
from dynrefer.models.dynrefer import DynRefer
from dynrefer.runners.evaluation import (
    evaluated_dataset,
    ground_truth,
    predict_split,
    score,
    tasks_of,
)
from dynrefer.tasks.ground_truth import GroundTruth
from dynrefer.tasks.task import Task

logger = logging.getLogger(__name__)

IMAGE_PRIOR = SelectorConfig("image_prior")


@dataclass(frozen=True)
class Point:
    """A view selector and the headline metric of each task with it."""

    selector: SelectorConfig
    scores: dict[str, float]


def grid(num_views: int, ratios: Sequence[float]) -> list[SelectorConfig]:
    """The image prior, then every ascending choice of V - 1 of the ratios.

    Raises ConfigError for one view, too few ratios, one twice, or one outside [0, 1].
    """
    distinct = sorted(set(ratios))
    if num_views < 2:
        raise ConfigError(f"model.num_views is {num_views}: the region alone, nothing to choose")
    if len(distinct) < len(ratios) or not all(0 <= ratio <= 1 for ratio in distinct):
        raise ConfigError(f"--ratios {list(ratios)}: valid are different numbers from 0 to 1")
    if len(distinct) < num_views - 1:
        raise ConfigError(
            f"--ratios {list(ratios)}: model.num_views is {num_views}, so {num_views - 1} ratios "
            "or more are needed"
        )
    choices = itertools.combinations(distinct, num_views - 1)
    return [IMAGE_PRIOR, *(SelectorConfig("task_prior", list(choice)) for choice in choices)]


def fingerprint(config: DictConfig, split: str, tasks: Sequence[Task], device: str) -> str:
    """Hash of what a score depends on besides the selector: settings, weights and annotations.

    Files count by path, size and time of change, folders by the files directly in them.
    """
    dataset = config.datasets[evaluated_dataset(config)]
    content = {
        "version": dynrefer.__version__,
        "model": to_plain(config.model),
        "dataset": to_plain(dataset),
        "split": split,
        "tasks": [task.name for task in tasks],
        "run": {key: config.run[key] for key in ("precision", "amp", "seed")},
        "device": device,
        "files": [_state(path) for path in _files(config, dataset, split)],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _files(config: DictConfig, dataset: DictConfig, split: str) -> list[Path]:
    """Weights, vocabularies and whatever the dataset names for the split."""
    model, words = config.model, config.model.vocabulary
    values = [config.run.load_ckpt_path, model.pretrained, model.vision.checkpoint]
    values += [words.tags, words.attributes, words.classes]
    values += [one.get(split) for one in dataset.build_info.values() if OmegaConf.is_dict(one)]
    return [Path(local_path(path)) for value in values for path in listed(value)]


def _state(path: Path) -> list:
    """Path (without links), and size and time of change of the file or of the folder's files."""
    inside = sorted(path.iterdir()) if path.is_dir() else [path]
    states = [(file.name, file.stat()) for file in inside if file.is_file()]
    return [str(path.resolve()), *([name, s.st_size, s.st_mtime_ns] for name, s in states)]


def read_points(path: Path, key: str) -> list[Point]:
    """The finished points of a fingerprint; logs how many there are and what else is there."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    records = []
    for text in lines:
        with contextlib.suppress(ValueError):  # the process ended while it wrote
            records.append(json.loads(text))
    used = [record for record in records if record["fingerprint"] == key]
    if lines:
        others, broken = len(records) - len(used), len(lines) - len(records)
        logger.info(
            "%s: %d points measured already, %d of other settings, weights or data and %d broken "
            "lines are not used; --fresh begins anew",
            path, len(used), others, broken,
        )  # fmt: skip
    return [Point(SelectorConfig(**one["selector"]), one["scores"]) for one in used]


def write_point(path: Path, key: str, point: Point) -> None:
    """Adds a point to those finished; a line that was cut off before it stays a line of its own."""
    torn = path.is_file() and not path.read_bytes().endswith(b"\n")
    with path.open("a", encoding="utf-8") as lines:
        lines.write(("\n" if torn else "") + json.dumps({"fingerprint": key, **asdict(point)}))
        lines.write("\n")


def measure(
    config: DictConfig, model: DynRefer, split: str, selector: SelectorConfig, truth: GroundTruth
) -> Point:
    """The headline metrics of a split with one selector; scored by the main process.

    Raises ValueError where a task has no headline metric on these images.
    """
    tasks = tasks_of(config)
    predictions = predict_split(config, model, split, OmegaConf.structured(selector), tasks)
    if not is_main():
        return Point(selector, {})
    if skips_bad_records(config.datasets[evaluated_dataset(config)]):
        truth = truth.of_readable_images({prediction.id for prediction in predictions})
    metrics = score(tasks, {one.id: asdict(one) for one in predictions}, truth)
    for task in tasks:
        if task.headline not in metrics[task.name]:
            raise ValueError(
                f"{task.name} has no '{task.headline}' on these images (only "
                f"{', '.join(metrics[task.name])}); leave --max-images out, or take another task"
            )
    return Point(selector, {task.name: metrics[task.name][task.headline] for task in tasks})


def measure_all(
    config: DictConfig,
    model: DynRefer,
    split: str,
    selectors: Sequence[SelectorConfig],
    path: Path,
) -> list[Point]:
    """The points of all selectors, in their order; those in ``path`` are not measured again."""
    truth = ground_truth(config, split, model.vocabularies)
    key = fingerprint(config, split, tasks_of(config), model.device.type)
    # Every process must leave out the same points, so what the main one has read counts.
    points = gather_objects(read_points(path, key) if is_main() else [])[0]
    missing = [one for one in selectors if one not in [point.selector for point in points]]
    began = time.perf_counter()
    for number, selector in enumerate(missing, start=1):
        point = measure(config, model, split, selector, truth)
        points.append(point)
        if is_main():
            write_point(path, key, point)
            left = (time.perf_counter() - began) / number * (len(missing) - number)
            scores = ", ".join(f"{task} {value:.2f}" for task, value in point.scores.items())
            progress = f"{number} of {len(missing)}, {left / 60:.1f} min left"
            logger.info("%s: %s (%s)", name_of(selector), scores, progress)
    by_name = {name_of(point.selector): point for point in points}
    return [by_name[name_of(selector)] for selector in selectors]


def name_of(selector: SelectorConfig) -> str:
    """What tables call a selector."""
    if selector.ratios is None:
        return selector.name.replace("_", " ")
    return " ".join(f"{ratio:g}" for ratio in selector.ratios)
