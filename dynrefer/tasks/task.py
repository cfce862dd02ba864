"""What a task is: the decoders that run, and the metric that judges."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from dynrefer.datasets.annotations import RegionRecord
from dynrefer.registry import registry
from dynrefer.tasks.ground_truth import GroundTruth
from dynrefer.tasks.region_scores import RegionWords
from dynrefer.tasks.results import Predictions, ResultFile, fault_of


class Task(ABC):
    """A benchmark: which decoders it needs and how predictions are scored.

    ``field`` is what it judges of a prediction; ``headline`` names the metric that picks the best
    checkpoint, in percent; ``label_name`` what a region must carry to be judged; ``score_name``
    says what the score of a single region is; ``takes_detections`` whether predicted regions may be
    other ones than the annotated regions (``GroundTruth.annotated``).
    """

    name: str
    decoders: frozenset[str]
    field: str
    headline: str
    label_name: str
    score_name: str
    takes_detections: bool = False

    def check(self, truth: GroundTruth) -> None:
        """Raises ValueError for what ``evaluate`` could not judge by, before anything is predicted.

        It names the file, the region, the field and what is valid.
        """
        self.labelled(truth)

    def labelled(self, truth: GroundTruth) -> list[tuple[RegionRecord, Any]]:
        """The regions that have a label, with it; ValueError where none has one."""
        pairs = ((region, self.label(region, truth)) for region in truth.regions())
        labelled = [(region, label) for region, label in pairs if label is not None]
        if not labelled:
            raise ValueError(f"{truth.index.source}: no region has {self.label_name}")
        return labelled

    @abstractmethod
    def label(self, region: RegionRecord, truth: GroundTruth) -> Any:
        """What is true of a region; None where it does not say. ValueError for a wrong label."""

    def names(self, truth: GroundTruth) -> Sequence[str] | None:
        """What each number of ``field`` belongs to; None where the field is no list."""
        return None

    @abstractmethod
    def evaluate(self, predictions: Predictions, truth: GroundTruth) -> dict[str, float]:
        """Metrics of predictions by region id.

        Raises ValueError as ``check`` does, and for regions without a prediction, or predictions
        without the needed field or with one of another kind.
        """

    @staticmethod
    @abstractmethod
    def score(said: Any, label: Any) -> float | None:
        """How well ``field`` of one region was predicted, higher is better."""

    @staticmethod
    @abstractmethod
    def words(said: Any, label: Any, names: Any) -> RegionWords:
        """What a report shows of a region; nothing true of one without a label."""

    def region_scores(self, predictions: Predictions, truth: GroundTruth) -> dict[int | str, float]:
        """``region_score`` of the predicted regions that have one, by region id."""
        pairs = ((r.id, self.region_score(predictions, r, truth)) for r in truth.regions())
        return {id_: score for id_, score in pairs if score is not None}

    def region_score(
        self, predictions: Predictions, region: RegionRecord, truth: GroundTruth
    ) -> float | None:
        """``score`` of a region; None where it has no label. Raises ValueError as ``evaluate``."""
        label = self.label(region, truth)
        return None if label is None else self.score(self.said(predictions, region, truth), label)

    def region_words(
        self, predictions: Predictions, region: RegionRecord, truth: GroundTruth
    ) -> RegionWords:
        """``words`` of a region. Raises ValueError as ``evaluate``."""
        said, label = self.said(predictions, region, truth), self.label(region, truth)
        return self.words(said, label, self.names(truth))

    def matrix(
        self, predictions: Predictions, regions: Iterable[RegionRecord], truth: GroundTruth
    ) -> np.ndarray:
        """``field`` of the regions, which is a list of numbers, float32 [regions, numbers]."""
        rows = [self.said(predictions, region, truth) for region in regions]
        return np.array(rows, dtype=np.float32)

    def said(
        self, predictions: Predictions, region: RegionRecord, truth: GroundTruth, field: str = ""
    ) -> Any:
        """``field`` of a region's prediction, or another one.

        ValueError names file, region and field if it is missing or of another kind.
        """
        field, names = field or self.field, self.names(truth)
        prediction = predictions.get(region.id)
        value = None if prediction is None else prediction.get(field)
        if value is None:
            lacking = "prediction" if prediction is None else field
            fault = f" has no {lacking} ({len(predictions)} predictions)"
        elif fault := fault_of(value, field, None if names is None else len(names)):
            fault = f": '{field}' {fault}"
        if not fault:
            return value
        source = f"{predictions.source}: " if isinstance(predictions, ResultFile) else ""
        raise ValueError(f"{source}{self.name}: region {region.id!r}{fault}")


def extra_info(region: RegionRecord, part: str, key: str, truth: GroundTruth) -> Any:
    """``extra_info.<part>.<key>`` of a region; None where there is none, or null in its place."""
    values = region.extra_info.get(part)
    if values is None:
        return None
    if not isinstance(values, Mapping):
        raise wrong_label(region, f"{part} is {values!r:.60}, must be an object", truth)
    return values.get(key)


def wrong_label(region: RegionRecord, fault: str, truth: GroundTruth) -> ValueError:
    """The error for a field of ``extra_info`` that cannot be judged by."""
    return ValueError(f"{truth.index.source}: region {region.id!r}: extra_info.{fault}")


# The release has one task, "dynrefer", and tells benchmarks by the dataset's name, in this order.
_RELEASE_BENCHMARKS = {
    "reg": "region_captioning",
    "refcoco": "region_captioning",
    "ovad": "attribute_detection",
    "lvis": "lvis_detection",
    "imagenet_s": "imagenet_s",
    "vg": "dense_captioning",
    "grit": "dense_captioning",
    "coco": "region_recognition",
}


def choose_tasks(task: str, tasks: Sequence[str] | None, dataset: str) -> list[Task]:
    """The tasks of a run: those listed, else the one named, else by the dataset's name.

    Raises KeyError for a task that is not registered, ValueError for the release's task "dynrefer"
    with a dataset whose name tells no benchmark.
    """
    names = tasks or [task]
    if task != "dynrefer":
        registry.get("task", task)  # where a list takes its place, too
    elif not tasks:
        names = [name for part, name in _RELEASE_BENCHMARKS.items() if part in dataset][:1]
    if not names:
        raise ValueError(
            f"run.task 'dynrefer' finds no benchmark by the name of dataset '{dataset}'; list "
            f"tasks in run.tasks; valid: {', '.join(registry.names('task'))}"
        )
    return [registry.get("task", name)() for name in names]
