"""Configurations of folders with models: read, and the paths in them."""

import os
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from dynrefer.assets import local_path
from dynrefer.checkpoints.files import checkpoint_of_run
from dynrefer.checkpoints.folders import CONFIG, verify_folder
from dynrefer.checkpoints.places import LANGUAGE_MODEL, TEXT_ENCODER, VISION
from dynrefer.config import load_config
from dynrefer.config.values import listed

# What own names begin with -> the key of the model section that names a file for it alone.
FILES_OF_PARTS = {
    VISION: "vision.checkpoint",
    TEXT_ENCODER: "text_encoder.options.checkpoint",
    LANGUAGE_MODEL: "caption_decoder.language_model",
}

_VIEW_SELECTORS = ["view_selector", "view_selectors", "train_view_selector"]


def folder_config(directory: str | Path, overrides: Sequence[str] = ()) -> DictConfig:
    """The configuration of a folder with a model; ``model.pretrained`` ends in that folder.

    Raises:
        FileNotFoundError: there is no such folder, or it has no configuration.
        ConfigError: the configuration is broken, or of a newer version.
    """
    directory = Path(directory)
    if directory.is_file():
        raise ValueError(
            f"{directory} is a file, where the folder of a checkpoint is expected; for weights "
            "alone give the configuration of their model with --cfg-path"
        )
    directory = checkpoint_of_run(directory)
    if not directory.is_dir():
        raise FileNotFoundError(f"no checkpoint at {directory} (there is no such folder)")
    if not (directory / CONFIG).is_file():
        raise FileNotFoundError(f"no checkpoint at {directory} ({CONFIG} is missing)")
    # Weights and a run's state are checked when they are opened.
    verify_folder(directory, without=(".safetensors", ".safetensors.index.json", ".pt"))
    config = load_config(directory / CONFIG, overrides)
    config.run.load_ckpt_path = None  # what a run started from
    sources = listed(config.model.pretrained)
    if str(directory) not in sources:
        config.model.pretrained = [*sources, str(directory)]
    return config


def view_selectors(config: DictConfig) -> DictConfig:
    """The keys of a whole configuration's run section that say how views are chosen."""
    return OmegaConf.masked_copy(config.run, _VIEW_SELECTORS)


def parts_with_files(config: DictConfig) -> tuple[str, ...]:
    """What own names of tensors begin with that a file of their own holds (``config``: model's)."""
    return tuple(part for part, key in FILES_OF_PARTS.items() if OmegaConf.select(config, key))


def from_folder(path: str, folder: Path) -> str:
    """A path as a folder's config.yaml names it; names that are no paths stay as they are."""
    found = Path(local_path(path))
    return f"./{os.path.relpath(found.resolve(), folder.resolve())}" if found.exists() else path


def outside(path: str) -> str:
    """A file outside the folder as its config.yaml names it, where "./" means the folder."""
    return str(Path(path).absolute()) if path.startswith(".") else path
