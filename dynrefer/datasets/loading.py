"""Loading batches by worker processes that take little memory."""

import ctypes
import gc
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

import cv2
import torch
from omegaconf import DictConfig
from torch.utils.data import DataLoader, Dataset

from dynrefer.datasets.batch import RegionBatch
from dynrefer.workers import end_with_parent

_M_MMAP_THRESHOLD = -3  # of glibc's mallopt
_LARGE_BLOCK = 4 << 20  # bytes: batches and their copies, not single images


def make_loader(
    dataset: Dataset, run: DictConfig, device: torch.device, **sampling: Any
) -> DataLoader:
    """A loader of RegionBatches for a device with the workers and the timeout of a run's section.

    ``sampling`` are options of DataLoader, e.g. ``batch_sampler``.
    """
    return DataLoader(
        dataset,
        num_workers=run.num_workers,
        collate_fn=RegionBatch.collate,
        pin_memory=device.type == "cuda",
        timeout=run.loader_timeout if run.num_workers else 0,
        # A generator of its own: the loader must not move the model's random numbers.
        generator=torch.Generator().manual_seed(run.seed),
        **sampling,
    )


def start_loading(loader: DataLoader) -> Iterator[RegionBatch]:
    """The batches of a loader, whose workers start now and stay small.

    A forked worker shares its parent's memory until one of them writes to it, and the garbage
    collector writes to every object it looks at: workers leave what exists by now alone. Raises
    TimeoutError where a worker gave no batch in the loader's ``timeout``, ChildProcessError where
    one was killed.
    """
    if not loader.num_workers:
        return iter(loader)
    loader.worker_init_fn = _set_up_worker
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # views are cut by it, and a fork that uses its threads can hang
    gc.collect()
    gc.freeze()
    try:
        return _named_failures(iter(loader), loader.timeout)
    finally:
        gc.unfreeze()
        cv2.setNumThreads(threads)


def _named_failures(batches: Iterator[RegionBatch], timeout: float) -> Iterator[RegionBatch]:
    try:
        yield from batches
    except RuntimeError as error:
        if "DataLoader timed out" in str(error):
            raise TimeoutError(
                f"no batch came for {timeout:g} s (run.loader_timeout): {_waited_for(batches)} "
                "hangs; is the disk or the network that holds the images reachable?"
            ) from error
        raise (killed_worker(error) or error) from None


def killed_worker(error: RuntimeError) -> ChildProcessError | None:
    """What torch's error about a dead worker means; None for another error."""
    found = re.search(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)", str(error))
    if found is None:
        return None
    return ChildProcessError(
        f"worker process {found[1]} of the data loader was killed, most likely because the memory "
        "is used up: lower run.num_workers or the batch size (in a container, give it more "
        "shared memory)"
    )


def _waited_for(batches: Iterator[RegionBatch]) -> str:
    """The worker whose batch is the next one."""
    number, *_ = batches._task_info[batches._rcvd_idx]
    return f"worker {number} (process {batches._workers[number].pid})"


def _set_up_worker(_: int) -> None:
    """Signals to the command's process group (Ctrl-C) are the main process's to answer."""
    os.setsid()
    end_with_parent()
    _return_large_blocks()


def _return_large_blocks() -> None:
    """Lets glibc give freed batches back at once.

    By itself it keeps them once the first is freed, in a heap that fragments: workers with batches
    of 64 regions were seen to grow from 140 to 740 MB.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
        if mallopt is not None:
            mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)
