import shutil
import signal

import pytest
import torch
from torch import nn

from dynrefer.checkpoints import folders
from dynrefer.runners import checkpointing, epoch_runner, resuming
from dynrefer.runners.resuming import checkpoint_to_resume
from dynrefer.stopping import Stopped
from tests.runners.conftest import (
    FEW,
    TWO,
    WHOLE,
    is_same_run,
    losses_of,
    new_runner,
    read_log,
    same_weights,
    stop_before_step,
    tensors_of,
)

AUTO = "run.resume=auto"


def test_a_run_killed_again_and_again_is_the_uninterrupted_one(make_runner, whole, monkeypatch):
    """In mid-epoch, before the first checkpoint, in an evaluation; with and without workers."""
    options = (*WHOLE, AUTO, "run.save_every=2")
    runner = make_runner(*options)
    dropouts = {m.p for m in runner.model.modules() if isinstance(m, nn.Dropout)}
    assert max(dropouts) > 0 and runner.model.tag_decoder.layers[0].dropout > 0
    stop_before_step(runner, 1)
    assert not (runner.output_dir / "checkpoints").exists()
    stop_before_step(make_runner(*options, "run.num_workers=1"), 3)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(epoch_runner, "evaluate", stop)
        make_runner(*options).train()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # `best` is missing yet
        patch.setattr(epoch_runner, "note_evaluated", stop)
        make_runner(*options).train()
    with (runner.output_dir / "log.jsonl").open("a") as log:
        log.write('{"epoch": 1, "st')  # the process ended here
    torch.manual_seed(99)  # another process, with random numbers of its own
    stop_before_step(make_runner(*options), 3)
    last = make_runner(*options, "run.num_workers=1")
    torch.rand(5)
    assert last.train()["region_recognition"]
    assert is_same_run(whole, last.output_dir)
    best = [(out / "checkpoints" / "best").resolve().name for out in (whole, last.output_dir)]
    assert best[0] == best[1]
    assert make_runner(*options).train() == {}  # it is finished
    assert is_same_run(whole, last.output_dir)


def test_a_signal_saves_a_checkpoint_at_once(make_runner, whole, monkeypatch):
    runner = make_runner(*WHOLE)
    before = signal.getsignal(signal.SIGTERM)
    take_step = runner._step

    def step(batch, number, *arguments):
        if runner.position.global_step == 2:
            signal.raise_signal(signal.SIGTERM)
        return take_step(batch, number, *arguments)

    runner._step = step
    with pytest.raises(Stopped, match="stopped by SIGTERM; .*step-00000003 is whole; .*=auto goes"):
        runner.train()
    assert signal.getsignal(signal.SIGTERM) is before
    assert list(losses_of(runner.output_dir)) == [(0, 0), (0, 1), (0, 2)]
    resumed = make_runner(*WHOLE, AUTO)
    monkeypatch.setattr(epoch_runner, "evaluate", lambda *_: signal.raise_signal(signal.SIGINT))
    with pytest.raises(Stopped, match="stopped by SIGINT; .*step-00000005 is whole"):
        resumed.train()
    monkeypatch.undo()
    make_runner(*WHOLE, AUTO).train()
    assert is_same_run(whole, runner.output_dir)


def test_the_signal_of_another_process_stops_this_one_too(make_runner, monkeypatch):
    runner = make_runner(FEW)

    def mean(values):  # the other one of two processes got it
        values[-1] = signal.SIGINT / 2
        return values

    monkeypatch.setattr(epoch_runner, "mean_over_processes", mean)
    with pytest.raises(Stopped, match="stopped by SIG"):
        runner.train()
    assert runner.saved.name == "step-00000001"


@pytest.fixture(scope="module")
def two_saved(run_file, tmp_path_factory):
    """Folder of a run that was killed with checkpoints at the steps 2 and 4; to be copied."""
    folder = tmp_path_factory.mktemp("two") / "output"
    stop_before_step(new_runner(run_file, folder, *WHOLE, "run.save_every=2"), 4)
    return folder


