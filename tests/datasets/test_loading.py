"""Loading: the same batches, nothing left frozen, freed batches given back by workers."""

import ctypes
import gc
import multiprocessing
import os
import platform
import signal
import time
from pathlib import Path

import cv2
import pytest
import torch
from omegaconf import OmegaConf
from torch.utils.data import DataLoader, TensorDataset

from dynrefer.datasets import loading
from dynrefer.datasets.batch import RegionBatch
from dynrefer.datasets.loading import (
    _return_large_blocks,
    killed_worker,
    make_loader,
    start_loading,
)

BLOCK = 8 << 20


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_the_loader(workers):
    data = TensorDataset(torch.arange(10))
    loader = DataLoader(data, batch_size=4, num_workers=workers)
    loaded = [batch.tolist() for (batch,) in start_loading(loader)]
    assert loaded == [batch.tolist() for (batch,) in DataLoader(data, batch_size=4)]
    assert gc.get_freeze_count() == 0


class Broken(DataLoader):
    def __iter__(self):
        raise OSError("no process to be had")


def test_nothing_stays_frozen_after_an_error():
    with pytest.raises(OSError, match="no process"):
        start_loading(Broken(TensorDataset(torch.arange(3))))
    assert gc.get_freeze_count() == 0


class FrozenCount:
    def __len__(self):
        return 1

    def __getitem__(self, i):
        return gc.get_freeze_count()


def test_a_worker_leaves_what_exists_alone():
    (counted,) = start_loading(DataLoader(FrozenCount(), num_workers=1))
    assert int(counted) > 10_000


def resident():
    """Pages of this process in memory, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def grow_and_free(kept):
    """What stays of freed blocks with small ones in between that are still in use."""
    _return_large_blocks()  # without it all of them
    malloc = ctypes.CDLL(None).malloc
    malloc.restype = ctypes.c_void_p
    del bytearray(BLOCK)[:]  # freed: from here on glibc takes such blocks from its heap
    before = resident()
    blocks = []
    for _ in range(20):
        blocks.append(bytearray(b"x") * BLOCK)
        ctypes.memset(malloc(100_000), 1, 100_000)
    blocks.clear()
    kept.put(resident() - before)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc")
def test_freed_blocks_are_given_back():
    # Spawned: a forked process would fill what earlier tests have freed in the parent's heap.
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=grow_and_free, args=(results,))
    process.start()
    assert results.get(timeout=60) < 5 * BLOCK
    process.join()


def test_workers_do_not_hang_where_opencv_had_threads():
    """A fork of a process whose OpenCV has threads hangs once in 50 times, or each second time."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(4)
    try:
        loader = DataLoader(ThreadsOfOpenCV(), num_workers=1)
        assert [int(count) for count in start_loading(loader)] == [1]
        assert cv2.getNumThreads() == 4
    finally:
        cv2.setNumThreads(threads)


class ThreadsOfOpenCV:
    def __len__(self):
        return 1

    def __getitem__(self, i):
        return cv2.getNumThreads()


class Slow:
    """Numbers, of which the second never comes; or whose worker is killed by it."""

    def __init__(self, killed):
        self.killed = killed

    def __len__(self):
        return 4

    def __getitem__(self, i):
        if i == 1 and self.killed:
            os.kill(os.getpid(), signal.SIGKILL)
        if i == 1:
            time.sleep(60)
        return i


def test_a_loader_that_hangs_is_ended_and_its_worker_named(monkeypatch):
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.5)  # until it is shot
    loader = DataLoader(Slow(killed=False), num_workers=2, timeout=1)
    batches = start_loading(loader)
    assert int(next(batches)) == 0
    with pytest.raises(
        TimeoutError, match=r"for 1 s \(run.loader_timeout\): worker 1 \(process \d"
    ):
        next(batches)


def test_a_killed_worker_speaks_of_memory():
    """Torch raises in the main process wherever it is, or where it waits for the batch."""
    with pytest.raises((RuntimeError, ChildProcessError)) as raised:
        list(start_loading(DataLoader(Slow(killed=True), num_workers=1)))
    error = raised.value
    told = error if isinstance(error, ChildProcessError) else killed_worker(error)
    assert "was killed, most likely because the memory is used up: lower run.num_w" in str(told)
    assert killed_worker(RuntimeError("another one")) is None


class Prepared:
    """Says whether the process that reads it leads a session, and was prepared."""

    blocks = False

    def __len__(self):
        return 1

    def __getitem__(self, i):
        return os.getsid(0) == os.getpid(), Prepared.blocks


def test_workers_are_prepared(monkeypatch):
    """Signals of the terminal do not reach them, and they return large blocks."""
    monkeypatch.setattr(loading, "_return_large_blocks", lambda: setattr(Prepared, "blocks", True))
    ((alone, blocks),) = start_loading(DataLoader(Prepared(), num_workers=1))
    assert bool(alone) and bool(blocks) and not Prepared.blocks


@pytest.mark.parametrize("workers", [0, 1])
def test_the_loader_of_a_run(workers):
    run = OmegaConf.create({"num_workers": workers, "loader_timeout": 7, "seed": 5})
    data = TensorDataset(torch.arange(3))
    loader = make_loader(data, run, torch.device("cuda"), batch_size=2)
    assert (loader.num_workers, loader.timeout) == (workers, 7 * workers)
    assert loader.pin_memory and loader.batch_size == 2 and loader.generator.initial_seed() == 5
    assert loader.collate_fn == RegionBatch.collate
    assert not make_loader(data, run, torch.device("cpu")).pin_memory
