"""RegionPredictor: an image and some boxes or masks -> captions, tags, attributes, classes.

predictor = RegionPredictor.from_checkpoint(Path("output/shapes/checkpoints/last"))
for result in predictor.predict("image.jpg", boxes=[[10, 20, 80, 90]]):
    print(result.box, result.prediction.caption)
"""

from collections.abc import Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike
from omegaconf import DictConfig
from PIL import Image

from dynrefer.config import ConfigError
from dynrefer.datasets.batch import RegionBatch
from dynrefer.datasets.builders import build_view_selector
from dynrefer.processors.region_image import (
    ImageError,
    RegionImageProcessor,
    RegionViews,
    check_boxes,
    open_image,
    to_rgb,
)
from dynrefer.runners.precision import autocast_dtype
from dynrefer.views.selectors import ViewSelector

if TYPE_CHECKING:  # the models take seconds to import; who builds one imports them
    from dynrefer.models.dynrefer import DynRefer, RegionPrediction

ImageLike = Image.Image | np.ndarray | str | Path
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class RegionResult:
    """What the model says of one region, and where it looked.

    ``box`` (the region, clipped to the image) and ``view_boxes`` (V windows in whole pixels, end
    exclusive, the region's own first) are xyxy in pixels of the image.
    """

    prediction: "RegionPrediction"
    box: Box
    view_boxes: tuple[tuple[int, int, int, int], ...]


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
        from dynrefer.models.pretrained import folder_config

        return cls.from_config(folder_config(path, options), device, selector)

    @classmethod
    def from_config(
        cls, config: DictConfig, device: str = "auto", selector: ViewSelector | None = None
    ) -> "RegionPredictor":
        """The model of a configuration with ``run.load_ckpt_path`` or ``model.pretrained``.

        Raises:
            ConfigError: it names no weights.
        """
        from dynrefer.checkpoints.loading import open_source
        from dynrefer.models.builders import build_model

        if not (config.run.load_ckpt_path or config.model.pretrained):
            raise ConfigError(
                "run.load_ckpt_path and model.pretrained are not set; predictions need weights"
            )
        target = _device(device)
        selector = selector or build_view_selector(config.run.view_selector, config.model.num_views)
        model = build_model(config.model)
        paths = config.run.load_ckpt_path or []
        for path in [paths] if isinstance(paths, str) else paths:
            open_source(path, "run.load_ckpt_path").load(model, strict=config.model.strict)
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
        masks: Sequence[np.ndarray] | None = None,
        controls: Sequence[Sequence[str]] | None = None,
        decoders: Collection[str] | None = None,
    ) -> list[RegionResult]:
        """Describes regions of an image, those of ``boxes`` before those of ``masks``.

        Args:
            image: a file, a PIL image, or uint8 [H, W], [H, W, 3] (RGB) or [H, W, 4].
            boxes, masks: the regions, see :func:`region_boxes`.
            controls: control words for the captions, a list for each region.
            decoders: of "caption", "tags", "attributes", "classes", the only ones that run; None
                for all.

        Returns:
            One result a region; the predictions' ids are 0 ... N - 1.

        Raises:
            ValueError: an image, box, mask or list of control words that cannot be used.
        """
        image = as_image(image)
        regions = region_boxes(image.size, boxes, masks)
        _check_controls(controls, len(regions))
        # A selector that draws its views draws the same ones for the same regions every time.
        views = self.processor(image, regions, np.random.default_rng(0))
        predictions = self._predict(views, controls, decoders)
        return [
            RegionResult(prediction, tuple(box), tuple(map(tuple, view_boxes)))
            for prediction, box, view_boxes in zip(
                predictions, regions.tolist(), views.view_boxes.tolist(), strict=True
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
        predictions: list[RegionPrediction] = []
        for chunk in batch.chunks(self.chunk_size):
            words = controls and [controls[index] for index in chunk.ids]
            with torch.autocast(device.type, self.dtype) if self.dtype else nullcontext():
                predictions += self.model.predict(chunk.to(device), decoders, words)
        return predictions


def region_boxes(
    size: tuple[int, int],
    boxes: ArrayLike | None = None,
    masks: Sequence[np.ndarray] | None = None,
) -> np.ndarray:
    """The boxes of regions, float32 [N, 4] xyxy: those given, then the tight ones of the masks.

    Args:
        size: width and height of the image in pixels.
        boxes: [N, 4] xyxy in pixels; parts outside the image are cut off.
        masks: bool arrays [H, W], the region's pixels being True.

    Raises:
        ValueError: neither boxes nor masks; a box that is not finite, has no area or lies outside
            the image; a mask that is empty, of another size than the image, or not bool.
    """
    if boxes is None and masks is None:
        raise ValueError("no region is given; pass boxes ([N, 4], x1 y1 x2 y2) or masks ([H, W])")
    from_boxes = check_boxes(np.zeros((0, 4)) if boxes is None else boxes, *size)
    given = [] if masks is None else masks
    from_masks = [_mask_box(mask, index, size) for index, mask in enumerate(given)]
    return np.concatenate([from_boxes, np.array(from_masks, dtype=np.float32).reshape(-1, 4)])


def as_image(image: ImageLike) -> Image.Image:
    """An image of any kind that ``predict`` takes as PIL RGB; ValueError for others."""
    if isinstance(image, str | Path):
        return open_image(image)
    if isinstance(image, Image.Image):
        return to_rgb(image)
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


def open_mask(path: str | Path) -> np.ndarray:
    """Reads a mask file, bool [H, W]: True where a pixel is not black.

    Raises:
        ImageError: missing or damaged.
    """
    pixels = np.asarray(open_image(path))
    return pixels.any(axis=2)


def _mask_box(mask: np.ndarray, index: int, size: tuple[int, int]) -> Box:
    """Tight box of a mask, xyxy, end exclusive."""
    mask, (width, height) = np.asarray(mask), size
    if mask.shape != (height, width) or mask.dtype != np.bool_:
        raise ValueError(
            f"mask {index} is {mask.dtype} {list(mask.shape)}; valid is bool [{height}, {width}], "
            f"for the image of {width} x {height} pixels"
        )
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        raise ValueError(f"mask {index} is empty; valid is a mask with one True pixel or more")
    return (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))


def _check_controls(controls: Sequence[Sequence[str]] | None, count: int) -> None:
    if controls is None:
        return
    if len(controls) != count:
        raise ValueError(f"controls has {len(controls)} lists of words for {count} regions")
    for index, words in enumerate(controls):
        if isinstance(words, str):
            raise ValueError(f"controls {index} is '{words}'; valid is a list of words")


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device '{name}'; valid: auto, cpu, cuda, cuda:0, ...") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device '{name}': torch sees no GPU; valid here: auto, cpu")
    return device
