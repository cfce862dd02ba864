"""Datasets from configurations."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from omegaconf import DictConfig
from torch.utils.data import ConcatDataset

from dynrefer.config import ConfigError
from dynrefer.datasets.annotations.index import AnnotationIndex
from dynrefer.datasets.images import summary_of, unreadable_images
from dynrefer.datasets.region_dataset import RegionDataset
from dynrefer.datasets.shards.reading import open_shards
from dynrefer.distributed import gather_objects
from dynrefer.processors import caption, region_image  # noqa: F401 (they register themselves)
from dynrefer.processors.control_words import ControlWordSampler
from dynrefer.registry import registry
from dynrefer.views.selectors import ViewSelector
from dynrefer.vocabulary import TagVocabulary

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DatasetRequest:
    """What a run asks of a dataset's builder.

    ``name`` is the key under ``datasets``; ``split`` one that it has data for; ``training``
    makes samples of single regions with drawn control words, else of images with all regions.
    """

    name: str
    split: str
    config: DictConfig
    selector: ViewSelector
    num_views: int
    image_size: int
    tags: TagVocabulary
    seed: int
    training: bool

    @classmethod
    def of(
        cls,
        config: DictConfig,
        name: str,
        split: str,
        selector: DictConfig,
        tags: TagVocabulary,
        training: bool,
    ) -> "DatasetRequest":
        """The request of a run by its whole configuration and one of its selectors' sections."""
        views, size = config.model.num_views, config.model.image_size
        built = build_view_selector(selector, views)
        dataset, seed = config.datasets[name], config.run.seed
        return cls(name, split, dataset, built, views, size, tags, seed, training)


class RegionDatasets(ConcatDataset):
    """Several annotation files as one dataset; epochs are passed on to each."""

    def set_epoch(self, epoch: int) -> None:
        """Moves the random choices of every part to those of ``epoch``."""
        for part in self.datasets:
            part.set_epoch(epoch)

    def report_unreadable(self) -> list[list[int]]:
        """Positions by part of the images that no process could read so far; warns of them."""
        if not any(part.skip_images for part in self.datasets):
            return [[] for _ in self.datasets]
        everywhere = zip(*gather_objects([part.unreadable for part in self.datasets]), strict=True)
        found = [sorted(set().union(*positions)) for positions in everywhere]
        for part, positions in zip(self.datasets, found, strict=True):
            if positions:
                faults = unreadable_images(part.index, positions)
                for position in positions:  # only its pixels show what is wrong with it
                    faults.setdefault(position, f"{part.index.image(position).path} is damaged")
                summary = summary_of(faults, part.index.num_images)
                logger.warning("%s: %s", part.index.source, summary)
        return found


def build_view_selector(config: DictConfig, num_views: int) -> ViewSelector:
    """The registered selector that ``config.name`` names, for V views."""
    build = registry.get("view_selector", config.name)
    ratios = {} if config.ratios is None else {"ratios": list(config.ratios)}
    try:
        return build(num_views, **ratios)
    except TypeError as error:
        reason = "it takes no ratios" if ratios else "it needs ratios"
        raise ConfigError(f"view selector '{config.name}' with {ratios}: {reason}") from error
    except ValueError as error:
        raise ConfigError(f"view selector '{config.name}': {error}") from error


def data_sources(config: DictConfig, split: str) -> list[str]:
    """Shards folders of a split, or else its annotation files; empty where it has none."""
    info = config.build_info
    return list(info.shards.get(split, [])) or list(info.annotations.get(split, []))


def annotation_files(config: DictConfig, name: str, split: str) -> list[str]:
    """What ``data_sources`` gives; raises ConfigError where it has none."""
    files = data_sources(config, split)
    if not files:
        info, key = config.build_info, f"datasets.{name}.build_info.annotations.{split}"
        known = [one for one in {**info.annotations, **info.shards} if data_sources(config, one)]
        raise ConfigError(f"{key} names no file; splits with files: {known}")
    return files


