"""Processes that end with the one that started them."""

import multiprocessing
import os
from types import SimpleNamespace

import pytest

from dynrefer import workers


class Ended(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("is_alive", [True, False])
def test_a_parent_that_died_during_the_start(monkeypatch, is_alive):
    """The kernel's signal comes only for a death after it was asked for."""

    def end(code: int) -> None:
        raise Ended(code)

    parent = SimpleNamespace(is_alive=lambda: is_alive)
    calls: list[tuple[int, int]] = []
    library = SimpleNamespace(prctl=lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(workers.ctypes, "CDLL", lambda _: library)
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: parent)
    monkeypatch.setattr(os, "_exit", end)
    if is_alive:
        workers.end_with_parent()
    else:
        with pytest.raises(Ended):
            workers.end_with_parent()
    assert len(calls) == 1
