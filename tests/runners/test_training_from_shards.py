"""Training from shards is training from files: the same losses, weights and resumed runs."""

from dynrefer.datasets.shards.writing import write_shards
from tests.runners.conftest import WHOLE, is_same_run, stop_before_step

DATA = "datasets.shapes.build_info"


def test_a_run_stopped_in_mid_epoch_and_resumed_is_the_run_from_files(
    make_runner, whole, world, tmp_path
):
    """Evaluation reads shards, too."""
    for split, images in (("train", 5), ("val", 2)):
        write_shards(
            world / f"{split}.json", tmp_path / split, images_per_shard=images, progress=False
        )
    shards = f"{{train: [{tmp_path}/train], val: [{tmp_path}/val]}}"
    data = (
        f"{DATA}.builder=dynrefer_shards",
        f"{DATA}.shards={shards}",
        f"{DATA}.annotations={{}}",
    )
    options = (*WHOLE, "run.resume=auto", "run.save_every=2", *data)
    stop_before_step(make_runner(*options, "run.num_workers=2"), 8)
    runner = make_runner(*options)
    runner.train()
    assert is_same_run(whole, runner.output_dir)
