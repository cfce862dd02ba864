"""The folder of a run: whose it is, what may begin in it, and what a run leaves there."""

import fcntl
import logging
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from omegaconf import DictConfig, OmegaConf

from dynrefer.checkpoints.folders import CONFIG
from dynrefer.config import ConfigError, require
from dynrefer.distributed import is_main
from dynrefer.files import write_text

logger = logging.getLogger(__name__)

LOG, CHECKPOINTS, LOCK = "log.jsonl", "checkpoints", ".lock"
# What evaluations add (dynrefer.runners.evaluation); written anew, so none of it makes a run.
RESULTS = "results"
_RESULTS = (RESULTS, "metrics-*", "regions-*")


def make_output_dir(path: Path) -> Path:
    """Makes a folder; PermissionError, which names run.output_dir, where nothing can be written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        for folder in (path, path / RESULTS):
            if folder.exists():
                probe = folder / f".writable-{os.getpid()}"
                probe.touch()
                probe.unlink()
    except OSError as error:
        raise PermissionError(
            f"run.output_dir '{path}' cannot be written ({error}); choose another folder with "
            "--options run.output_dir=DIR"
        ) from error
    return path


@contextmanager
def claimed_folder(config: DictConfig) -> Iterator[Path]:
    """The folder of a training run, which is this run's alone while the context lasts.

    Raises ConfigError where another run is at work there, or where it holds one and the
    configuration says neither that this goes on with it nor that it may be deleted.
    """
    folder = make_output_dir(Path(require(config, "run.output_dir")))
    if not is_main():
        yield folder
        return
    with _locked(folder / LOCK, folder) as lock:
        _check_what_is_there(config, folder)
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
        yield folder


@contextmanager
def _locked(path: Path, folder: Path) -> Iterator[TextIO]:
    """Holds a lock that ends with this process, and that its children do not have."""
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            file.seek(0)
            raise ConfigError(
                f"another run is at work in run.output_dir '{folder}' ({file.read().strip()}); "
                "wait for its end, or choose another folder"
            ) from error
        except OSError as error:
            logger.warning("%s cannot be locked (%s); a second run would not be seen", path, error)
        yield file


def _check_what_is_there(config: DictConfig, folder: Path) -> None:
    run, own = config.run, (folder / CHECKPOINTS).resolve()
    former = Path(run.resume_ckpt_path).resolve().parent if run.resume_ckpt_path else None
    goes_on = run.resume == "auto" or former == own
    if goes_on and run.overwrite:
        raise ConfigError("run.overwrite deletes the run that run.resume would go on with")
    there = [name for name in (CHECKPOINTS, LOG, CONFIG) if (folder / name).exists()]
    if there and not goes_on and not run.overwrite:
        raise ConfigError(
            f"run.output_dir '{folder}' holds a run ({', '.join(there)}). Go on with it by "
            "run.resume=auto, choose another folder by run.output_dir=DIR, or delete it by "
            "run.overwrite=true"
        )


def begin(config: DictConfig, folder: Path) -> None:
    """Writes the configuration of a run that begins or goes on; deletes what it overwrites."""
    if not is_main():
        return
    if config.run.overwrite:
        for pattern in (CHECKPOINTS, LOG, CONFIG, *_RESULTS):
            for path in folder.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_text(folder / CONFIG, OmegaConf.to_yaml(config))
