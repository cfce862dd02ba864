"""Evaluation: predictions of a split, each region exactly once over all processes, and scores."""

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from dynrefer.config import ConfigError
from dynrefer.config.values import listed
from dynrefer.datasets.builders import (
    DatasetRequest,
    RegionDatasets,
    annotation_files,
    build_dataset,
    image_limit,
    open_annotations,
    skips_bad_records,
)
from dynrefer.datasets.loading import make_loader, start_loading
from dynrefer.distributed import EvaluationSampler, gather_objects, is_main
from dynrefer.files import check_writable, file_stem
from dynrefer.models.dynrefer import DynRefer, RegionPrediction
from dynrefer.progress import Progress
from dynrefer.registry import registry
from dynrefer.runners.precision import autocast
from dynrefer.runners.report import JudgedTask, data_facts, write_results
from dynrefer.runners.run_folder import RESULTS
from dynrefer.tasks.ground_truth import GroundTruth
from dynrefer.tasks.published import published_numbers
from dynrefer.tasks.results import Predictions, read_predictions, write_predictions
from dynrefer.tasks.task import Task, choose_tasks
from dynrefer.vocabulary import Vocabularies

logger = logging.getLogger(__name__)

Metrics = dict[str, dict[str, float]]
FROM_CONFIG = "eval"  # label of results of the weights that the configuration names


def evaluated_dataset(config: DictConfig) -> str:
    """Name of the dataset to evaluate on: ``run.eval_dataset_name``, or the only one."""
    if not config.datasets:
        raise ConfigError("no dataset is configured; name one under `datasets`")
    name = config.run.eval_dataset_name or next(iter(config.datasets))
    if name not in config.datasets:
        raise ConfigError(
            f"run.eval_dataset_name: '{name}'; configured datasets: {', '.join(config.datasets)}"
        )
    return name


def tasks_of(config: DictConfig) -> list[Task]:
    """The tasks that judge the evaluated dataset."""
    return choose_tasks(config.run.task, config.run.tasks, evaluated_dataset(config))


def ground_truth(config: DictConfig, split: str, vocabularies: Vocabularies) -> GroundTruth:
    """What the predictions of a split are judged against.

    Raises FileNotFoundError, ConfigError or ValueError where annotations or instances are missing,
    more than one file, or broken; or a task does not take the boxes of a detector.
    """
    name = evaluated_dataset(config)
    dataset = config.datasets[name]
    files = annotation_files(dataset, name, split)
    annotated = list(dataset.build_info.ground_truth.get(split, []))
    for key, paths, counts in (("annotations", files, (1,)), ("ground_truth", annotated, (0, 1))):
        if len(paths) not in counts:
            raise ConfigError(
                f"datasets.{name}.build_info.{key}.{split} lists {len(paths)} files; evaluation "
                "takes one"
            )
    others = [task.name for task in tasks_of(config) if not task.takes_detections]
    if annotated and others:
        raise ConfigError(
            f"datasets.{name}.build_info.ground_truth.{split}: {', '.join(others)} judges "
            "annotated regions alone; dense_captioning takes other boxes"
        )
    instances = dataset.build_info.instances.get(split) or None
    if instances is not None and not Path(instances).is_file():
        key = f"datasets.{name}.build_info.instances.{split}"
        raise FileNotFoundError(f"no COCO instances file at {instances}; {key} sets it")
    index, *others = [open_annotations(dataset, path, False) for path in files + annotated]
    instances, limit = instances and Path(instances), image_limit(dataset)
    return GroundTruth(index, vocabularies, instances, limit, *others)


def check_evaluation(config: DictConfig, splits: Sequence[str], vocabularies: Vocabularies) -> None:
    """Raises what an evaluation of the splits would raise before its first prediction.

    A run that trains for days then does not end at its first evaluation.
    """
    for split in splits:
        truth = ground_truth(config, split, vocabularies)
        for selector, tasks in _passes(config, tasks_of(config)):
            _dataset(config, split, selector, vocabularies)
            for task in tasks:
                task.check(truth)


def evaluate(
    config: DictConfig, model: DynRefer, split: str, output_dir: Path, label: str
) -> Metrics:
    """Predicts a split and scores it with every task of the run.

    Tasks with the same view selector share one pass, and a pass runs only the decoders that its
    tasks need. Writes ``results/<dataset>-<split>-<label>[-n].jsonl``, ``metrics-...json``, a table
    ``metrics-...md`` and a page ``regions-...html``. Every process gets the metrics by task.
    """
    truth = ground_truth(config, split, model.vocabularies)
    stem = file_stem(f"{evaluated_dataset(config)}-{split}-{label}")
    metrics: Metrics = {}
    judged: list[JudgedTask] = []
    views: list[str] = []
    seconds = 0.0
    for number, (selector, tasks) in enumerate(_passes(config, tasks_of(config))):
        began = time.perf_counter()
        predictions = predict_split(config, model, split, selector, tasks)
        seconds += time.perf_counter() - began
        if skips_bad_records(config.datasets[evaluated_dataset(config)]):
            truth = truth.of_readable_images({prediction.id for prediction in predictions})
        ratios = "" if selector.ratios is None else f" {list(selector.ratios)}"
        views.append(f"{selector.name}{ratios} ({', '.join(task.name for task in tasks)})")
        if is_main():
            suffix = f"-{number + 1}" if number else ""
            path = output_dir / RESULTS / f"{stem}{suffix}.jsonl"
            ordered = _in_file_order(predictions, truth)
            write_predictions(path, ordered)
            logger.info("%d predictions in %s", len(ordered), path)
            by_id = {prediction.id: asdict(prediction) for prediction in ordered}
            metrics |= score(tasks, by_id, truth)
            judged += _judged(config, split, tasks, metrics, by_id)
    if is_main():
        weights = listed(config.run.load_ckpt_path) or listed(config.model.pretrained)
        facts = data_facts(evaluated_dataset(config), split, truth) | {
            "weights": weights if label == FROM_CONFIG else f"{label} of {output_dir}",
            "views": views,
            "seconds": round(seconds, 1),
        }
        facts["regions per second"] = round(len(views) * facts["regions"] / seconds, 1)
        pages = output_dir / f"metrics-{stem}.json", output_dir / f"regions-{stem}.html"
        write_results(*pages, config, facts, judged, truth)
    return gather_objects(metrics)[0]


