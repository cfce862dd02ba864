"""The project's scripts in processes of their own.

``run_command`` starts anything from nothing. ``run_script`` and ``run_together`` fork from a server
that has imported the libraries once: all of a process is real but the seconds of its imports.
"""

import functools
import importlib
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 120  # seconds; far more than any command here takes

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(
    ["dynrefer.predictor", "dynrefer.runners.entry", "dynrefer.pictures"]
    + ["jinja2", "textblob", "transformers.models.t5.modeling_t5"]  # imported where they are used
)


def environment_of(**more: str) -> dict[str, str]:
    """This process's environment for a command: one thread, modules of this folder."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **more}


def run_command(*command: object, cwd: Path | None = None, **more: str):
    """A finished command: ``returncode``, ``stdout``, ``stderr``."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment_of(**more),
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )


def run_script(*command: object, cwd: Path | None = None, before: str | None = None, **more: str):
    """A script of the project, or one of its modules ("-m", name, ...), in one process.

    Args:
        cwd: the working directory, else this process's.
        before: a module that is imported first.
        more: what the environment gets.
    """
    (result,) = _run(command, cwd, before, [more])
    return result


def run_together(
    *command: object, processes: int = 2, cwd: Path | None = None, before: str | None = None
):
    """The same in a process group, with the environment that torchrun gives.

    Returns:
        What each process printed and how it ended, by rank.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [{**group, "RANK": str(r), "LOCAL_RANK": str(r)} for r in range(processes)]
    return _run(command, cwd, before, ranks)


@contextmanager
def running_script(*command: object, cwd: Path, **more: str):
    """A script in one process while it runs: the process, and the file of what it prints.

    It is killed in the end if it still runs.
    """
    printed = cwd / "printed"
    words = [str(word) for word in command]
    start = functools.partial(_become, words, cwd, None)
    process = context.Process(target=start, args=(environment_of(**more), printed, printed))
    process.start()
    try:
        yield process, printed
    finally:
        process.kill()
        process.join()


def _run(command, cwd, before, environments):
    words = [str(word) for word in command]
    start = functools.partial(_become, words, cwd or Path.cwd(), before)
    with tempfile.TemporaryDirectory() as streams:
        files = [[Path(streams, f"{kind}{i}") for kind in "oe"] for i in range(len(environments))]
        running = [
            context.Process(target=start, args=(environment_of(**more), *streams))
            for more, streams in zip(environments, files, strict=True)
        ]
        for process in running:
            process.start()
        for process in running:
            process.join(LIMIT)
        late = [process for process in running if process.exitcode is None]
        for process in late:
            process.kill()
            process.join()
        if late:
            raise subprocess.TimeoutExpired(words, LIMIT)
        return [
            subprocess.CompletedProcess(words, process.exitcode, *(p.read_text() for p in streams))
            for process, streams in zip(running, files, strict=True)
        ]


def _become(words, cwd, before, environment, out, err):
    """Turns a fresh fork of the server into ``python WORD ...``, with its output in files."""
    for stream, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    multiprocessing.set_start_method(None, force=True)  # Python's own, not this server
    sys.path.insert(0, str(ROOT))
    if before:
        importlib.import_module(before)
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        script = ROOT / words[0]
        sys.argv = [str(script), *words[1:]]
        sys.path.insert(0, str(script.parent))
        runpy.run_path(str(script), run_name="__main__")
