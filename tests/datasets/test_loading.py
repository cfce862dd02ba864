"""Loading: the same batches, nothing left frozen, freed batches given back by workers."""

import ctypes
import gc
import multiprocessing
import platform
from pathlib import Path

import cv2
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from dynrefer.datasets import loading
from dynrefer.datasets.loading import _return_large_blocks, start_loading

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
    _return_large_blocks(0)  # without it all of them
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


class Prepared:
    """Says whether the process that reads it was prepared."""

    prepared = False

    def __len__(self):
        return 1

    def __getitem__(self, i):
        return Prepared.prepared


def test_workers_are_prepared(monkeypatch):
    prepare = lambda worker: setattr(Prepared, "prepared", True)  # noqa: E731
    monkeypatch.setattr(loading, "_return_large_blocks", prepare)
    assert bool(*start_loading(DataLoader(Prepared(), num_workers=1)))
    assert not Prepared.prepared


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