def predict_split(
    config: DictConfig, model: DynRefer, split: str, selector: DictConfig, tasks: Sequence[Task]
) -> list[RegionPrediction]:
    """Predictions of all regions of a split, gathered from all processes, in no fixed order."""
    dataset = _dataset(config, split, selector, model.vocabularies)
    order = {"batch_size": config.run.batch_size_eval, "sampler": EvaluationSampler(len(dataset))}
    loader = make_loader(dataset, config.run, model.device, **order)
    decoders = frozenset().union(*(task.decoders for task in tasks))
    predictions: list[RegionPrediction] = []
    model.eval()
    label = f"predict {evaluated_dataset(config)} {split}"
    for batch in Progress(start_loading(loader), desc=label, total=len(loader), unit="batch"):
        for chunk in batch.to(model.device, non_blocking=True).chunks(config.run.split_size):
            with autocast(config, model.device):
                predictions += model.predict(chunk, decoders)
    dataset.report_unreadable()
    return [prediction for part in gather_objects(predictions) for prediction in part]


def _dataset(
    config: DictConfig, split: str, selector: DictConfig, vocabularies: Vocabularies
) -> RegionDatasets:
    name = evaluated_dataset(config)
    tags = vocabularies.tags
    return build_dataset(DatasetRequest.of(config, name, split, selector, tags, training=False))


def score(tasks: Sequence[Task], predictions: Predictions, truth: GroundTruth) -> Metrics:
    """Metrics of each task."""
    metrics = {}
    for task in tasks:
        logger.info("scoring %s", task.name)
        metrics[task.name] = task.evaluate(predictions, truth)
    return metrics


def headline(metrics: Metrics, tasks: Sequence[Task]) -> float:
    """The number that picks the best checkpoint: the mean of the tasks' headline metrics."""
    return sum(metrics[task.name][task.headline] for task in tasks) / len(tasks)


def score_file(config: DictConfig, split: str, path: Path, truth: GroundTruth) -> Metrics:
    """Scores a result file; writes its metrics, table and page beside it."""
    tasks = tasks_of(config)
    pages = path.with_suffix(".metrics.json"), path.with_suffix(".regions.html")
    for page in pages:
        check_writable(page)
    for task in tasks:
        task.check(truth)
    predictions = read_predictions(path, truth)
    metrics = score(tasks, predictions, truth)
    judged = _judged(config, split, tasks, metrics, predictions)
    facts = data_facts(evaluated_dataset(config), split, truth) | {"result file": str(path)}
    write_results(*pages, config, facts, judged, truth)
    return metrics


def published(config: DictConfig, split: str) -> Metrics:
    """The paper's numbers for what is evaluated, by task.

    They are of whole splits and annotated boxes, so there are none for less, or for others.
    """
    name = evaluated_dataset(config)
    dataset = config.datasets[name]
    if dataset.build_info.ground_truth.get(split):
        return {}
    path = annotation_files(dataset, name, split)[0]
    if image_limit(dataset) < open_annotations(dataset, path, training=False).num_images:
        return {}
    return {task.name: published_numbers(name, split, task.name) for task in tasks_of(config)}


def _judged(
    config: DictConfig, split: str, tasks: Sequence[Task], metrics: Metrics, said: Predictions
) -> list[JudgedTask]:
    known = published(config, split)
    return [JudgedTask(t, metrics[t.name], said, known.get(t.name, {})) for t in tasks]


def _passes(config: DictConfig, tasks: Sequence[Task]) -> list[tuple[DictConfig, list[Task]]]:
    """Tasks grouped by view selector."""
    # One list of selectors serves all benchmarks, so tasks that do not run may have one.
    for name in config.run.view_selectors:
        registry.get("task", name)
    passes: dict[str, tuple[DictConfig, list[Task]]] = {}
    for task in tasks:
        selector = config.run.view_selectors.get(task.name, config.run.view_selector)
        passes.setdefault(OmegaConf.to_yaml(selector), (selector, []))[1].append(task)
    return list(passes.values())


def _in_file_order(
    predictions: Sequence[RegionPrediction], truth: GroundTruth
) -> list[RegionPrediction]:
    """Predictions in the order of the annotations; each region once, or RuntimeError."""
    by_id = {prediction.id: prediction for prediction in predictions}
    ids = [region.id for region in truth.regions()]
    missing = [id_ for id_ in ids if id_ not in by_id]
    if missing or len(predictions) != len(ids):
        raise RuntimeError(
            f"{len(predictions)} predictions of {len(by_id)} regions, {len(ids)} regions are "
            f"annotated; missing {missing[:5]}"
        )
    return [by_id[id_] for id_ in ids]
