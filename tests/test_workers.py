"""Processes that end with the one that started them."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
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


SCRIPT = """
from dynrefer.workers import worker_pool
with worker_pool(2, print, ()) as pool:
    print(list(pool.map(abs, [-1, 2])))
"""


@pytest.mark.parametrize("guarded", [True, False])
def test_a_script_that_begins_the_work_in_every_worker(tmp_path, guarded):
    """The script's own process says what is to be done, and the workers nothing."""
    before, after = SCRIPT.split("with", 1)
    work = "with" + after
    if guarded:
        work = 'if __name__ == "__main__":\n    ' + work.replace("\n", "\n    ")
    (tmp_path / "script.py").write_text(before + work)
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(workers.__file__).parent.parent)},
    )
    if guarded:
        assert done.returncode == 0 and "[1, 2]" in done.stdout
    else:
        message = done.stderr.splitlines()[-1]
        assert message.startswith("ChildProcessError: a worker process ended before its work")
        assert "bootstrapping" not in done.stderr