@pytest.fixture
def stopped(two_saved, tmp_path):
    """A copy of that folder, where ``make_runner`` goes on."""
    return shutil.copytree(two_saved, tmp_path / "output", symlinks=True)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwrite(path):
    content = bytearray(path.read_bytes())
    content[-40] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "file", "told"),
    [
        (truncate, "state.pt", "state.pt is broken"),
        (overwrite, "trainable.safetensors", "trainable.safetensors is broken"),
        (lambda path: path.unlink(), "config.yaml", "config.yaml is missing"),
        (lambda path: path.unlink(), "SHA256SUMS", "there is no SHA256SUMS"),
        (truncate, "SHA256SUMS", "SHA256SUMS is broken"),
        (lambda path: path.write_text(""), "SHA256SUMS", "SHA256SUMS is broken"),
        (lambda path: shutil.rmtree(path.parent), "state.pt", "last is missing"),
        (lambda path: path.parent.parent.joinpath("last").unlink(), "state.pt", "last is missing"),
    ],
)
def test_a_damaged_last_falls_back_to_the_one_before(
    stopped, make_config, caplog, harm, file, told
):
    checkpoints = stopped / "checkpoints"
    harm(checkpoints / "step-00000004" / file)
    found = checkpoint_to_resume(make_config(AUTO), stopped)
    assert found == checkpoints / "step-00000002" and told in caplog.text


def test_after_a_fall_back_the_run_is_the_same(stopped, make_runner, whole):
    truncate(stopped / "checkpoints" / "step-00000004" / "state.pt")
    make_runner(*WHOLE, AUTO, "run.save_every=2").train()
    assert is_same_run(whole, stopped)
    assert {path.name for path in (stopped / "checkpoints").glob("step-*")} == {
        "step-00000009", "step-00000010", "step-00000005",
    }  # fmt: skip


def test_checkpoints_none_of_which_is_whole(stopped, make_config):
    for folder in (stopped / "checkpoints").glob("step-*"):
        truncate(folder / "state.pt")
    with pytest.raises(ValueError, match="holds no whole checkpoint; run.overwrite=true starts"):
        checkpoint_to_resume(make_config(AUTO), stopped)
    damaged = f"run.resume_ckpt_path={stopped}/checkpoints/last"
    with pytest.raises(ValueError, match="state.pt is broken"):
        checkpoint_to_resume(make_config(damaged), stopped)


def test_where_to_go_on(stopped, make_config, tmp_path):
    """One's own checkpoint comes before another run's; without any it is a start."""
    other = tmp_path / "other"
    path = f"run.resume_ckpt_path={stopped}/checkpoints/previous"
    assert checkpoint_to_resume(make_config(), stopped) is None
    assert checkpoint_to_resume(make_config(AUTO), other) is None
    last = stopped / "checkpoints" / "step-00000004"
    assert checkpoint_to_resume(make_config(AUTO, path), stopped) == last
    assert checkpoint_to_resume(make_config(path), stopped) == last.parent / "previous"
    assert checkpoint_to_resume(make_config(AUTO, path), other) == last.parent / "previous"


def test_files_are_compared_with_their_checksums_once(stopped, make_runner, monkeypatch):
    """By one process; ``best`` being the same folder."""
    (stopped / "checkpoints" / "best").symlink_to("step-00000004")
    hashed = []
    compute = folders.sha256_of
    monkeypatch.setattr(folders, "sha256_of", lambda path: hashed.append(path) or compute(path))
    runner = make_runner(*WHOLE, AUTO)
    runner.resume(checkpoint_to_resume(runner.config, stopped))
    assert len(hashed) == len(set(hashed)) > 3
    assert {path.parts[-2] for path in hashed if path.suffix == ".pt"} == {"step-00000004"}


def test_a_damaged_best_is_forgotten(stopped, make_config, caplog):
    best = stopped / "checkpoints" / "best"
    best.symlink_to("step-00000002")
    checkpoint_to_resume(make_config(AUTO), stopped)
    assert best.is_symlink()
    truncate(best / "state.pt")
    checkpoint_to_resume(make_config(AUTO), stopped)
    assert not best.is_symlink() and "best is forgotten" in caplog.text


