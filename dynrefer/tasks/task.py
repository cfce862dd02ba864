"""What a task is: the decoders that run, and the metric that judges."""

import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dynrefer.datasets.annotations import AnnotationIndex, RegionRecord
from dynrefer.files import write_atomically
from dynrefer.models.dynrefer import RegionPrediction
from dynrefer.registry import registry
from dynrefer.tasks.region_scores import RegionWords
from dynrefer.tasks.release_results import read_release_results
from dynrefer.vocabulary import Vocabularies

Prediction = Mapping[str, Any]


@dataclass(frozen=True)
class GroundTruth:
    """What predictions are judged against.

    ``index`` holds the regions that are predicted, of which those of the first ``max_images``
    images count. They are annotated themselves; or ``annotated`` holds the annotated regions of the
    same images, where those of ``index`` are the boxes of a detector. ``instances`` is COCO's
    instances file where the dataset has one; ``vocabularies`` give attributes and classes their
    order.
    """

    index: AnnotationIndex
    vocabularies: Vocabularies
    instances: Path | None = None
    max_images: int | None = None
    annotated: AnnotationIndex | None = None

    @property
    def is_whole(self) -> bool:
        """Whether all images of the annotation file count."""
        return self.max_images is None or self.max_images >= self.index.num_images

    @property
    def num_images(self) -> int:
        """How many images count."""
        number = self.index.num_images
        return number if self.max_images is None else min(self.max_images, number)

    def image_ids(self) -> dict[int | str, int]:
        """Position in ``index`` of each image that counts, by its id."""
        return {self.index.image(i).id: i for i in range(self.num_images)}

    def images(self) -> Iterator[list[RegionRecord]]:
        """The predicted regions of each image that has any, in the order of the file."""
        for position in range(self.num_images):
            regions = _regions(self.index, position)
            if regions:
                yield regions

    def regions(self) -> Iterator[RegionRecord]:
        """All predicted regions, in the order of the file."""
        return itertools.chain.from_iterable(self.images())

    def annotated_regions(self, region: RegionRecord) -> list[RegionRecord]:
        """The annotated regions of a detector's box's image, which ``annotated`` holds."""
        return _regions(self.annotated, self._annotated_places[region.image_id])

    @cached_property
    def _annotated_places(self) -> dict[int | str, int]:
        return {self.annotated.image(i).id: i for i in range(self.annotated.num_images)}

    def annotated_images(self) -> Iterator[tuple[list[RegionRecord], list[RegionRecord]]]:
        """The annotated and the predicted regions of each image that has any of them.

        Raises:
            ValueError: ``index`` has an image that ``annotated`` does not have.
        """
        if self.annotated is None:
            yield from ((regions, regions) for regions in self.images())
            return
        places = self.image_ids()
        missing = set(places)
        for position in range(self.annotated.num_images):
            image_id = self.annotated.image(position).id
            missing.discard(image_id)
            if image_id in places or self.is_whole:
                predicted = _regions(self.index, places[image_id]) if image_id in places else []
                annotated = _regions(self.annotated, position)
                if annotated or predicted:
                    yield annotated, predicted
        if missing:
            raise ValueError(
                f"{self.index.source}: {len(missing)} images are not in {self.annotated.source}, "
                f"e.g. image id {next(iter(missing))!r}"
            )


def _regions(index: AnnotationIndex, image: int) -> list[RegionRecord]:
    return [index.region(i) for i in index.regions_of_image(image)]


