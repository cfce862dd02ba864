"""RegionPredictor: an image and some boxes or masks -> captions, tags, attributes, classes.

predictor = RegionPredictor.from_checkpoint(Path("output/shapes/checkpoints/last"))
for result in predictor.predict("image.jpg", boxes=[[10, 20, 80, 90]]):
    print(result.box, result.prediction.caption)
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike
from omegaconf import DictConfig
from PIL import Image

from dynrefer.config import ConfigError
from dynrefer.datasets.annotations.fields import printable
from dynrefer.datasets.batch import RegionBatch
from dynrefer.datasets.builders import build_view_selector
from dynrefer.distributed import device_of
from dynrefer.processors.images import ImageError, open_image, to_rgb, upright
from dynrefer.processors.masks import Mask, as_mask, mask_box
from dynrefer.processors.region_image import RegionImageProcessor, RegionViews, check_boxes
from dynrefer.runners.precision import autocast_dtype
from dynrefer.views.selectors import ViewSelector

if TYPE_CHECKING:  # the models take seconds to import; who builds one imports them
    from dynrefer.models.dynrefer import DynRefer, RegionPrediction

ImageLike = Image.Image | np.ndarray | str | Path
Box = tuple[float, float, float, float]
LEAST_PIXELS = 16  # a side from which a box of less than one pixel is rather one in shares of it


@dataclass(frozen=True)
class RegionResult:
    """What the model says of one region, and where it looked.

    ``box`` (the region, clipped to the image) and ``view_boxes`` (V windows in whole pixels, end
    exclusive, the region's own first) are xyxy in pixels of the image; ``mask``, bool [H, W], is
    the shape of a region that was given by one.
    """

    prediction: "RegionPrediction"
    box: Box
    view_boxes: tuple[tuple[int, int, int, int], ...]
    mask: np.ndarray | None = field(default=None, repr=False, compare=False)


class RegionPredictor:
    """Runs a model on regions of single images.

    Args:
        model: on the device where it shall run; prediction puts it into evaluation mode.
        selector: chooses the views of each region.
        image_size: side of the crops in pixels, the model's.
        chunk_size: regions that go through the model at once.
        dtype: of mixed precision; None computes in the parameters' own.
    """

    def __init__(
        self,
        model: "DynRefer",
        selector: ViewSelector,
        image_size: int,
        chunk_size: int = 20,
        dtype: torch.dtype | None = None,
    ) -> None:
        if image_size != model.vision.image_size:
            raise ValueError(
                f"image_size is {image_size}; the model takes crops of {model.vision.image_size}"
            )
        if chunk_size < 1:
            raise ValueError(f"chunk_size is {chunk_size}; valid is one region or more")
        self.model = model
        self.processor = RegionImageProcessor(image_size, selector)
        self.chunk_size = chunk_size
        self.dtype = dtype

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

    def predict(
        self,
        image: ImageLike,
        boxes: ArrayLike | None = None,
        masks: Sequence[Mask] | None = None,
        controls: Sequence[Sequence[str]] | None = None,
        decoders: Collection[str] | None = None,
    ) -> list[RegionResult]:
        """Describes regions of an image, those of ``boxes`` before those of ``masks``.

        Args:
            image: a file, a PIL image, or uint8 [H, W], [H, W, 3] (RGB) or [H, W, 4]. One with an
                EXIF orientation is turned upright; boxes and masks refer to that.
            boxes, masks: the regions, see :func:`regions_of`.
            controls: control words for the captions, a list for each region.
            decoders: of "caption", "tags", "attributes", "classes" those that run; all by default.

        Returns:
            One result a region; the predictions' ids are 0 ... N - 1.

        Raises:
            ValueError: an image, box, mask or list of control words that cannot be used.
        """
        image = as_image(image)
        regions, shapes = regions_of(image.size, boxes, masks)
        _check_controls(controls, len(regions))
        # A selector that draws its views draws the same ones for the same regions every time.
        views = self.processor(image, regions, np.random.default_rng(0))
        predictions = self._predict(views, controls, decoders)
        return [
            RegionResult(prediction, tuple(box), tuple(map(tuple, view_boxes)), shape)
            for prediction, box, view_boxes, shape in zip(
                predictions, regions.tolist(), views.view_boxes.tolist(), shapes, strict=True
            )
        ]

    def _predict(
        self,
        views: RegionViews,
        controls: Sequence[Sequence[str]] | None,
        decoders: Collection[str] | None,
    ) -> "list[RegionPrediction]":
        from dynrefer.models.dynrefer import DECODERS

        count, device = len(views.ratios), self.model.device
        batch = RegionBatch(
            crops=views.crops,
            view_index=views.view_index,
            region_boxes=views.region_boxes,
            ratios=views.ratios,
            captions=[""] * count,
            ids=list(range(count)),
            image_ids=[0] * count,
            tags=torch.zeros(count, len(self.model.vocabularies.tags), dtype=torch.bool),
            control_words=["|"] * count,
        )
        self.model.eval()
        decoders = DECODERS if decoders is None else decoders
        if isinstance(decoders, str) or not isinstance(decoders, Collection):
            raise ValueError(f"decoders is {decoders!r:.60}; valid is a list of {DECODERS}")
        predictions: list[RegionPrediction] = []
        for chunk in batch.chunks(self.chunk_size):
            words = controls and [controls[index] for index in chunk.ids]
            with torch.autocast(device.type, self.dtype) if self.dtype else nullcontext():
                predictions += self.model.predict(chunk.to(device), decoders, words)
        return predictions


def regions_of(
    size: tuple[int, int],
    boxes: ArrayLike | None = None,
    masks: Sequence[Mask] | None = None,
) -> tuple[np.ndarray, list[np.ndarray | None]]:
    """Boxes and shapes of regions: those given by boxes, then those given by masks.

    Args:
        size: width and height of the image in pixels.
        boxes: [N, 4] xyxy in pixels; parts outside the image are cut off.
        masks: see :func:`dynrefer.processors.masks.as_mask`.

    Returns:
        float32 [N, 4] xyxy, of a mask the tight one; and N masks, None for a region of ``boxes``.

    Raises:
        ValueError: neither boxes nor masks; a box that is not finite, has no area, lies outside the
            image or is given in shares of it; a mask that is empty or does not fit the image.
    """
    if boxes is None and masks is None:
        raise ValueError("no region is given; pass boxes ([N, 4], x1 y1 x2 y2) or masks ([H, W])")
    from_boxes = check_boxes(() if boxes is None else boxes, *size)
    if max(size) >= LEAST_PIXELS and (shares := from_boxes.max(axis=1, initial=0) <= 1).any():
        index = int(np.argmax(shares))
        raise ValueError(
            f"box {index} {np.asarray(boxes)[index].tolist()} is less than a pixel, as boxes in "
            f"shares of the image are; valid are pixels (the image has {size[0]} x {size[1]})"
        )
    if isinstance(masks, Mapping) or not isinstance(masks, Iterable | None):
        raise ValueError(f"masks is a {type(masks).__name__}; valid is a list of masks")
    given = () if masks is None else masks
    shapes = [as_mask(mask, size, f"mask {index}") for index, mask in enumerate(given)]
    from_masks = np.array([mask_box(shape) for shape in shapes], dtype=np.float32).reshape(-1, 4)
    return np.concatenate([from_boxes, from_masks]), [None] * len(from_boxes) + shapes


def as_image(image: ImageLike) -> Image.Image:
    """An image of any kind that ``predict`` takes as PIL RGB, upright; ImageError for others."""
    if isinstance(image, str | Path):
        return open_image(Path(image), turn=True)
    if isinstance(image, Image.Image):
        return to_rgb(upright(image))
    if not isinstance(image, np.ndarray):
        kind = type(image).__name__
        raise ImageError(f"image is a {kind}; valid is a path, a PIL image or a uint8 array")
    channels_fit = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))
    if image.dtype != np.uint8 or not channels_fit or image.size == 0:
        raise ImageError(
            f"image is an array of {image.dtype} {list(image.shape)}; valid is uint8 [H, W], "
            "[H, W, 3] or [H, W, 4]"
        )
    return to_rgb(Image.fromarray(image))


def _check_controls(controls: Sequence[Sequence[str]] | None, count: int) -> None:
    if controls is None:
        return
    if not isinstance(controls, list | tuple) or len(controls) != count:
        raise ValueError(
            f"controls is {controls!r:.60}; valid is a list of words for each of the "
            f"{count} regions"
        )
    for index, words in enumerate(controls):
        if not isinstance(words, list | tuple) or not all(isinstance(w, str) for w in words):
            raise ValueError(f"controls {index} is {words!r:.60}; valid is a list of words")
        if any(printable(word) != word for word in words):
            raise ValueError(f"controls {index} is {words!r:.60}; valid are texts in UTF-8")
