"""Two processes on the CPU against one."""

import json
import socket
import sys

import pytest
import torch

from dynrefer.runners.entry import evaluate_main, train_main
from tests.end_to_end.conftest import DATASET, log_records, message_of
from tests.end_to_end.losses_of_processes import REGIONS, losses_and_gradients
from tests.processes import ROOT, run_command, run_script, run_together
from tests.tiny_model import tiny_batch, tiny_config, tiny_model

NO_DROPOUT = (
    "model.qformer.dropout=0",
    "model.tag_decoder.dropout=0",
    "model.region_text_decoder.dropout=0",
    "model.caption_decoder.config.dropout_rate=0",
)


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    """Losses and gradients of two processes, by reduction, and the folder of their files."""
    folder = tmp_path_factory.mktemp("two")
    tiny_config(folder)
    for result in run_together("-m", "tests.end_to_end.losses_of_processes", folder):
        assert result.returncode == 0, result.stderr
    return torch.load(folder / "results.pt", weights_only=True), folder


def alone(folder, rows=slice(None)):
    model = tiny_model(tiny_config(folder))
    batch = tiny_batch(model, REGIONS)
    part = list(batch.chunks(REGIONS // 2))[rows] if isinstance(rows, int) else batch
    return losses_and_gradients(model, model, part, "global")


def test_losses_of_two_processes_are_those_of_one(of_two):
    """The region-text loss too, whose pairs reach across the processes."""
    results, folder = of_two
    losses, _ = alone(folder)
    first, second = results["global"]["losses"]
    for name, value in losses.items():
        torch.testing.assert_close((first[name] + second[name]) / 2, value, rtol=1e-5, atol=1e-5)
    assert (first["region_text"] - second["region_text"]).abs() > 1e-3


def test_gradients_of_two_processes_are_those_of_one(of_two):
    results, folder = of_two
    _, gradients = alone(folder)
    assert results["global"]["gradients"].keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            results["global"]["gradients"][name], gradient, rtol=1e-4, atol=1e-5, msg=name
        )


def test_reduction_by_process_is_the_published_one(of_two):
    """Each process reduces over its own regions, and the gradients are averaged."""
    results, folder = of_two
    halves = [alone(folder, rows)[0] for rows in (0, 1)]
    for process, half in zip(results["rank"]["losses"], halves, strict=True):
        for name in ("caption", "tag"):
            torch.testing.assert_close(process[name], half[name], rtol=1e-5, atol=1e-5)
    whole, gradients = alone(folder)
    mean = sum(process["tag"] for process in results["rank"]["losses"]) / 2
    torch.testing.assert_close(mean, whole["tag"] / 2, rtol=1e-5, atol=1e-5)
    name = "tag_decoder.classifier.weight"
    torch.testing.assert_close(
        results["rank"]["gradients"][name], gradients[name] / 2, rtol=1e-4, atol=1e-6
    )


@pytest.fixture(scope="session")
def trained_by_two(once, run_file):
    """Output folder of torchrun's two processes, 5 validation images one at a time; their log."""

    def train(folder):
        options = [*NO_DROPOUT, "run.batch_size_train=2", "run.batch_size_eval=1"]
        script = ROOT / "scripts/train/train.sh"
        result = run_command(
            "bash", script, run_file, f"run.output_dir={folder}/output", *options,
            PROCESSES="2", PYTHON=sys.executable,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        (folder / "errors.txt").write_text(result.stderr)

    folder = once("trained_by_two", train)
    return folder / "output", (folder / "errors.txt").read_text()


def test_training_by_two_processes_is_training_by_one(trained_by_two, run_file, here, tmp_path):
    out, errors = trained_by_two
    here(train_main, run_file, f"run.output_dir={tmp_path}", *NO_DROPOUT, "run.batch_size_train=4")
    one, two = log_records(tmp_path), log_records(out)
    assert len(one) == len(two) >= 8
    for step, other in zip(one, two, strict=True):
        assert (step["epoch"], step["step"], step["lr"]) == (
            other["epoch"],
            other["step"],
            other["lr"],
        )
        for name in ("total", "caption", "tag", "region_text"):
            assert step[name] == pytest.approx(other[name], rel=1e-4, abs=1e-4)
    assert errors.count("2 process(es)") == 1  # the other process says nothing


def test_evaluation_by_two_processes_is_evaluation_by_one(trained_by_two, here, tmp_path):
    """Odd numbers of images: the result files are equal line by line."""
    out, _ = trained_by_two
    here(evaluate_main, None, f"run.output_dir={tmp_path}", checkpoint=out / "checkpoints" / "last")
    files = [
        out / "results" / "shapes-val-epoch1.jsonl",
        tmp_path / "results" / "shapes-val-eval.jsonl",
    ]
    two, one = (file.read_text().splitlines() for file in files)
    assert len(one) > 5 and one == two
    names = ("metrics-shapes-val-epoch1.json", "metrics-shapes-val-eval.json")
    metrics = [
        json.loads((folder / name).read_text())["metrics"]
        for folder, name in zip((out, tmp_path), names, strict=True)
    ]
    assert metrics[0] == metrics[1]


def test_resuming_with_another_number_of_processes(
    trained_by_two, run_file, here, tmp_path, caplog
):
    """One process takes the global batches of two."""
    out, _ = trained_by_two
    last = f"run.resume_ckpt_path={out}/checkpoints/last"
    options = [f"run.output_dir={tmp_path}", "run.max_epoch=2", "run.batch_size_train=4"]
    here(train_main, run_file, last, *options, *NO_DROPOUT)
    steps = len(log_records(out))
    assert [r["step"] for r in log_records(tmp_path)] == list(range(steps))
    assert {record["epoch"] for record in log_records(tmp_path)} == {1}


def test_an_error_in_one_process_ends_the_run(trained_by_two, world, tmp_path):
    """The second image is missing: process 1 meets it while process 0 waits for its results."""
    out, _ = trained_by_two
    content = json.loads((world / "val.json").read_text())
    content["dataset"]["image_root"] = str(world / "images" / "val")
    content["images"][1]["file_name"] = "none.jpg"
    (tmp_path / "val.json").write_text(json.dumps(content))
    options = [f"{DATASET}.annotations.val=[{tmp_path}/val.json]", f"run.output_dir={tmp_path}"]
    checkpoint = ("--checkpoint", out / "checkpoints" / "last")
    first, second = run_together("evaluate.py", *checkpoint, "--options", *options)
    assert first.returncode != 0 and second.returncode == 2
    assert "none.jpg does not exist" in message_of(second.stderr)
    assert not (tmp_path / "metrics-shapes-val-eval.json").exists()


@pytest.fixture
def taken_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def test_a_taken_port_by_the_environment(run_file, taken_port, tmp_path):
    result = run_script(
        "train.py", "--cfg-path", run_file, "--options", f"run.output_dir={tmp_path}",
        RANK="0", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(taken_port),
    )  # fmt: skip
    assert result.returncode == 2
    told = message_of(result.stderr)
    assert told.startswith(f"cannot join the process group at 127.0.0.1:{taken_port}: ")
    assert "choose another with `torchrun --master_port PORT`" in told
