"""Worker processes that neither hang at their start nor outlive the process that started them."""

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any


def worker_pool(
    processes: int, initializer: Callable[..., Any], arguments: tuple[Any, ...]
) -> ProcessPoolExecutor:
    """A pool whose workers are spawned: a fork of a process with threads can hang."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(processes, context, _start, (initializer, *arguments))


def end_with_parent() -> None:
    """Has Linux kill this process when its parent dies: workers wait for work for ever."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():  # it died while this process was starting
        os._exit(1)


def _start(initializer: Callable[..., Any], *arguments: Any) -> None:
    end_with_parent()
    initializer(*arguments)
