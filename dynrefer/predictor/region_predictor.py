"""RegionPredictor: images and regions -> captions, tags, attributes, classes.

predictor = RegionPredictor.from_checkpoint(Path("output/shapes/checkpoints/last"))
for result in predictor.predict("image.jpg", boxes=[[10, 20, 80, 90]]):
    print(result.box, result.prediction.caption)
"""

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import ArrayLike
from omegaconf import DictConfig
from PIL import Image

from dynrefer.config import ConfigError
from dynrefer.datasets.builders import build_view_selector
from dynrefer.distributed import device_of
from dynrefer.predictor.inputs import ImageLike, Segmenter, as_image
from dynrefer.predictor.options import PredictionOptions, options_of
from dynrefer.predictor.preparing import Part, Preparation, Prepared, Region, default_threads
from dynrefer.predictor.requests import RegionRequest
from dynrefer.predictor.results import ImageResult, RegionResult
from dynrefer.predictor.running import RegionBatches
from dynrefer.processors.masks import Mask
from dynrefer.processors.region_image import RegionImageProcessor
from dynrefer.runners.precision import autocast_dtype
from dynrefer.views.selectors import ViewSelector

if TYPE_CHECKING:  # the models take seconds to import; who builds one imports them
    from dynrefer.models.dynrefer import DynRefer

WINDOW = 4  # batches whose regions wait for each other
REMEMBERED = 1000  # regions of the set image whose queries are kept


