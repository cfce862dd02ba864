"""Shards made by the script, and training samples of two processes with two workers each."""

import json

import pytest

from tests.end_to_end.conftest import DATASET
from tests.end_to_end.samples_of_processes import batches_of
from tests.processes import run_script, run_together


@pytest.fixture(scope="module")
def shards(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards") / "train"
    arguments = ("--annotations", world / "train.json", "--out", folder, "--images-per-shard", "5")
    result = run_script("scripts/make_shards.py", *arguments)
    assert result.returncode == 0, result.stderr
    regions = len(json.loads((world / "train.json").read_text())["annotations"])
    assert f"12 images with {regions:,} regions in 3 shards" in result.stdout
    return folder


@pytest.fixture
def from_shards(shards):
    return (f"{DATASET}.builder=dynrefer_shards", f"{DATASET}.shards.train=[{shards}]")


def of_two(run_file, out, first_step, options):
    module = "tests.end_to_end.samples_of_processes"
    for result in run_together("-m", module, run_file, out, first_step, *options):
        assert result.returncode == 0, result.stderr
    return json.loads(out.read_text())


def test_two_processes_share_the_samples_of_the_files(run_file, world, from_shards, tmp_path):
    size = "run.batch_size_train=2"
    processes = of_two(run_file, tmp_path / "two.json", 0, [size, *from_shards])
    ids = [id_ for batches in processes for batch in batches for id_ in batch["ids"]]
    known = {
        region["id"] for region in json.loads((world / "train.json").read_text())["annotations"]
    }
    assert len(processes) == 2 and len(processes[0]) == len(processes[1]) > 5
    assert len(ids) == len(set(ids)) and set(ids) <= known and len(known) - len(ids) < 4
    # Process r has rows r * 2 and r * 2 + 1 of every global batch of four that one process takes.
    halves = batches_of(run_file, 0, [size])
    assert [batch for pair in zip(*processes, strict=True) for batch in pair] == halves[
        : len(ids) // 2
    ]
    rest = of_two(run_file, tmp_path / "rest.json", 3, [size, *from_shards])
    assert rest == [batches[3:] for batches in processes]


def test_every_region_is_seen_where_the_batches_divide_the_epoch(run_file, world, from_shards):
    batches = batches_of(run_file, 0, ["run.batch_size_train=1", *from_shards])
    known = [
        region["id"] for region in json.loads((world / "train.json").read_text())["annotations"]
    ]
    assert sorted(id_ for batch in batches for id_ in batch["ids"]) == sorted(known)


def test_mistakes_end_with_one_line(world, shards, tmp_path):
    for arguments, message in (
        (("--annotations", tmp_path / "none.json", "--out", tmp_path / "a"), "no annotation file"),
        (("--annotations", world / "val.json", "--out", shards), "holds shards with another"),
    ):
        result = run_script("scripts/make_shards.py", *arguments)
        assert result.returncode == 1 and result.stderr.count("error: ") == 1
        assert message in result.stderr and "Traceback" not in result.stderr
