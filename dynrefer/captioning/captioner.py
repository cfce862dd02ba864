"""RegionCaptioner: rows with regions -> lines of results, as the command and fleets use it."""

import json
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dynrefer.captioning.regions import WantedRegion, images_at, of_one_image, regions_of_row
from dynrefer.predictor import RegionPredictor, RegionRequest, RegionResult
from dynrefer.predictor.results import TOP

DECODERS = ("caption",)


class RegionCaptioner:
    """Describes the regions of batches of rows; for ``map_batches`` of Ray Data, or alone.

    A row has ``id``, ``image`` (a name in ``images``, or the file's content) and ``box``, ``boxes``
    or ``mask``, and may have ``controls``. What comes back has a row a region, of the columns
    ``id``, ``caption``, ``score`` (NaN where there is none), ``error`` (empty where there is none)
    and ``line``, the line of JSON that ``dynrefer caption`` writes.

    Args:
        model: folder of a model, or a predictor.
        images: folder of images or shards.
        device: "cuda", "cpu" or "auto"; ``config_options`` are overrides of the configuration in
            the model's folder.
        decoders, options: see ``RegionPredictor.predict_many``.
        top: how many attributes and classes a line has.
    """

    def __init__(
        self,
        model: str | Path | RegionPredictor,
        images: str | Path = ".",
        device: str = "auto",
        config_options: Sequence[str] = (),
        decoders: Sequence[str] = DECODERS,
        top: int | None = TOP,
        **options: Any,
    ) -> None:
        self.images = images_at(Path(images))
        if not isinstance(model, RegionPredictor):
            model = RegionPredictor.from_checkpoint(model, device, config_options)
        self.predictor = model
        self.options, self.top = {"decoders": tuple(decoders), **options}, top

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, np.ndarray]:
        """Results of a batch, columns of equal length; a row that cannot be used has its error."""
        regions: list[WantedRegion] = []
        rows = zip(*(map(_plain, column) for column in batch.values()), strict=True)
        for number, values in enumerate(rows):
            row = dict(zip(batch, values, strict=True))
            try:
                regions += regions_of_row(row, self.images, Path("."))
            except ValueError as error:
                key = row.get("id") if isinstance(row.get("id"), int | str) else None
                regions.append(WantedRegion(key, line=number, error=f"row {number}: {error}"))
        lines = [line for part in self.describe(of_one_image(regions)) for line in part]
        columns = {
            "id": ["" if line["id"] is None else str(line["id"]) for line in lines],
            "caption": [line.get("caption", "") for line in lines],
            "score": [line.get("score", np.nan) for line in lines],
            "error": [line.get("error", "") for line in lines],
            "line": [json.dumps(line, ensure_ascii=False) for line in lines],
        }
        return {name: np.array(values) for name, values in columns.items()}

    def describe(self, groups: Iterable[list[WantedRegion]]) -> Iterator[list[dict[str, Any]]]:
        """The lines of results of regions, group by group, in order.

        Args:
            groups: regions of one image each; see ``of_one_image``.
        """
        waiting: deque[list[WantedRegion]] = deque()

        def requests() -> Iterator[RegionRequest]:
            for group in groups:
                waiting.append(group)
                yield _request([region for region in group if region.error is None])

        for result in self.predictor.predict_many(requests(), **self.options):
            group = waiting.popleft()
            good = _in_order([region for region in group if region.error is None])
            by_name = {region.name: RegionResult(None, None, error=result.error) for region in good}
            if result.error is None:
                by_name = dict(zip([r.name for r in good], result.regions, strict=True))
            yield [self._line(region, by_name.get(region.name)) for region in group]

    def _line(self, region: WantedRegion, result: RegionResult | None) -> dict[str, Any]:
        if result is None:
            return {"id": region.key, "line": region.line, "error": region.error}
        told = result.to_dict(self.top)
        if result.error is not None:  # which box of a request it was means nothing here
            told["error"] = re.sub(r"^(box|mask) \d+", r"\1", result.error)
        told = {name: value for name, value in told.items() if value is not None and name != "id"}
        return {"id": region.key, "image": region.image, **told}


def _in_order(regions: list[WantedRegion]) -> list[WantedRegion]:
    """As a request has them: boxes before masks."""
    return sorted(regions, key=lambda region: region.mask is not None)


def _request(regions: list[WantedRegion]) -> RegionRequest:
    """The request of regions of one image; of none, one that says nothing."""
    if not regions:
        return RegionRequest(np.zeros((1, 1), dtype=np.uint8), [])
    ordered = _in_order(regions)
    masks = [region.mask for region in ordered if region.mask is not None]
    boxes = [region.box for region in ordered if region.mask is None]
    controls = [list(region.controls) for region in ordered]
    first = regions[0]
    return RegionRequest(first.source, boxes, masks, controls, turn=first.turn)


def _plain(value: Any) -> Any:
    """A value of a column without numpy's types."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
