"""Run in each process: losses and gradients of a batch that they share.

python -m tests.end_to_end.losses_of_processes FOLDER
"""

import dataclasses
import sys
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel

from dynrefer import distributed
from dynrefer.config.schema import LossConfig
from tests.tiny_model import tiny_batch, tiny_config, tiny_model

REGIONS = 6
REDUCTIONS = ("global", "rank")


def losses_and_gradients(module, model, batch, reduction):
    """Losses and gradients by name, without dropout."""
    model.loss_weights = dataclasses.replace(LossConfig(), reduction=reduction)
    model.zero_grad()
    losses = module(batch)
    losses.total.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    return {name: value.detach() for name, value in vars(losses).items()}, gradients


def main(folder: Path) -> None:
    """Each process takes its part of the batch; process 0 saves what all have together."""
    torch.set_num_threads(1)
    distributed.start("cpu", timeout_minutes=1)
    model = tiny_model(tiny_config(folder))
    size = REGIONS // distributed.world_size()
    part = list(tiny_batch(model, REGIONS).chunks(size))[distributed.rank()]
    wrapped = DistributedDataParallel(model)
    results = {}
    for reduction in REDUCTIONS:
        losses, gradients = losses_and_gradients(wrapped, model, part, reduction)
        each = distributed.gather_objects(losses)
        results[reduction] = {"losses": each, "gradients": gradients}
    if distributed.is_main():
        torch.save(results, folder / "results.pt")
    distributed.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