class Task(ABC):
    """A benchmark: which decoders it needs and how predictions are scored.

    ``headline`` names the metric that picks the best checkpoint, in percent; ``score_name`` says
    what the score of a single region is; ``takes_detections`` whether predicted regions may be
    other ones than the annotated regions (``GroundTruth.annotated``).
    """

    name: str
    decoders: frozenset[str]
    headline: str
    score_name: str
    takes_detections: bool = False

    @abstractmethod
    def evaluate(
        self, predictions: Mapping[int | str, Prediction], truth: GroundTruth
    ) -> dict[str, float]:
        """Metrics of predictions by region id.

        Raises:
            ValueError: regions without a prediction, or predictions without the needed field.
        """

    def region_scores(
        self, predictions: Mapping[int | str, Prediction], truth: GroundTruth
    ) -> dict[int | str, float]:
        """``region_score`` of the predicted regions that have one, by region id."""
        scores = {
            region.id: self.region_score(predictions, region, truth) for region in truth.regions()
        }
        return {id_: score for id_, score in scores.items() if score is not None}

    @abstractmethod
    def region_score(
        self, predictions: Mapping[int | str, Prediction], region: RegionRecord, truth: GroundTruth
    ) -> float | None:
        """How well one region was predicted, higher is better; None where it has no label.

        Raises:
            ValueError: as ``evaluate`` does.
        """

    @abstractmethod
    def region_words(
        self, predictions: Mapping[int | str, Prediction], region: RegionRecord, truth: GroundTruth
    ) -> RegionWords:
        """What a report shows of a region; nothing true of one without a label."""

    def field_of(
        self,
        predictions: Mapping[int | str, Prediction],
        region: RegionRecord,
        field: str,
        count: int | None = None,
    ) -> Any:
        """One field of a region's prediction, with ``count`` numbers where it is a list.

        ValueError names region and field if it is missing or of another kind.
        """
        value = predictions.get(region.id, {}).get(field)
        if value is None:
            known = "has no " + field if region.id in predictions else "has no prediction"
            raise ValueError(
                f"{self.name}: region {region.id!r} {known} ({len(predictions)} predictions)"
            )
        kind = str if field == "caption" else int | float if count is None else list
        if not isinstance(value, kind) or (count is not None and len(value) != count):
            wanted = (
                "a text" if kind is str else "a number" if count is None else f"{count} numbers"
            )
            raise ValueError(
                f"{self.name}: region {region.id!r}: '{field}' must be {wanted}, is {value!r:.60}"
            )
        return value


# The release has one task, "dynrefer", and tells benchmarks by the dataset's name, in this order.
_RELEASE_BENCHMARKS = (
    ("reg", "region_captioning"),
    ("refcoco", "region_captioning"),
    ("ovad", "attribute_detection"),
    ("lvis", "lvis_detection"),
    ("imagenet_s", "imagenet_s"),
    ("vg", "dense_captioning"),
    ("grit", "dense_captioning"),
    ("coco", "region_recognition"),
)


def choose_tasks(task: str, tasks: Sequence[str] | None, dataset: str) -> list[Task]:
    """The tasks of a run: those listed, else the one named, else by the dataset's name.

    Raises:
        KeyError: a task that is not registered.
        ValueError: the release's task "dynrefer" with a dataset whose name tells no benchmark.
    """
    if tasks:
        return [registry.get("task", name)() for name in tasks]
    if task != "dynrefer":
        return [registry.get("task", task)()]
    for part, name in _RELEASE_BENCHMARKS:
        if part in dataset:
            return [registry.get("task", name)()]
    raise ValueError(
        f"run.task 'dynrefer' finds no benchmark by the name of dataset '{dataset}'; list tasks in "
        f"run.tasks; valid: {', '.join(registry.names('task'))}"
    )


def write_predictions(path: Path, predictions: Iterable[RegionPrediction]) -> None:
    """Writes a result file: one JSON object a region and line, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)

    def write(part: Path) -> None:
        with part.open("w", encoding="utf-8") as lines:
            for prediction in predictions:
                values = {key: v for key, v in asdict(prediction).items() if v is not None}
                lines.write(json.dumps(values, ensure_ascii=False) + "\n")

    write_atomically(path, write)


def read_predictions(path: Path) -> dict[int | str, Prediction]:
    """Reads a result file into predictions by region id.

    A ``.json`` file is one of the published code (``dynrefer.tasks.release_results``); any other
    has one JSON object a region and line.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a line that is not a JSON object with an id, or an id that comes twice.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no result file at {path}")
    if path.suffix.lower() == ".json":
        return read_release_results(path)
    predictions: dict[int | str, Prediction] = {}
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                prediction = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}: line {number} is not JSON: {error}") from error
            if not isinstance(prediction, dict) or not isinstance(prediction.get("id"), int | str):
                raise ValueError(f"{path}: line {number} has no 'id'; one object a region and line")
            if prediction["id"] in predictions:
                raise ValueError(f"{path}: line {number}: region {prediction['id']!r} comes twice")
            predictions[prediction["id"]] = prediction
    return predictions
