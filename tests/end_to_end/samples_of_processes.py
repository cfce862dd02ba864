"""Run in each process: the training samples that it gets, from a step on.

python -m tests.end_to_end.samples_of_processes RUN_FILE OUT FIRST_STEP [OPTION ...]
"""

import hashlib
import json
import sys
from pathlib import Path

import torch

from dynrefer import distributed
from dynrefer.config import load_config
from dynrefer.datasets.batch import RegionBatch
from dynrefer.datasets.loading import make_loader, start_loading
from dynrefer.distributed import TrainingBatchSampler
from dynrefer.models.builders import load_vocabularies
from dynrefer.runners.epoch_runner import training_data

EPOCH = 1


def batches_of(run_file: str, first_step: int, options: list[str]) -> list[dict]:
    """Ids and a hash of the tensors and words of this process's batches, by two workers."""
    config = load_config(run_file, options)
    dataset = training_data(config, load_vocabularies(config.model).tags)
    dataset.set_epoch(EPOCH)
    sampler = TrainingBatchSampler(len(dataset), config.run.batch_size_train, config.run.seed)
    sampler.set_position(EPOCH, first_step)
    config.run.num_workers = 2
    device = torch.device("cpu")
    loader = make_loader(dataset, config.run, device, batch_sampler=sampler)
    return [{"ids": batch.ids, "content": _hash(batch)} for batch in start_loading(loader)]


def _hash(batch: RegionBatch) -> str:
    values = (
        value.numpy().tobytes() if torch.is_tensor(value) else json.dumps(value).encode()
        for value in vars(batch).values()
    )
    return hashlib.sha256(b"".join(values)).hexdigest()


def main(run_file: str, out: Path, first_step: int, options: list[str]) -> None:
    """Process 0 saves the batches of all, by process."""
    distributed.start("cpu", timeout_minutes=1)
    batches = distributed.gather_objects(batches_of(run_file, first_step, options))
    if distributed.is_main():
        out.write_text(json.dumps(batches))
    distributed.stop()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
