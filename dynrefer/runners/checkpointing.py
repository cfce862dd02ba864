"""Checkpoints of a run: weights as safetensors, the rest of the state beside them.

    checkpoints/step-00000120/trainable.safetensors   parameters that training changes
                              frozen.safetensors      the others, where no file holds them
                              state.pt                optimiser, scaler, generators, position
                              config.yaml
    checkpoints/last, best                            links to such folders

Weights are written as ``save_pretrained`` writes them. A folder is complete before a link
points to it, and links are replaced in one step: at any moment ``last`` is a whole checkpoint.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from dynrefer.checkpoints.files import FROZEN, TRAINABLE, open_checkpoint, read_checkpoint
from dynrefer.checkpoints.folders import new_folder, write_tensors
from dynrefer.checkpoints.formats import FORMATS
from dynrefer.checkpoints.loading import load_state, split_trainable
from dynrefer.distributed import barrier, gather_objects, is_main, rank, world_size
from dynrefer.models import pretrained
from dynrefer.models.dynrefer import DynRefer

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
    model: DynRefer,
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
        folder = _free_name(directory, f"step-{position.global_step:08d}")
        trainable, frozen = split_trainable(model)
        frozen = pretrained.without_source(frozen, config.model, model.pretrained_names)
        with new_folder(folder) as part:
            for stem, tensors in ((TRAINABLE, trainable), (FROZEN, frozen)):
                write_tensors(part, stem, tensors.items())
            state = {"position": vars(position), "generators": generators, **training}
            torch.save(state, part / "state.pt")
            own = config.copy()
            if any(name.startswith("vision.") for name in trainable):
                own.model.vision.checkpoint = None  # its weights are in this checkpoint
            pretrained.save_run_config(model, own, part)
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
    load_state(model, open_checkpoint(path), FORMATS["dynrefer"], source=str(path))
    state = read_checkpoint(path / "state.pt")
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


def _free_name(directory: Path, name: str) -> Path:
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
