"""Worker processes that neither hang at their start nor outlive the process that started them."""

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any


class _Pool(ProcessPoolExecutor):
    def __exit__(self, kind: type | None, error: BaseException | None, traceback: Any) -> None:
        super().__exit__(kind, error, traceback)
        if isinstance(error, BrokenProcessPool):
            raise ChildProcessError(
                "a worker process ended before its work; either memory ran out, or the script that "
                "asked for the work begins it again in every process that imports it: put it "
                'under `if __name__ == "__main__":`'
            ) from error


def worker_pool(
    processes: int, initializer: Callable[..., Any], arguments: tuple[Any, ...]
) -> ProcessPoolExecutor:
    """A pool whose workers are spawned: a fork of a process with threads can hang.

    As a context manager it raises ChildProcessError where a worker died.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        os._exit(1)  # a worker that imports the script that started it: the parent says so
    context = multiprocessing.get_context("spawn")
    return _Pool(processes, context, _start, (initializer, *arguments))


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
