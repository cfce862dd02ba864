"""The part of the schema (``dynrefer.config.schema``) that describes a dataset."""

from dataclasses import dataclass

from omegaconf import MISSING

from dynrefer.config.values import choice, count, number, part


@dataclass
class ProcessorConfig:
    """Registered processor of one split."""

    name: str = MISSING
    image_size: int | None = count(None)


@dataclass
class ImageProcessorsConfig:
    """Processors of images in training and in evaluation."""

    train: ProcessorConfig = part(ProcessorConfig, "dynrefer")
    eval: ProcessorConfig = part(ProcessorConfig, "dynrefer")


@dataclass
class TextProcessorsConfig:
    """Processors of captions in training and in evaluation."""

    train: ProcessorConfig = part(ProcessorConfig, "blip_caption")
    eval: ProcessorConfig = part(ProcessorConfig, "blip_caption")


@dataclass
class BuildInfoConfig:
    """What a dataset is built from.

    ``annotations`` maps train, val and test to lists of annotation files; ``instances`` maps a
    split to COCO's or LVIS's instances file, for box AP; ``max_imgs`` limits the images read. Where
    a split's annotations are boxes of a detector, ``ground_truth`` maps it to the file that they
    are judged by. ``shards`` maps a split to shards folders in place of its annotation files and
    images, for ``builder: dynrefer_shards``. ``bad_records`` "skip" leaves out, and counts, records
    and images that "strict" raises for; ``check_images`` opens every image's header first.
    """

    builder: str = "dynrefer"
    annotations: dict[str, list[str]] = part(dict)
    shards: dict[str, list[str]] = part(dict)
    instances: dict[str, str] = part(dict)
    ground_truth: dict[str, list[str]] = part(dict)
    image_root: str | None = None
    tag_list: str | None = None
    num_views: int | None = count(None, 1, 11)
    with_seg: bool = False
    obj_lvl: bool = True
    max_imgs: float = number(1e7, 1, whole=True)
    max_objs: float = number(1e7, 1, whole=True)
    bad_records: str = choice("strict", "skip")
    check_images: bool = False
    full_drop_ratio: float = number(0.5, 0, 1)
    drop_ratio: float = number(0.5, 0, 1)


@dataclass
class DatasetConfig:
    """One dataset: its processors and what it is built from."""

    vis_processor: ImageProcessorsConfig = part(ImageProcessorsConfig)
    text_processor: TextProcessorsConfig = part(TextProcessorsConfig)
    build_info: BuildInfoConfig = part(BuildInfoConfig)