def test_a_step_further_back_begins_again_there(stopped, make_runner, whole):
    path = f"run.resume_ckpt_path={stopped}/checkpoints/previous"
    runner = make_runner(*WHOLE, path)
    stop_before_step(runner, 1)
    assert list(losses_of(stopped)) == [(0, 0), (0, 1), (0, 2)]
    make_runner(*WHOLE, AUTO).train()
    assert is_same_run(whole, stopped)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["run.seed=1"], "run.seed was 42, is 1"),
        (["run.batch_size_train=2"], r"processes\) was 4, is 2"),
        (["run.accum_grad_iters=2"], "run.accum_grad_iters was 1, is 2"),
        ([TWO], "number of training samples .* was 22, is "),
        (["model.freeze=[fusion]"], "trained other parameters .model.freeze"),
    ],
)
def test_what_cannot_change_is_refused(stopped, make_runner, options, told):
    before = {path: path.stat().st_mtime_ns for path in stopped.rglob("*")}
    with pytest.raises(ValueError, match=told):
        make_runner(*WHOLE, AUTO, *options).train()
    assert {path: path.stat().st_mtime_ns for path in stopped.rglob("*")} == before


def test_what_can_change_applies_and_is_said(stopped, make_runner, caplog):
    options = ("run.weight_decay=0.2", "run.beta2=0.9", "model.qformer.dropout=0.3")
    runner = make_runner(*WHOLE, AUTO, *options, "run.log_freq=7")
    runner.resume(stopped / "checkpoints" / "last")
    groups = runner.updates.optimizer.param_groups
    assert [group["weight_decay"] for group in groups] == [0.2, 0.0]
    assert {group["betas"] for group in groups} == {(0.9, 0.9)}
    said = "model.qformer.dropout 0.1 -> 0.3; run.beta2 0.999 -> 0.9; run.weight_decay 0.05 -> 0.2"
    assert caplog.messages[-1].endswith(f"now applies: {said}")
    moments = runner.updates.optimizer.state_dict()["state"]
    assert torch.equal(moments[0]["exp_avg"], tensors_of(stopped)["0 exp_avg"])


def test_another_number_of_processes_with_the_same_global_batch(
    stopped, make_runner, monkeypatch, caplog
):
    monkeypatch.setattr(checkpointing, "world_size", lambda: 2)
    monkeypatch.setattr(resuming, "world_size", lambda: 2)
    path = stopped / "checkpoints" / "last"
    with pytest.raises(ValueError, match=r"processes\) was 4, is 8"):
        make_runner(*WHOLE).resume(path)
    runner = make_runner(*WHOLE, "run.batch_size_train=2")
    monkeypatch.setattr(checkpointing, "rank", lambda: 1)
    torch.manual_seed(5)
    runner.resume(path)
    assert runner.position.step == 4
    assert "written by 1 processes and goes on with 2: the batches are the same" in caplog.text
    assert torch.initial_seed() == 5  # the second process has no generator to go on with


def test_going_on_in_another_folder(whole, make_runner):
    """From the end of an epoch that was evaluated; `best` is the new folder's own."""
    path = f"run.resume_ckpt_path={whole}/checkpoints/last"
    other = make_runner(FEW, "run.max_epoch=3", path)
    other.resume(whole / "checkpoints" / "last")
    assert other.position.best_score == float("-inf") and other.position.epoch == 2
    other.train()
    assert {epoch for epoch, _ in losses_of(other.output_dir)} == {2}
    assert len(read_log(other.output_dir)[1]) == 1
    best = other.output_dir / "checkpoints" / "best"
    assert (best / "state.pt").is_file()
    again = make_runner(FEW, "run.max_epoch=3")
    again.resume(best)
    assert again.position.best_score > 0 and same_weights(other, again)


def test_an_evaluation_that_fails_costs_nothing(make_runner, monkeypatch):
    def fail(*_):
        raise ValueError("a label is wrong")

    runner = make_runner(TWO)
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="wrong") as raised:
        patch.setattr(epoch_runner, "evaluate", fail)
        runner.train()
    steps = len(runner.sampler)
    assert raised.value.kept == (
        f"{runner.checkpoints}/step-{steps:08d} is whole; the same command with run.resume=auto "
        "goes on from it"
    )
    again = make_runner(TWO, AUTO)
    assert again.train() and again.position.global_step == steps
