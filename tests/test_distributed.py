import os
import socket
import subprocess
import sys
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynrefer import distributed
from dynrefer.distributed import (
    EvaluationSampler,
    TrainingBatchSampler,
    gather_constant,
    gather_objects,
    mean_over_processes,
    start,
)


@pytest.fixture
def processes(monkeypatch):
    """Lets the samplers believe that they are one of several processes."""

    def pretend(rank, world_size):
        monkeypatch.setattr(distributed, "world_size", lambda: world_size)
        monkeypatch.setattr(distributed, "rank", lambda: rank)

    return pretend


def batches_of(samples, batch_size, epoch=0, first_step=0, seed=3):
    sampler = TrainingBatchSampler(samples, batch_size, seed)
    sampler.set_position(epoch, first_step)
    return list(sampler), len(sampler)


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_processes_share_the_global_batches_of_one_process(processes, world_size):
    samples, batch_size = 53, 3
    alone, steps = batches_of(samples, batch_size * world_size, epoch=5)
    parts = []
    for rank in range(world_size):
        processes(rank, world_size)
        part, length = batches_of(samples, batch_size, epoch=5)
        assert length == steps == len(part)
        parts.append(part)
    for step, whole in enumerate(alone):
        assert [i for part in parts for i in part[step]] == whole


def test_an_epoch_takes_each_sample_once_and_leaves_out_the_rest():
    batches, steps = batches_of(23, 4)
    taken = [i for batch in batches for i in batch]
    assert steps == 5 and len(taken) == len(set(taken)) == 20
    assert set(taken) <= set(range(23))


def test_epochs_and_seeds_have_their_own_order():
    orders = [batches_of(40, 4, epoch, seed=seed)[0] for epoch, seed in ((0, 0), (1, 0), (0, 1))]
    assert orders[0] != orders[1] and orders[0] != orders[2] and orders[1] != orders[2]
    assert orders[1] == batches_of(40, 4, epoch=1, seed=0)[0]


@pytest.mark.parametrize("first_step", [0, 1, 4, 5])
def test_position_resumes_within_an_epoch(first_step):
    whole, steps = batches_of(23, 4, epoch=2)
    rest, length = batches_of(23, 4, epoch=2, first_step=first_step)
    assert rest == whole[first_step:] and length == steps


def test_the_torch_generator_is_left_alone():
    before = torch.get_rng_state()
    batches_of(30, 5)
    assert torch.equal(before, torch.get_rng_state())


def test_too_few_samples(processes):
    processes(0, 4)
    assert batches_of(8, 2)[1] == 1
    with pytest.raises(ValueError, match="7 training samples do not fill .* 2 x 4 processes"):
        batches_of(7, 2)


@given(samples=st.integers(0, 50), world_size=st.integers(1, 7))
def test_evaluation_takes_each_sample_once(samples, world_size):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "world_size", lambda: world_size)
        taken = []
        for rank in range(world_size):
            patch.setattr(distributed, "rank", lambda rank=rank: rank)
            sampler = EvaluationSampler(samples)
            part = list(sampler)
            assert len(part) == len(sampler) and abs(len(part) - samples / world_size) < 1
            assert part == list(range(rank, samples, world_size))
            taken += part
    assert sorted(taken) == list(range(samples))


def test_one_process_gathers_its_own():
    values = torch.randn(3, 2, requires_grad=True)
    gathered, first = gather_constant(values)
    assert torch.equal(gathered, values) and first == 0 and not gathered.requires_grad
    mean = mean_over_processes(values)
    assert torch.equal(mean, values) and not mean.requires_grad
    mean += 1
    assert not torch.equal(mean, values)
    assert gather_objects({"a": 1}) == [{"a": 1}]


def test_start_without_torchrun(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert start("cpu") == torch.device("cpu")
    assert start("auto").type in ("cpu", "cuda")
    assert (distributed.world_size(), distributed.rank(), distributed.is_main()) == (1, 0, True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU where there is none")
@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_missing_gpu(name):
    with pytest.raises(ValueError, match=f"run.device: '{name}': torch sees 0 GPUs; valid: auto"):
        start(name)


@pytest.mark.parametrize("name", ["gpu", "cudax", "cuda:x", "cpu:", "mps", ""])
def test_unknown_device(name):
    with pytest.raises(ValueError, match=f"run.device: '{name}'; valid: auto, cpu, cuda, cuda:0"):
        start(name)


@pytest.mark.parametrize("count", ["0", "-1", "two", ""])
def test_a_number_of_processes_that_is_none(monkeypatch, count):
    monkeypatch.setenv("WORLD_SIZE", count)
    with pytest.raises(ValueError, match=f"WORLD_SIZE is '{count}' in the environment"):
        start("cpu")


def test_a_rank_without_peers_runs_alone(monkeypatch):
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert start("cpu") == torch.device("cpu") and distributed.world_size() == 1


def test_peers_that_never_come(monkeypatch, caplog):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    for name, value in (("RANK", 0), ("WORLD_SIZE", 2), ("MASTER_PORT", port)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(ConnectionError, match=f"127.0.0.1:{port}: Timed out"):
        start("cpu", join_minutes=0.02)
    assert f"waiting for 2 processes at 127.0.0.1:{port}" in caplog.text
    assert distributed.world_size() == 1


def test_a_port_in_use_is_named(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for name, value in (("RANK", 0), ("WORLD_SIZE", 2), ("LOCAL_RANK", 0)):
            monkeypatch.setenv(name, str(value))
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setattr(distributed, "end_with_parent", lambda: None)
        monkeypatch.setenv("MASTER_PORT", str(port))
        with pytest.raises(ConnectionError, match=rf"127.0.0.1:{port}: .*\n.*--master_port PORT"):
            start("cpu")
    assert distributed.world_size() == 1


def test_a_process_ends_with_its_parent():
    """A rank, or a worker of a loader, does not outlive who started it."""
    code = (
        "import os, subprocess, sys, time; from dynrefer.distributed import end_with_parent; "
        "end_with_parent(); print(os.getpid(), flush=True); time.sleep(60)"
    )
    starter = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}])"
    parent = subprocess.Popen([sys.executable, "-c", starter], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    assert parent.stdout.read() == ""  # its end: the child is gone
    with pytest.raises(ProcessLookupError):
        for _ in range(100):
            os.kill(child, 0)
            time.sleep(0.05)


@pytest.mark.parametrize("by_torchrun", [True, False])
def test_a_rank_ends_with_torchrun(monkeypatch, by_torchrun):
    calls = []
    monkeypatch.setattr(distributed, "end_with_parent", lambda: calls.append("tied"))
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    if by_torchrun:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    assert start("cpu") == torch.device("cpu")
    assert calls == ["tied"] * by_torchrun


def test_incomplete_environment(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(distributed, "end_with_parent", lambda: None)
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConnectionError, match="RANK"):
        start("cpu")
