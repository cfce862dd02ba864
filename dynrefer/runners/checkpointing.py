"""Checkpoints of a run: weights as safetensors, the rest of the state beside them.

    checkpoints/step-00000120/trainable.safetensors   parameters that training changes
                              frozen.safetensors      the others, where no file holds them
                              state.pt                optimiser, scaler, generators, position
                              config.yaml
    checkpoints/last, best                            links to such folders

A folder is complete before a link points to it, and links are replaced in one step: at any moment
``last`` is a whole checkpoint.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import save_file
from torch import Tensor, nn

from dynrefer.distributed import barrier, gather_objects, is_main, rank, world_size
from dynrefer.models import checkpoints

LINKS = ("last", "best")


@dataclass
class Position:
    """Where training stands: the next step to take, and the best score so far."""

    epoch: int = 0
    step: int = 0
    global_step: int = 0
    best_score: float = float("-inf")


def save_checkpoint(
    directory: Path,
    model: nn.Module,
    config: DictConfig,
    position: Position,
    training: dict[str, Any],
    links: tuple[str, ...] = ("last",),
) -> Path:
    """Writes a checkpoint and moves the links to it.

    Args:
        directory: the run's ``checkpoints`` folder.
        model: without DistributedDataParallel around it.
        training: state dicts of optimiser and scaler.
        links: of "last" and "best".

    Returns:
        The checkpoint's folder.
    """
    generators = gather_objects(_generator_state())
    if is_main():
        folder = _new_folder(directory, f"step-{position.global_step:08d}")
        part = directory / f".{folder.name}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        trainable, frozen = checkpoints.split_trainable(model)
        save_file(trainable, part / checkpoints.TRAINABLE)
        frozen = _without_source(frozen, config)
        if frozen:
            save_file(frozen, part / checkpoints.FROZEN)
        state = {"position": vars(position), "generators": generators, **training}
        torch.save(state, part / "state.pt")
        own = config.copy()
        if not config.model.vision.freeze:
            own.model.vision.checkpoint = None  # its weights are in this checkpoint
        OmegaConf.save(own, part / "config.yaml")
        part.replace(folder)
        for link in links:
            _point(directory / link, folder)
        _remove_unlinked(directory)
    barrier()
    return (directory / links[0]).resolve()


def load_checkpoint(path: Path, model: nn.Module) -> tuple[Position, dict[str, Any]]:
    """Loads weights and generators to resume from; returns the position and the training state.

    Raises:
        FileNotFoundError, ValueError: no checkpoint, another architecture, or another number of
            processes than it was written with.
    """
    checkpoints.load_directory(model, path)
    state = checkpoints.read_checkpoint(path / "state.pt")
    generators = state.pop("generators")
    if len(generators) != world_size():
        raise ValueError(
            f"{path} was written by {len(generators)} processes and cannot be resumed by "
            f"{world_size()}; the global batches would differ"
        )
    _restore_generators(generators[rank()])
    return Position(**state.pop("position")), state


def _generator_state() -> dict[str, Any]:
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state().cpu()
    return state


def _restore_generators(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _without_source(frozen: dict[str, Tensor], config: DictConfig) -> dict[str, Tensor]:
    """The frozen weights that no file of the configuration holds, so that only this run does."""
    model = config.model
    if model.pretrained is not None:
        return {}
    sources = {
        "vision.": model.vision.checkpoint,
        "text_encoder.": model.text_encoder.options.get("checkpoint"),
        "caption_decoder.language_model.": model.caption_decoder.language_model,
    }
    known = tuple(prefix for prefix, file in sources.items() if file is not None)
    return {name: tensor for name, tensor in frozen.items() if not name.startswith(known)}


def _new_folder(directory: Path, name: str) -> Path:
    """A folder of that name, or of that name and a number: ``last`` may still point to the first.

    Two checkpoints of one step arise at the end of an epoch, before and after its evaluation.
    """
    folder, number = directory / name, 1
    while folder.exists():
        number += 1
        folder = directory / f"{name}.{number}"
    return folder


def _point(link: Path, target: Path) -> None:
    temporary = link.with_name(f".{link.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target.name, target_is_directory=True)
    temporary.replace(link)


def _remove_unlinked(directory: Path) -> None:
    kept = {(directory / link).resolve() for link in LINKS if (directory / link).exists()}
    for pattern in ("step-*", ".step-*.part"):
        for folder in directory.glob(pattern):
            if folder.resolve() not in kept:
                shutil.rmtree(folder)