def open_annotations(config: DictConfig, path: str, training: bool) -> AnnotationIndex:
    """The index of one annotation file or shards folder, by the dataset's root and policy."""
    info = config.build_info
    if any(path in folders for folders in info.shards.values()):
        return open_shards(path, info.bad_records, require_caption=training)
    return AnnotationIndex.open(path, info.image_root, info.bad_records, training)


def build_dataset(request: DatasetRequest) -> RegionDatasets:
    """The dataset of a request, by its registered builder (``build_info.builder``)."""
    return registry.get("dataset", request.config.build_info.builder)(request)


@registry.register("dataset", "dynrefer_shards")
@registry.register("dataset", "dynrefer")
def build_region_dataset(request: DatasetRequest) -> RegionDatasets:
    """A dataset from annotation files in the release's format, or from shards of them."""
    info, section = request.config.build_info, f"datasets.{request.name}.build_info"
    step = "train" if request.training else "eval"
    image_options = request.config.vis_processor[step]
    text_options = request.config.text_processor[step]
    size = image_options.image_size or request.image_size
    _check(request, size, step)
    image_processor = registry.get("processor", image_options.name)(size, request.selector)
    caption_processor = registry.get("processor", text_options.name)()
    control_words = ControlWordSampler(info.full_drop_ratio, info.drop_ratio)
    parts = []
    for path in annotation_files(request.config, request.name, request.split):
        index = open_annotations(request.config, path, request.training)
        counts = index.region_counts[: image_limit(request.config)]
        if info.check_images:
            positions = np.flatnonzero(counts).tolist()
            if faults := unreadable_images(index, positions):
                message = f"{index.source}: {summary_of(faults, len(positions))}"
                if not skips_bad_records(request.config):
                    raise ValueError(f"{message}; 'bad_records: skip' leaves them out")
                logger.warning("%s", message)
        samples = counts.sum() if request.training else np.count_nonzero(counts)
        if not samples:
            of_none = f"none of so many first images of {path} has a region"
            raise ConfigError(f"{section}.max_imgs: {info.max_imgs:g}; {of_none}")
        parts.append(
            RegionDataset(
                index,
                image_processor,
                caption_processor,
                request.tags,
                by="region" if request.training else "image",
                control_words=control_words if request.training else None,
                seed=request.seed,
                max_samples=int(samples),
                skip_images=skips_bad_records(request.config),
            )
        )
    return RegionDatasets(parts)


def _check(request: DatasetRequest, size: int, step: str) -> None:
    info, section = request.config.build_info, f"datasets.{request.name}.build_info"
    for is_right, message in (
        (
            bool(info.shards) == (info.builder == "dynrefer_shards"),
            f"{section} has builder: {info.builder} and shards: {dict(info.shards)}; shards and "
            "builder: dynrefer_shards go together",
        ),
        (
            info.num_views in (None, request.num_views),
            f"{section}.num_views is {info.num_views}, model.num_views is {request.num_views}; "
            "they must agree",
        ),
        (
            info.obj_lvl and not info.with_seg,
            f"{section} has with_seg: {info.with_seg} and obj_lvl: {info.obj_lvl}; regions are "
            "used as boxes, one a training sample, as in every published configuration: with_seg: "
            "false, obj_lvl: true",
        ),
        (
            size == request.image_size,
            f"datasets.{request.name}.vis_processor.{step}.image_size is {size}, model.image_size "
            f"is {request.image_size}",
        ),
    ):
        if not is_right:
            raise ConfigError(message)
    if info.image_root is not None and not Path(info.image_root).is_dir():
        raise FileNotFoundError(f"{section}.image_root: no folder at {info.image_root}")


def skips_bad_records(config: DictConfig) -> bool:
    """Whether records and images that cannot be used are left out, ``build_info.bad_records``."""
    return config.build_info.bad_records == "skip"


def image_limit(config: DictConfig) -> int:
    """How many of a file's first images count, ``build_info.max_imgs``."""
    return int(config.build_info.max_imgs)
