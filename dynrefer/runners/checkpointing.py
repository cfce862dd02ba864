"""Checkpoints of a run: weights as safetensors, the rest of the state beside them.

    checkpoints/step-00000120/trainable.safetensors   parameters that training changes
                              frozen.safetensors      the others, where no file holds them
                              state.pt                optimiser, scaler, generators, position
                              config.yaml, SHA256SUMS
    checkpoints/last, previous, best                  links to such folders
    checkpoints/evaluated.json                        the last checkpoint that was evaluated

Weights are written as ``save_pretrained`` writes them. A folder is whole and on the disk before a
link points to it, links are replaced in one step, and only then older folders go: at any moment,
after a power cut too, ``last`` is a whole checkpoint. ``previous`` is the one before, should the
disk lose bytes of ``last``.
"""

import itertools
import json
import logging
import shutil
from collections.abc import Collection
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from dynrefer.checkpoints.files import FROZEN, TRAINABLE, open_checkpoint
from dynrefer.checkpoints.folders import CHECKSUMS, new_folder, verify_folder, write_tensors
from dynrefer.checkpoints.formats import FORMATS
from dynrefer.checkpoints.loading import Source, split_trainable, without_held_elsewhere
from dynrefer.checkpoints.tensor_files import read_checkpoint
from dynrefer.checksums import read_checksums
from dynrefer.distributed import barrier, gather_objects, is_main, rank, world_size
from dynrefer.files import sync, write_text
from dynrefer.models import pretrained
from dynrefer.models.dynrefer import DynRefer

logger = logging.getLogger(__name__)

LINKS = ("last", "previous", "best")
STATE, EVALUATED = "state.pt", "evaluated.json"


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
    before: Path | None = None,
) -> Path:
    """Writes a checkpoint, has ``last`` point to it, and removes what no link names any more.

    ``directory`` is the run's ``checkpoints`` folder, in which the returned folder lies;
    ``training`` are plain values and tensors beside position and generators, e.g. the optimiser's;
    ``before`` is the run's checkpoint before this one, for ``previous``.

    Raises FloatingPointError where a weight is not finite (nothing is written), and OSError where
    the folder cannot be written (``last`` is what it was).
    """
    generators = gather_objects(_generator_state())
    folder = gather_objects(_free_name(directory, f"step-{position.global_step:08d}"))[0]
    trainable, frozen = split_trainable(model)
    _check_finite(trainable)
    if is_main():
        frozen = without_held_elsewhere(model, frozen)
        with new_folder(folder) as part:
            for stem, tensors in ((TRAINABLE, trainable), (FROZEN, frozen)):
                write_tensors(part, stem, tensors.items())
            state = {"position": vars(position), "generators": generators, **training}
            with (part / STATE).open("wb") as file:
                torch.save(state, file)
            own = config.copy()
            if any(name.startswith("vision.") for name in trainable):
                own.model.vision.checkpoint = None  # its weights are in this checkpoint
            pretrained.save_run_config(model, own, part)
        if before is not None and before.is_dir():
            point(directory / "previous", before)
        point(directory / "last", folder)
        _remove_unlinked(directory)
    barrier()
    return folder


