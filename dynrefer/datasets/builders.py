"""Datasets from configurations."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from omegaconf import DictConfig, OmegaConf
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
                logger.warning(
                    "%s: %s", part.index.source, summary_of(faults, part.index.num_images)
                )
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
        info = config.build_info
        known = [key for key in {**info.annotations, **info.shards} if data_sources(config, key)]
        raise ConfigError(
            f"datasets.{name}.build_info.annotations.{split} names no file; splits with files: "
            f"{known}"
        )
    return files


def open_annotations(config: DictConfig, path: str, training: bool) -> AnnotationIndex:
    """The index of one annotation file or shards folder, by the dataset's root and policy."""
    info = config.build_info
    if any(path in folders for folders in info.shards.values()):
        return open_shards(path, info.bad_records, require_caption=training)
    return AnnotationIndex.open(
        path,
        image_root=info.image_root,
        bad_records=info.bad_records,
        require_caption=training,
    )


def build_dataset(request: DatasetRequest) -> RegionDatasets:
    """The dataset of a request, by its registered builder (``build_info.builder``)."""
    return registry.get("dataset", request.config.build_info.builder)(request)


@registry.register("dataset", "dynrefer_shards")
@registry.register("dataset", "dynrefer")
def build_region_dataset(request: DatasetRequest) -> RegionDatasets:
    """A dataset from annotation files in the release's format, or from shards of them."""
    info = request.config.build_info
    if bool(info.shards) != (info.builder == "dynrefer_shards"):
        raise ConfigError(
            f"datasets.{request.name}.build_info has builder: {info.builder} and shards: "
            f"{dict(info.shards)}; shards and builder: dynrefer_shards go together"
        )
    if info.num_views not in (None, request.num_views):
        raise ConfigError(
            f"datasets.{request.name}.build_info.num_views is {info.num_views}, model.num_views is "
            f"{request.num_views}; they must agree"
        )
    if info.with_seg or not info.obj_lvl:
        raise ConfigError(
            f"datasets.{request.name}.build_info has with_seg: {info.with_seg} and obj_lvl: "
            f"{info.obj_lvl}; regions are used as boxes, one a training sample, as in every "
            "published configuration: with_seg: false, obj_lvl: true"
        )
    if info.image_root is not None and not Path(info.image_root).is_dir():
        raise FileNotFoundError(
            f"datasets.{request.name}.build_info.image_root: no folder at {info.image_root}"
        )
    step = "train" if request.training else "eval"
    image_options = request.config.vis_processor[step]
    text_options = request.config.text_processor[step]
    image_processor = registry.get("processor", image_options.name)(
        image_options.image_size or request.image_size, request.selector
    )
    if image_processor.image_size != request.image_size:
        raise ConfigError(
            f"datasets.{request.name}.vis_processor.{step}.image_size is "
            f"{image_processor.image_size}, model.image_size is {request.image_size}"
        )
    control_words = ControlWordSampler(info.full_drop_ratio, info.drop_ratio)
    caption_processor = registry.get("processor", text_options.name)()
    parts = []
    for path in annotation_files(request.config, request.name, request.split):
        index = open_annotations(request.config, path, request.training)
        counts = index.region_counts[: image_limit(request.config)]
        if info.check_images:
            _check_image_files(index, np.flatnonzero(counts), not skips_bad_records(request.config))
        samples = counts.sum() if request.training else np.count_nonzero(counts)
        if not samples:
            raise ConfigError(
                f"datasets.{request.name}.build_info.max_imgs: {info.max_imgs:g}; none of so many "
                f"first images of {path} has a region"
            )
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


def _check_image_files(index: AnnotationIndex, positions: np.ndarray, strict: bool) -> None:
    faults = unreadable_images(index, positions.tolist())
    if not faults:
        return
    message = f"{index.source}: {summary_of(faults, len(positions))}"
    if strict:
        raise ValueError(f"{message}; 'bad_records: skip' leaves them out")
    logger.warning("%s", message)


def skips_bad_records(config: DictConfig) -> bool:
    """Whether records and images that cannot be used are left out, ``build_info.bad_records``."""
    return config.build_info.bad_records == "skip"


def image_limit(config: DictConfig) -> int:
    """How many of a file's first images count, ``build_info.max_imgs``."""
    return int(config.build_info.max_imgs)


def instances_file(config: DictConfig, split: str) -> Path | None:
    """COCO's instances file of a split, where the dataset has one."""
    path = OmegaConf.to_container(config.build_info.instances).get(split)
    return Path(path) if path else None
