"""Processes: set-up from torchrun's environment, gathers, and samplers that split work exactly."""

import logging
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import Sampler

from dynrefer.workers import end_with_parent

logger = logging.getLogger(__name__)


def world_size() -> int:
    """Number of processes; 1 without torchrun."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Index of this process; 0 without torchrun."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this process writes the files and the log."""
    return rank() == 0


def barrier() -> None:
    """Waits for every process; nothing without torchrun."""
    if dist.is_initialized():
        dist.barrier()


def device_of(name: str, what: str) -> torch.device:
    """The device of a name: "cuda", "cuda:1", "cpu", or "auto" (cuda where there is one).

    Raises ValueError, which begins with ``what``, where it is none or is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = name.partition(":")
    valid = "valid: auto, cpu, cuda, cuda:0, ..."
    if kind not in ("cpu", "cuda") or (":" in name and not index.isdecimal()):
        raise ValueError(f"{what} '{name}'; {valid}")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise ValueError(f"{what} '{name}': torch sees {torch.cuda.device_count()} GPUs; {valid}")
    return torch.device("cpu" if kind == "cpu" else name)


def start(device: str, timeout_minutes: float = 60, join_minutes: float = 5) -> torch.device:
    """Joins the process group that torchrun describes and returns this process's device.

    ``device`` is as for :func:`device_of`; a process waits for the others ``timeout_minutes`` in
    training, ``join_minutes`` here. Raises ValueError for a device or a number of processes that is
    none, ConnectionError where the group cannot be joined; the port is named, it may be taken.
    """
    chosen = device_of(device, "run.device:")
    count = os.environ.get("WORLD_SIZE", "1")
    if not count.isdecimal() or int(count) < 1:
        raise ValueError(f"WORLD_SIZE is '{count}' in the environment; valid is 1, 2, ...")
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent()  # torchrun; a shell may well end before what it started
    if int(count) == 1:
        return chosen
    if device in ("auto", "cuda") and chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(chosen)
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        logger.warning(
            "waiting for %s processes at %s, %g minutes at most: WORLD_SIZE is set and torchrun "
            "did not do it; unset it to run alone", count, address, join_minutes,
        )  # fmt: skip
    try:
        joining = dist.rendezvous("env://", timeout=timedelta(minutes=join_minutes))
        store, own_rank, size = next(iter(joining))
        timeout = timedelta(minutes=timeout_minutes)
        store.set_timeout(timeout)
        dist.init_process_group(
            backend, store=store, rank=own_rank, world_size=size, timeout=timeout
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConnectionError(
            f"cannot join the process group at {address}: {reason}\nIf the port is in use, choose "
            "another with `torchrun --master_port PORT`, or a free one with `torchrun --standalone`"
        ) from error
    return chosen


def stop() -> None:
    """Leaves the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


@torch.no_grad()
def gather_constant(local: Tensor) -> tuple[Tensor, int]:
    """Rows of all processes in order of rank, without gradient, and where the local ones start.

    Raises ValueError where the processes hold different numbers of rows.
    """
    local = local.detach().contiguous()
    if world_size() == 1:
        return local, 0
    sizes = gather_objects(len(local))
    if len(set(sizes)) > 1:
        raise ValueError(f"the processes hold different numbers of rows: {sizes}")
    parts = [torch.empty_like(local) for _ in range(world_size())]
    dist.all_gather(parts, local)
    return torch.cat(parts), rank() * len(local)


@torch.no_grad()
def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of a tensor over all processes, without gradient."""
    value = value.detach().clone()
    if world_size() > 1:
        dist.all_reduce(value)
        value /= world_size()
    return value


def gather_objects(local: Any) -> list[Any]:
    """One object of every process (pickled by torch), in order of rank, on every process."""
    if world_size() == 1:
        return [local]
    objects: list[Any] = [None] * world_size()
    dist.all_gather_object(objects, local)
    return objects


class TrainingBatchSampler(Sampler[list[int]]):
    """Batches of shuffled samples; the processes together take each global batch once.

    Step s of an epoch is the slice [s * B * W, (s + 1) * B * W) of one permutation, whatever the
    number W of processes: with B * W fixed, training sees the same global batches. The last,
    smaller global batch of an epoch is left out; each epoch has a permutation of its own.
    """

    def __init__(self, num_samples: int, batch_size: int, seed: int) -> None:
        self.num_samples, self.batch_size, self.seed = num_samples, batch_size, seed
        self.epoch = self.first_step = 0
        if len(self) == 0:
            raise ValueError(
                f"{num_samples} training samples do not fill one global batch of "
                f"{batch_size} x {world_size()} processes; lower run.batch_size_train"
            )

    def __len__(self) -> int:
        return self.num_samples // (self.batch_size * world_size())

    def set_position(self, epoch: int, first_step: int = 0) -> None:
        """The next iteration gives the batches of ``epoch`` from ``first_step`` on."""
        self.epoch, self.first_step = epoch, first_step

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.num_samples, generator=generator)
        for step in range(self.first_step, len(self)):
            begin = (step * world_size() + rank()) * self.batch_size
            yield order[begin : begin + self.batch_size].tolist()


class EvaluationSampler(Sampler[int]):
    """Every sample exactly once over all processes: rank r takes r, r + W, r + 2 W, ..."""

    def __init__(self, num_samples: int) -> None:
        self.num_samples = num_samples

    def __len__(self) -> int:
        return len(range(rank(), self.num_samples, world_size()))

    def __iter__(self) -> Iterator[int]:
        return iter(range(rank(), self.num_samples, world_size()))
