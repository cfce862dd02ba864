"""Prints the results of some runs beside chance, and saves the table.

    python scripts/compare_results.py --truth configs/train/shapes.yaml \\
        --metrics DynRefer=output/shapes/metrics-shapes-test-last.json --out results.md

Chance knows the training split and no image: the most frequent class, each attribute's share of
positives for every region (so its AP is the share among the evaluated labels), and for every
region a random training caption with a random score. The project's own tasks score it. Of each kind
of word, "said" is the share of captions that name one, "right" of those that name the true one, of
the regions of which it is known.
"""

import argparse
from pathlib import Path

from dynrefer.command_line import entry_point, plain_parser


def comparison_parser() -> argparse.ArgumentParser:
    """The arguments of the comparison."""
    parser = plain_parser(__doc__)
    parser.add_argument(
        "--metrics", nargs="+", default=[], metavar="NAME=FILE", help="metrics of a run"
    )
    parser.add_argument("--truth", type=Path, required=True, help="configuration with the data")
    parser.add_argument("--split", default="test")
    parser.add_argument("--seed", type=int, default=0, help="of the random captions")
    parser.add_argument("--out", type=Path, help="also write the table here, as Markdown")
    return parser


if __name__ == "__main__":  # before the imports that take seconds
    arguments = comparison_parser().parse_args()

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from omegaconf import DictConfig

from dynrefer.config import load_config
from dynrefer.datasets.builders import annotation_files, open_annotations
from dynrefer.datasets.shapes.language import KINDS
from dynrefer.files import check_writable, write_text
from dynrefer.metrics.instances import is_number
from dynrefer.models.builders import load_vocabularies
from dynrefer.runners.evaluation import (
    Metrics,
    evaluated_dataset,
    ground_truth,
    score,
    tasks_of,
)
from dynrefer.tasks.attributes import AttributeDetection
from dynrefer.tasks.captioning import RegionCaptioning
from dynrefer.tasks.ground_truth import GroundTruth
from dynrefer.tasks.recognition import RegionRecognition
from dynrefer.tasks.results import Prediction
from dynrefer.tasks.task import Task
from dynrefer.vocabulary import read_json

# task, metric, what the table calls it
ROWS = (
    ("region_recognition", "accuracy", "recognition, accuracy"),
    ("attribute_detection", "mAP all", "attributes, mAP all"),
    ("attribute_detection", "mAP head", "attributes, mAP head"),
    ("attribute_detection", "mAP medium", "attributes, mAP medium"),
    ("attribute_detection", "mAP tail", "attributes, mAP tail"),
    ("attribute_detection", "mAP color", "attributes, mAP colours"),
    ("attribute_detection", "mAP pattern", "attributes, mAP textures"),
    ("attribute_detection", "mAP size", "attributes, mAP sizes"),
    ("attribute_detection", "mAP relation", "attributes, mAP relations"),
    ("attribute_detection", "mAP place", "attributes, mAP places"),
    ("attribute_detection", "mAP ground", "attributes, mAP grounds"),
    ("region_captioning", "CIDEr", "captions, CIDEr"),
    ("region_captioning", "METEOR", "captions, METEOR"),
    ("dense_captioning", "mAP", "dense captions, mAP"),
    *(
        ("caption_words", f"{kind} {hit}", f"captions, {kind} {hit}")
        for kind in KINDS
        for hit in ("said", "right")
    ),
)


def chance_predictions(
    training: Sequence[GroundTruth], truth: GroundTruth, seed: int
) -> dict[int | str, Prediction]:
    """A prediction for every region of ``truth`` that depends on the training regions alone."""
    rng = np.random.default_rng(seed)
    captions = [references[0] for references in _labels(RegionCaptioning(), training)]
    (most_frequent, _), *_ = Counter(_labels(RegionRecognition(), training)).most_common(1)
    class_logits = np.eye(len(truth.vocabularies.classes))[most_frequent].tolist()
    labels = np.array(_labels(AttributeDetection(), training))
    positive, labelled = (labels == 1).sum(axis=0), (labels >= 0).sum(axis=0)
    attributes = (positive / np.maximum(labelled, 1)).tolist()
    return {
        region.id: {
            "caption": captions[rng.integers(len(captions))],
            "score": float(rng.random()),
            "class_logits": class_logits,
            "attributes": attributes,
        }
        for region in truth.regions()
    }


def _labels(task: Task, training: Sequence[GroundTruth]) -> list[Any]:
    return [label for part in training for _, label in task.labelled(part)]


def chance(config: DictConfig, split: str, seed: int) -> Metrics:
    """Metrics of chance on a split, by the tasks of the configuration."""
    name = evaluated_dataset(config)
    dataset, vocabularies = config.datasets[name], load_vocabularies(config.model)
    files = annotation_files(dataset, name, "train")
    training = [
        GroundTruth(open_annotations(dataset, path, training=True), vocabularies) for path in files
    ]
    truth = ground_truth(config, split, vocabularies)
    for task in tasks_of(config):
        task.check(truth)
    return score(tasks_of(config), chance_predictions(training, truth, seed), truth)


def read_metrics(path: Path) -> Metrics:
    """The metrics of a run's ``metrics-....json``; FileNotFoundError and ValueError name it."""
    if not path.is_file():
        raise FileNotFoundError(f"no metrics at {path}; train.py and evaluate.py write them")
    content = read_json(path, "--metrics")
    missing = [f"{task} {metric}" for task, metric, _ in ROWS if not _has(content, task, metric)]
    if missing:
        raise ValueError(f"{path} has no {', '.join(missing)}")
    return content["metrics"]


def _has(content: Any, task: str, metric: str) -> bool:
    for key in ("metrics", task, metric):
        content = content.get(key) if isinstance(content, dict) else None
    return is_number(content)


def table(columns: dict[str, Metrics]) -> str:
    """Markdown: a row a metric (percent), a column a model."""
    widths = [max(len(name), 7) for name in columns]
    label = max(len(text) for _, _, text in ROWS)
    lines = [
        _line("", label, [name.rjust(w) for name, w in zip(columns, widths, strict=True)]),
        _line("-" * label, label, ["-" * (width - 1) + ":" for width in widths]),
    ]
    for task, metric, text in ROWS:
        values = [
            f"{metrics[task][metric]:.1f}".rjust(width)
            for metrics, width in zip(columns.values(), widths, strict=True)
        ]
        lines.append(_line(text, label, values))
    return "\n".join(lines) + "\n"


def _line(first: str, width: int, cells: list[str]) -> str:
    return f"| {first:{width}} | {' | '.join(cells)} |"


def main(arguments: argparse.Namespace) -> None:
    """Reads the runs' metrics, computes chance, prints and saves the table."""
    runs = {}
    for pair in arguments.metrics:
        name, equals, path = pair.partition("=")
        if not (name and equals and path):
            raise ValueError(f"--metrics '{pair}' is not of the form NAME=FILE")
        runs[name] = read_metrics(Path(path))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        check_writable(arguments.out)
    config = load_config(arguments.truth)
    text = table({"chance": chance(config, arguments.split, arguments.seed), **runs})
    print(f"{arguments.split} split, percent\n\n{text}")
    if arguments.out:
        write_text(arguments.out, text)


if __name__ == "__main__":
    entry_point(main, arguments)
