"""From requests to regions whose views are cut out of their images, some requests ahead."""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from PIL import Image

from dynrefer.predictor.inputs import Segmenter, as_array, as_image, masks_of_points, regions_of
from dynrefer.predictor.options import PredictionOptions
from dynrefer.predictor.requests import RegionRequest, as_request, check_controls
from dynrefer.predictor.results import Box
from dynrefer.processors.region_image import RegionImageProcessor, RegionViews

PART = 16  # regions that are cut out at once
AHEAD = 4  # parts of an image, and requests a thread, that are ready before they are needed


@dataclass
class Region:
    """A region on its way through the model; ``index`` is its place in the image.

    ``ratios`` is float64 [V], ``queries`` [Q, D]. An ``error`` says why it goes no further.
    """

    index: int
    box: Box | None = None
    shape: np.ndarray | None = None
    controls: Sequence[str] = ()
    ratios: np.ndarray | None = None
    view_boxes: tuple[tuple[int, int, int, int], ...] = ()
    queries: torch.Tensor | None = None
    prediction: Any = None
    error: Exception | None = None


@dataclass
class Part:
    """Some regions of one image, and the crops of their views."""

    image: int
    regions: list[Region]
    views: RegionViews


@dataclass
class Prepared:
    """A request's regions, in order, and those of them that can be seen, part by part."""

    id: int | str
    regions: list[Region] = field(default_factory=list)
    parts: Iterable[Part] = ()
    error: Exception | None = None

    def is_done(self) -> bool:
        """Whether nothing more will be known of any region."""
        return all(region.error or region.prediction for region in self.regions)


class Preparation:
    """Opens images, checks regions, chooses and cuts views.

    Args:
        processor: cuts views, and chooses them where the options do not say how.
        options: how regions are given, and how views are chosen.
        segmenter: of points.
    """

    def __init__(
        self,
        processor: RegionImageProcessor,
        options: PredictionOptions,
        segmenter: Segmenter | None = None,
    ) -> None:
        self.processor, self.segmenter = processor, segmenter
        self.select = options.selector or processor.view_selector
        self.form = {"box_format": options.box_format, "relative": options.relative}

    def stream(self, items: Iterable[Any], threads: int) -> Iterator[Prepared]:
        """Requests in their order; a bad one has its error.

        Args:
            threads: that prepare requests while others are predicted; 0 for none.
        """
        if not threads:
            yield from (self.lenient(position, item) for position, item in enumerate(items))
            return
        ahead: deque[Future[Prepared]] = deque()
        with ThreadPoolExecutor(threads) as pool:
            try:
                for position, item in enumerate(items):
                    ahead.append(pool.submit(self.lenient, position, item))
                    if len(ahead) > threads * AHEAD:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def lenient(self, position: int, item: Any) -> Prepared:
        """A request; what is wrong with it, or with one of its regions, becomes their error."""
        try:
            request = as_request(item)
        except ValueError as error:
            return Prepared(position, error=error)
        prepared = Prepared(position if request.id is None else request.id)
        try:
            image = as_image(request.image, request.turn)
            prepared.regions = self._each(image, request)
            check_controls(request.controls, len(prepared.regions))
        except ValueError as error:
            prepared.error, prepared.regions = error, []
            return prepared
        self._give(prepared.regions, request.controls)
        parts = self.parts(image, prepared.regions, position)
        prepared.parts = chain(list(islice(parts, AHEAD)), parts)
        return prepared

    def strict(self, image: Image.Image, request: RegionRequest) -> list[Region]:
        """The regions of an image; ValueError for a bad one."""
        regions = self._all(image, request)
        check_controls(request.controls, len(regions))
        self._give(regions, request.controls)
        return regions

    def parts(self, image: Image.Image, regions: list[Region], number: int = 0) -> Iterator[Part]:
        """The regions that have no error, with their views."""
        good = [region for region in regions if region.error is None]
        if not good:
            return
        if good[0].ratios is None:
            self.choose(image, good)
        for start in range(0, len(good), PART):
            part = good[start : start + PART]
            boxes = np.array([region.box for region in part], dtype=np.float32)
            views = self.processor.cut(image, boxes, np.stack([r.ratios for r in part]))
            for region, windows in zip(part, views.view_boxes.tolist(), strict=True):
                region.view_boxes = tuple(map(tuple, windows))
            yield Part(number, part, views)

    def choose(self, image: Image.Image, regions: list[Region]) -> None:
        """Chooses the views of regions."""
        boxes = np.array([region.box for region in regions], dtype=np.float32).reshape(-1, 4)
        # A selector that draws its views draws the same ones for the same regions every time.
        ratios = self.select(np.asarray(image), boxes, np.random.default_rng(0))
        for region, row in zip(regions, ratios, strict=True):
            region.ratios = row

    def _all(self, image: Image.Image, request: RegionRequest) -> list[Region]:
        masks = request.masks
        if request.points is not None:
            found = masks_of_points(image, request.points, self.segmenter)
            masks = [*(() if masks is None else masks), *found]
        boxes, shapes = regions_of(image.size, request.boxes, masks, **self.form)
        pairs = enumerate(zip(boxes.tolist(), shapes, strict=True))
        return [Region(index, tuple(box), shape) for index, (box, shape) in pairs]

    def _each(self, image: Image.Image, request: RegionRequest) -> list[Region]:
        """As :meth:`_all`; where that fails one by one, so that the good ones remain."""
        try:
            return self._all(image, request)
        except ValueError:
            kinds = {
                name: as_array(getattr(request, name)) for name in ("boxes", "masks", "points")
            }
            if not all(value is None or _is_list(value) for value in kinds.values()):
                raise
        regions: list[Region] = []
        for name, values in kinds.items():
            for position, value in enumerate(() if values is None else values):
                try:
                    (region,) = self._all(image, RegionRequest(None, **{name: [value]}))
                    region.index = len(regions)
                except ValueError as error:
                    what = name.removesuffix("es" if name == "boxes" else "s")
                    reason = str(error)
                    own = reason.removeprefix(f"{what} 0")
                    reason = own if own != reason else f": {reason}"
                    region = Region(len(regions), error=ValueError(f"{what} {position}{reason}"))
                regions.append(region)
        if not regions:
            raise ValueError("no region is given; pass boxes, masks or points")
        return regions

    @staticmethod
    def _give(regions: list[Region], controls: Sequence[Sequence[str]] | None) -> None:
        for region, words in zip(regions, controls or [()] * len(regions), strict=True):
            region.controls = words


def default_threads(device: torch.device) -> int:
    """Threads that prepare images: a GPU waits for them, a CPU has the model to run."""
    return min(8, os.cpu_count() or 1) if device.type == "cuda" else 0


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim > 0)
