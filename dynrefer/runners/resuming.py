"""Which checkpoint a run goes on from, and whether it is the same run."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from dynrefer.config import to_plain
from dynrefer.distributed import gather_objects, is_main, world_size
from dynrefer.runners.checkpointing import check_whole, newest_checkpoint
from dynrefer.runners.run_folder import CHECKPOINTS

logger = logging.getLogger(__name__)

# Settings that training does not depend on, or that are compared in another way.
_UNTOLD = (
    "run.output_dir", "run.resume", "run.overwrite", "run.load_ckpt_path", "run.num_workers",
    "run.threads", "run.device", "run.wandb", "run.log_freq", "run.save_every",
    "run.loader_timeout", "run.batch_size", "run.report_regions", "run.max_epoch",
    "model.pretrained", "model.vision.checkpoint",
)  # fmt: skip


def checkpoint_to_resume(config: DictConfig, folder: Path) -> Path | None:
    """The checkpoint to go on from, whole; None for a start.

    With ``run.resume=auto`` it is the newest whole one of the folder, and without any that of
    ``run.resume_ckpt_path``. A ``best`` that is damaged is forgotten. Raises ValueError or OSError
    where the checkpoint that is asked for is damaged, or none is whole.
    """
    return gather_objects(_to_resume(config, folder) if is_main() else None)[0]


def _to_resume(config: DictConfig, folder: Path) -> Path | None:
    found = newest_checkpoint(folder / CHECKPOINTS) if config.run.resume == "auto" else None
    if found is None and config.run.resume_ckpt_path:
        found = Path(config.run.resume_ckpt_path)
        check_whole(found)
    best = folder / CHECKPOINTS / "best"
    if found is not None and best.is_symlink() and best.resolve() != found.resolve():
        try:
            check_whole(best)
        except (ValueError, OSError) as error:
            logger.warning("%s is forgotten: %s", best, error)
            best.unlink()
    return found


def check_same_data(path: Path, state: Mapping[str, Any], config: DictConfig, samples: int) -> None:
    """Raises ValueError where the data would come in another order than they have so far.

    ``state`` is what the checkpoint at ``path`` holds besides weights (``config``, ``processes``,
    ``samples``); ``config`` and ``samples`` are those of the run which goes on.
    """

    def order(run: Mapping[str, Any], processes: int, samples: int) -> dict[str, int]:
        batch = run["batch_size_train"] * processes
        return {
            "run.seed": run["seed"],
            "the global batch (run.batch_size_train x processes)": batch,
            "run.accum_grad_iters": run["accum_grad_iters"],
            "the number of training samples (max_imgs, annotations)": samples,
        }

    old = order(state["config"]["run"], state["processes"], state["samples"])
    new = order(config.run, world_size(), samples)
    others = [f"{name} was {old[name]}, is {new[name]}" for name in old if old[name] != new[name]]
    if others:
        raise ValueError(
            f"{path} cannot be resumed: {'; '.join(others)}. The data would come in another order; "
            f"run.load_ckpt_path={path} starts from its weights alone"
        )


def tell_changes(path: Path, former: Mapping[str, Any], config: DictConfig) -> None:
    """Logs which settings the run goes on with that are not the checkpoint's."""
    old, new = _flat(former), _flat(to_plain(config))
    changes = [
        f"{key} {old.get(key)} -> {new.get(key)}"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key) and not key.startswith(_UNTOLD)
    ]
    if changes:
        logger.warning("%s had other settings; now applies: %s", path, "; ".join(changes))


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in content.items():
        name = f"{prefix}{key}"
        values |= _flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return values