class RegionPredictor:
    """Runs a model on regions of images, one image at a time or many.

    Args:
        model: on the device where it shall run; prediction puts it into evaluation mode.
        selector: chooses the views of each region.
        image_size: side of the crops in pixels, the model's.
        chunk_size: regions that go through the model at once.
        dtype: of mixed precision; None computes in the parameters' own.
        segmenter: finds the masks of points; see ``dynrefer.predictor.Segmenter``.
    """

    def __init__(
        self,
        model: "DynRefer",
        selector: ViewSelector,
        image_size: int,
        chunk_size: int = 20,
        dtype: torch.dtype | None = None,
        segmenter: Segmenter | None = None,
    ) -> None:
        if image_size != model.vision.image_size:
            raise ValueError(
                f"image_size is {image_size}; the model takes crops of {model.vision.image_size}"
            )
        if chunk_size < 1:
            raise ValueError(f"chunk_size is {chunk_size}; valid is one region or more")
        self.model = model
        self.processor = RegionImageProcessor(image_size, selector)
        self.segmenter = segmenter
        self._batches = RegionBatches(model, chunk_size, dtype)
        self._image: Image.Image | None = None
        self._seen: dict[tuple, Region] = {}

    @property
    def chunk_size(self) -> int:
        """Regions that go through the model at once."""
        return self._batches.size

    @chunk_size.setter
    def chunk_size(self, size: int) -> None:
        self._batches.size = size

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        device: str = "auto",
        options: Sequence[str] = (),
        selector: ViewSelector | None = None,
    ) -> "RegionPredictor":
        """The model of a folder that training or ``save_pretrained`` wrote.

        Args:
            path: such a folder, e.g. ``output/shapes/checkpoints/last``.
            device: "cuda", "cpu" or "auto" (cuda where there is one).
            options: overrides of its configuration, "model.tag_threshold=0.8".
            selector: instead of the configuration's ``run.view_selector``.

        Raises:
            FileNotFoundError: there is no checkpoint, or a file that its configuration names.
            ValueError: the weights do not fit the model, or the device is not there.
        """
        from dynrefer.checkpoints.configs import folder_config

        return cls.from_config(folder_config(path, options), device, selector)

    @classmethod
    def from_config(
        cls, config: DictConfig, device: str = "auto", selector: ViewSelector | None = None
    ) -> "RegionPredictor":
        """The model of a configuration with ``run.load_ckpt_path`` or ``model.pretrained``.

        Raises:
            ConfigError: it names no weights.
        """
        from dynrefer.models.builders import load_model, warn_of_noise

        if not (config.run.load_ckpt_path or config.model.pretrained):
            raise ConfigError(
                "run.load_ckpt_path and model.pretrained are not set; predictions need weights"
            )
        target = device_of(device, "device")
        selector = selector or build_view_selector(config.run.view_selector, config.model.num_views)
        model = load_model(config)
        warn_of_noise(model, config)
        return cls(
            model.to(target),
            selector,
            config.model.image_size,
            config.run.split_size,
            autocast_dtype(config, target),
        )

    def set_image(self, image: ImageLike, turn: bool = True) -> None:
        """Takes an image for any number of ``predict(boxes=...)``; see :func:`as_image`.

        What the model saw of a region is kept, so that other control words, names or beams for the
        same regions cost no second look.
        """
        self._image, self._seen = as_image(image, turn), {}

    def predict(
        self,
        image: ImageLike | None = None,
        boxes: ArrayLike | None = None,
        masks: Sequence[Mask] | None = None,
        controls: Sequence[Sequence[str]] | None = None,
        decoders: Collection[str] | None = None,
        points: Any = None,
        **options: Any,
    ) -> list[RegionResult]:
        """Describes regions of an image: those of ``boxes``, of ``masks``, then of ``points``.

        Args:
            image: see :func:`dynrefer.predictor.as_image`; None for the one of :meth:`set_image`.
                One with an EXIF orientation is turned upright; regions refer to that.
            boxes, masks: the regions, see :func:`dynrefer.predictor.regions_of`.
            controls: control words for the captions, a list for each region.
            decoders: of "caption", "tags", "attributes", "classes" those that run; all by default.
            points: for each region x, y in pixels, or several such points.
            options: of :class:`PredictionOptions`, ``classes=["cat", "dog"]``, ``num_beams=5``.

        Returns:
            One result a region; the predictions' ids are 0 ... N - 1.

        Raises:
            ValueError: an image, region, list of control words or option that cannot be used.
            NonFiniteError: the model gives no finite numbers for a region.
        """
        asked = options_of({"decoders": decoders, **options})
        self._batches.vocabularies(asked)  # a bad name is said before the image is opened
        if image is None and self._image is None:
            raise ValueError("no image is given; pass one, or call set_image before")
        opened, seen = (as_image(image), None) if image is not None else (self._image, self._seen)
        preparation = Preparation(self.processor, asked, self.segmenter)
        request = RegionRequest(None, boxes, masks, controls, points=points)
        regions = preparation.strict(opened, request)
        preparation.choose(opened, regions)
        new = regions if seen is None else _not_seen(regions, seen)
        for parts in self._windows(preparation.parts(opened, new)):
            self._batches.look(parts)
        if seen is not None:
            _remember(new, seen)
        self._batches.speak(regions, asked)
        for region in regions:
            if region.error is not None:
                raise region.error
        return [self._batches.result(region, asked) for region in regions]

    def predict_many(
        self,
        requests: Iterable[RegionRequest | Any],
        decoders: Collection[str] | None = None,
        threads: int | None = None,
        **options: Any,
    ) -> Iterator[ImageResult]:
        """Describes regions of many images, as a stream, in batches that images share.

        Args:
            requests: a :class:`RegionRequest` an image, or a mapping or tuple of its fields. Some
                are read ahead: as many as fill a few batches.
            decoders, options: as :meth:`predict` takes them, the same for all.
            threads: that open images and cut views while the model runs; by default as many as
                there are cores, 8 at most, for a GPU, and none for a CPU.

        Yields:
            One result a request, in order. A request or a region that cannot be used has an
            ``error`` in its result.

        Raises:
            ValueError: an option that cannot be used.
        """
        asked = options_of({"decoders": decoders, **options})
        self._batches.vocabularies(asked)
        count = default_threads(self.model.device) if threads is None else threads
        preparation = Preparation(self.processor, asked, self.segmenter)
        return self._stream(preparation.stream(requests, count), asked)

    def _stream(
        self, prepared: Iterator[Prepared], asked: PredictionOptions
    ) -> Iterator[ImageResult]:
        waiting: deque[Prepared] = deque()
        coming = (part for request in _noted(prepared, waiting) for part in request.parts)
        for parts in self._windows(coming):
            self._batches.look(parts)
            self._batches.speak([region for part in parts for region in part.regions], asked)
            while len(waiting) > 1 and waiting[0].is_done():  # the last may have parts to come
                yield self._result(waiting.popleft(), asked)
        while waiting:
            yield self._result(waiting.popleft(), asked)

    def _result(self, prepared: Prepared, asked: PredictionOptions) -> ImageResult:
        if prepared.error is not None:
            return ImageResult(prepared.id, error=str(prepared.error))
        results = tuple(self._batches.result(region, asked) for region in prepared.regions)
        for result in results:
            if result.prediction is not None:
                result.prediction.image_id = prepared.id
        return ImageResult(prepared.id, results)

    def _windows(self, parts: Iterable[Part]) -> Iterator[list[Part]]:
        """Parts whose regions wait for each other: enough for ``WINDOW`` batches."""
        window: list[Part] = []
        for part in parts:
            window.append(part)
            if sum(len(each.regions) for each in window) >= WINDOW * self.chunk_size:
                yield window
                window = []
        if window:
            yield window


def _noted(prepared: Iterable[Prepared], waiting: deque[Prepared]) -> Iterator[Prepared]:
    for request in prepared:
        waiting.append(request)
        yield request


def _key(region: Region) -> tuple:
    return region.box, tuple(region.ratios.tolist())


def _not_seen(regions: list[Region], seen: dict[tuple, Region]) -> list[Region]:
    """The regions that have to be looked at; the others get what was seen."""
    for region in regions:
        if known := seen.get(_key(region)):
            region.queries, region.view_boxes = known.queries, known.view_boxes
    return [region for region in regions if region.queries is None]


def _remember(regions: Iterable[Region], seen: dict[tuple, Region]) -> None:
    for region in regions:
        if region.queries is not None:
            seen[_key(region)] = region
    for key in list(seen)[: max(0, len(seen) - REMEMBERED)]:
        del seen[key]
