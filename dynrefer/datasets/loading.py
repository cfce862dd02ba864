"""Loading batches by worker processes that take little memory."""

import ctypes
import gc
import sys
from collections.abc import Iterator

import cv2
from torch.utils.data import DataLoader

from dynrefer.datasets.batch import RegionBatch

_M_MMAP_THRESHOLD = -3  # of glibc's mallopt
_LARGE_BLOCK = 4 << 20  # bytes: batches and their copies, not single images


def start_loading(loader: DataLoader) -> Iterator[RegionBatch]:
    """The batches of a loader, whose workers start now and stay small.

    A forked worker shares its parent's memory until one of them writes to it, and the garbage
    collector writes to every object it looks at: workers leave what exists by now alone.
    """
    if not loader.num_workers:
        return iter(loader)
    loader.worker_init_fn = _return_large_blocks
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # views are cut by it, and a fork that uses its threads can hang
    gc.collect()
    gc.freeze()
    try:
        return iter(loader)
    finally:
        gc.unfreeze()
        cv2.setNumThreads(threads)


def _return_large_blocks(_: int) -> None:
    """Lets glibc give freed batches back at once.

    By itself it keeps them once the first is freed, in a heap that fragments: workers with batches
    of 64 regions were seen to grow from 140 to 740 MB.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
        if mallopt is not None:
            mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)
