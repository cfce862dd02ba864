"""Regions of any number of images through the model, in batches."""

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from dynrefer.datasets.batch import RegionBatch, RegionSample
from dynrefer.predictor.options import PredictionOptions
from dynrefer.predictor.preparing import Part, Region
from dynrefer.predictor.results import RegionResult
from dynrefer.processors.control_words import join_control_words
from dynrefer.vocabulary import Vocabularies

if TYPE_CHECKING:
    from dynrefer.models.dynrefer import DynRefer

Item = TypeVar("Item")


class RegionBatches:
    """A model that looks at regions, then speaks of them, so many at once; one thread at a time.

    Args:
        model: on its device.
        size: regions that go through the model at once.
        dtype: of mixed precision; None computes in the parameters' own.
    """

    def __init__(self, model: "DynRefer", size: int, dtype: torch.dtype | None) -> None:
        self.model, self.size, self.dtype = model, size, dtype
        self._lock = threading.Lock()

    def look(self, parts: Sequence[Part]) -> None:
        """Gives the regions of parts their queries; one that gets none has its error."""
        regions = [region for part in parts for region in part.regions]
        samples, start = [], 0
        for part in parts:
            count = len(part.regions)
            samples.append(
                RegionSample(
                    views=part.views,
                    ids=list(range(start, start + count)),
                    image_ids=[part.image] * count,
                    captions=[""] * count,
                    control_words=["|"] * count,
                    tags=torch.zeros(count, 0, dtype=torch.bool),
                )
            )
            start += count
        batch = RegionBatch.collate(samples)

        def look_at(numbers: list[int]) -> None:
            queries = self.model.queries(batch.rows(numbers).to(self.model.device))
            for number, row in zip(numbers, queries, strict=True):
                regions[number].queries = row

        self._in_batches(list(range(len(regions))), look_at, lambda number: regions[number])

    def speak(self, regions: Sequence[Region], options: PredictionOptions) -> None:
        """Gives regions with queries their predictions; one that gets none has its error.

        Captions are written for regions with control words of like length together, so that few
        wait for longer ones, and little is computed for padding.
        """
        from dynrefer.models.dynrefer import RegionPrediction

        vocabularies, generation = self.vocabularies(options), self.model.generation
        if options.num_beams is not None:
            generation = replace(generation, num_beams=options.num_beams)
        said: dict[int, RegionPrediction] = {}  # by the position in `regions`

        def judge(numbers: list[int]) -> None:
            queries = torch.stack([regions[number].queries for number in numbers])
            predictions = []
            for number in numbers:
                ratios = regions[number].ratios.astype("float32").tolist()
                predictions.append(RegionPrediction(number, 0, ratios=ratios))
            self.model.judge(
                queries, predictions, options.decoders, vocabularies, options.tag_threshold
            )
            said.update(zip(numbers, predictions, strict=True))

        def write(numbers: list[int]) -> None:
            queries = torch.stack([regions[number].queries for number in numbers])
            controls = [regions[number].controls for number in numbers]
            predictions = [said[number] for number in numbers]
            self.model.write_captions(queries, predictions, controls, generation)

        def length(number: int) -> int:
            return len(join_control_words([*regions[number].controls, *said[number].tags]))

        whole = [n for n, region in enumerate(regions) if region.error is None]
        self._in_batches(whole, judge, regions.__getitem__)
        if "caption" in options.decoders:
            judged = [n for n in whole if regions[n].error is None]
            self._in_batches(sorted(judged, key=length), write, regions.__getitem__)
        for number, prediction in said.items():
            region = regions[number]
            if region.error is None:
                prediction.id, region.prediction = region.index, prediction

    def result(self, region: Region, options: PredictionOptions) -> RegionResult:
        """What is known of a region in the end."""
        known = self.vocabularies(options) or self.model.vocabularies
        error = region.error and str(region.error)
        given = (region.view_boxes, region.shape, known, error)
        return RegionResult(region.prediction, region.box, *given)

    def vocabularies(self, options: PredictionOptions) -> Vocabularies | None:
        """The vocabularies that options ask for; None for the model's own."""
        given = {k: getattr(options, k) for k in ("tags", "attributes", "classes")}
        if all(names is None for names in given.values()):
            return None
        return self.model.vocabularies.replaced(**given)

    def _in_batches(
        self,
        numbers: Sequence[int],
        step: Callable[[list[int]], Any],
        region_of: Callable[[int], Region],
    ) -> None:
        """Takes a step with even batches of regions; a value that is not finite ends its region."""
        from dynrefer.models.parts import NonFiniteError

        for batch in even_parts(numbers, self.size):
            left = list(batch)
            while left:
                try:
                    with self._lock, self._arithmetic():
                        self.model.eval()
                        step(left)
                    break
                except NonFiniteError as error:
                    for number in error.regions:
                        region_of(number).error = NonFiniteError(
                            error.quantity, [region_of(number).index], error.advice
                        )
                    left = [number for number in left if number not in error.regions]

    def _arithmetic(self) -> AbstractContextManager[Any]:
        device = self.model.device.type
        return torch.autocast(device, self.dtype) if self.dtype else nullcontext()


def even_parts(items: Sequence[Item], most: int) -> Iterator[Sequence[Item]]:
    """Consecutive parts of ``most`` items at most, of nearly equal length."""
    count = math.ceil(len(items) / most)
    for number in range(count):
        yield items[number * len(items) // count : (number + 1) * len(items) // count]
