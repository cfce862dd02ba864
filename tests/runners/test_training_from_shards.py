"""Training from shards is training from files: the same losses, weights and resumed runs."""

import pytest
import torch

from dynrefer.datasets.shards.writing import write_shards
from tests.runners.conftest import losses_of, same_weights
from tests.runners.test_resuming import stop_before_step

INFO = "datasets.shapes.build_info"
OPTIONS = (f"{INFO}.max_imgs=6", "run.max_epoch=2", "run.save_every=2")


@pytest.fixture(scope="module")
def shards(world, tmp_path_factory):
    """Shards of the world's training split, five images each."""
    folder = tmp_path_factory.mktemp("shards") / "train"
    write_shards(world / "train.json", folder, images_per_shard=5, progress=False)
    return folder


@pytest.fixture
def from_shards(shards):
    return (*OPTIONS, f"{INFO}.builder=dynrefer_shards", f"{INFO}.shards.train=[{shards}]")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_stopped_in_mid_epoch_and_resumed_is_the_run_from_files(
    make_runner, read_log, from_shards, workers
):
    files = make_runner(*OPTIONS, output="files")
    files.train()
    options = (*from_shards, f"run.num_workers={workers}")
    stopped = make_runner(*options, output="shards")
    kill_before = len(stopped.sampler) + 3
    stop_before_step(stopped, kill_before)
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    last = stopped.output_dir / "checkpoints" / "last"
    torch.manual_seed(99)
    resumed = make_runner(*options, f"run.resume_ckpt_path={last}", output="shards")
    resumed.train()
    assert same_weights(files, resumed)
    assert losses_of(read_log(resumed)[0]) == losses_of(read_log(files)[0])
    assert read_log(resumed)[1] == read_log(files)[1]


def test_evaluation_reads_shards_too(make_runner, world, tmp_path, from_shards):
    metrics = make_runner(*OPTIONS, output="files").train()
    write_shards(world / "val.json", tmp_path / "val", images_per_shard=2, progress=False)
    options = (*from_shards, f"{INFO}.shards.val=[{tmp_path / 'val'}]", f"{INFO}.annotations={{}}")
    sharded = make_runner(*options, output="shards")
    assert sharded.train() == metrics