def point(link: Path, folder: Path) -> None:
    """Has a link point to a folder beside it, in one step."""
    temporary = link.with_name(f".{link.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(folder.name, target_is_directory=True)
    temporary.replace(link)
    sync(link.parent)


def note_evaluated(directory: Path, folder: Path, best_score: float) -> None:
    """Writes down that a checkpoint was evaluated, and the best score up to it."""
    content = {"checkpoint": folder.name, "best_score": best_score}
    write_text(directory / EVALUATED, json.dumps(content) + "\n")


def evaluated_score(folder: Path) -> float | None:
    """The best score up to a checkpoint, where it was the last one to be evaluated."""
    path = folder.resolve().parent / EVALUATED
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    is_it = content.get("checkpoint") == folder.resolve().name
    return content["best_score"] if is_it else None


def newest_checkpoint(directory: Path) -> Path | None:
    """The newest whole checkpoint of a run; None where there is none at all.

    Says which ones cannot be used, and why. Raises ValueError where none of them is whole.
    """
    reasons = []
    links = [directory / link for link in ("last", "previous")]
    if not links[0].exists() and any(directory.glob("step-*")):
        logger.warning("%s is missing", links[0])
    folders = [link.resolve() for link in links if link.exists()]
    folders += sorted(directory.resolve().glob("step-*"), reverse=True)
    for folder in dict.fromkeys(folders):
        try:
            check_whole(folder)
        except (ValueError, OSError) as error:
            reasons.append(str(error))
            logger.warning("%s is passed over: %s", folder, error)
        else:
            return folder
    if reasons:
        raise ValueError(
            f"{directory} holds no whole checkpoint; run.overwrite=true starts anew: {reasons[0]}"
        )
    return None


def check_whole(folder: Path) -> None:
    """Raises ValueError or OSError where a checkpoint is not what a run wrote."""
    if not (folder / STATE).is_file():
        raise FileNotFoundError(f"no checkpoint at {folder} ({STATE} is missing)")
    if not (folder / CHECKSUMS).is_file():
        raise ValueError(_of_another_version(folder, f"there is no {CHECKSUMS}"))
    if STATE not in read_checksums(folder / CHECKSUMS):
        raise ValueError(f"{folder / CHECKSUMS} is broken: it does not name {STATE}")
    verify_folder(folder)


def load_checkpoint(
    path: Path, model: nn.Module, keys: Collection[str] = ()
) -> tuple[Position, dict[str, Any]]:
    """Loads weights and generators to resume from; returns the position and the training state.

    The checkpoint is one that :func:`check_whole` has seen; its training state must hold ``keys``.
    ``processes`` is added to it: the number of those that wrote it. Where there are more now, the
    others' generators stay as they are. Raises FileNotFoundError and ValueError where there is no
    checkpoint, or one of another architecture or version; nothing is loaded then.
    """
    state = _state(path, keys)
    tensors = open_checkpoint(path, verify=False)
    report = Source(tensors, FORMATS["dynrefer"], str(path)).load(model)
    model.held_elsewhere -= report.names
    generators = state.pop("generators")
    if rank() < len(generators):
        torch.set_rng_state(generators[rank()]["cpu"])
        if "cuda" in generators[rank()] and torch.cuda.is_available():
            torch.cuda.set_rng_state(generators[rank()]["cuda"])
    if len(generators) != world_size():
        logger.warning(
            "%s was written by %d processes and goes on with %d: the batches are the same, "
            "dropout draws other numbers", path, len(generators), world_size(),
        )  # fmt: skip
    return Position(**state.pop("position")), {**state, "processes": len(generators)}


def _state(path: Path, keys: Collection[str]) -> dict[str, Any]:
    state = read_checkpoint(path / STATE)
    lacking = sorted({"generators", "position", *keys} - state.keys())
    if not lacking:
        lacking = sorted({field.name for field in fields(Position)} ^ state["position"].keys())
    if lacking:
        what = f"{STATE} has other contents ({', '.join(lacking)})"
        raise ValueError(_of_another_version(path, what))
    return state


def _of_another_version(path: Path, what: str) -> str:
    return (
        f"{path} was written by another version and cannot be resumed: {what}; "
        f"run.load_ckpt_path={path} starts from its weights alone"
    )


def _generator_state() -> dict[str, Any]:
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state().cpu()
    return state


def _check_finite(tensors: dict[str, torch.Tensor]) -> None:
    # Largest absolute values: a sum of squares overflows where no weight is infinite.
    if torch.isfinite(nn.utils.get_total_norm(tensors.values(), float("inf"))):
        return
    names = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    raise FloatingPointError(
        f"{len(names)} of {len(tensors)} weights are not finite ({', '.join(names[:3])}, ...); no "
        "checkpoint is made of them"
    )


def _free_name(directory: Path, name: str) -> Path:
    """A folder of that name, or of that name and a number: a link may point to the first.

    A step comes a second time where a run went on from the checkpoint before.
    """
    names = itertools.chain([name], (f"{name}.{number}" for number in itertools.count(2)))
    return next(directory / free for free in names if not (directory / free).exists())


def _remove_unlinked(directory: Path) -> None:
    kept = {(directory / link).resolve() for link in LINKS if (directory / link).exists()}
    for pattern in ("step-*", ".step-*.part"):
        for folder in directory.glob(pattern):
            if folder.resolve() not in kept:
                shutil.rmtree(folder)
