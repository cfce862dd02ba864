"""Worker processes that neither hang at their start nor outlive the process that started them."""

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any


def worker_pool(
    processes: int, initializer: Callable[..., Any], arguments: tuple[Any, ...]
) -> ProcessPoolExecutor:
    """A pool whose workers are spawned: a fork of a process with threads can hang."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(processes, context, _start, (initializer, *arguments))


def _start(initializer: Callable[..., Any], *arguments: Any) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    initializer(*arguments)


def _end_with_parent() -> None:
    # Workers hold the writing end of the queue they read from, so they never see it closed.
    multiprocessing.parent_process().join()
    os._exit(1)
