import pytest
import torch
from torch import nn

from dynrefer.runners import epoch_runner
from tests.runners.conftest import FEW, losses_of, same_weights


def stop_before_step(runner, number):
    """Lets a runner end as if its process were killed before its update ``number``."""
    take_step, taken = runner._step, []

    def step(batch, *arguments):
        if len(taken) == number:
            raise KeyboardInterrupt
        taken.append(batch)
        return take_step(batch, *arguments)

    runner._step = step


@pytest.mark.parametrize(
    ("workers", "kill_before", "save_every"),
    [(0, 7, 2), (1, 7, 3), (0, 8, 9), (0, 1, 1)],
)
def test_a_resumed_run_is_the_uninterrupted_one(
    make_runner, read_log, workers, kill_before, save_every
):
    """Losses of every step and final weights are the same numbers, dropout and all."""
    options = (FEW, "run.max_epoch=2", f"run.num_workers={workers}", f"run.save_every={save_every}")
    whole = make_runner(*options, output="whole")
    dropouts = {m.p for m in whole.model.modules() if isinstance(m, nn.Dropout)}
    assert max(dropouts) > 0 and whole.model.tag_decoder.layers[0].dropout > 0
    whole.train()

    stopped = make_runner(*options, output="stopped")
    stop_before_step(stopped, kill_before)
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    torch.manual_seed(99)  # another process, with random numbers of its own
    last = stopped.output_dir / "checkpoints" / "last"
    resumed = make_runner(*options, f"run.resume_ckpt_path={last}", output="stopped")
    torch.rand(5)
    metrics = resumed.train()

    assert same_weights(whole, resumed)
    assert losses_of(read_log(resumed)[0]) == losses_of(read_log(whole)[0])
    assert read_log(resumed)[1] == read_log(whole)[1] and metrics
    assert resumed.position == whole.position
    for state in zip(whole.optimizer.state.values(), resumed.optimizer.state.values(), strict=True):
        assert torch.equal(state[0]["exp_avg_sq"], state[1]["exp_avg_sq"])


def test_resuming_at_the_last_step_of_an_epoch_evaluates_it(make_runner, read_log, monkeypatch):
    """Killed in the evaluation: the checkpoint of the last step stands before it."""
    options = (FEW, "run.save_every=1")
    stopped = make_runner(*options)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(epoch_runner, "evaluate", stop)
        stopped.train()
    last = stopped.output_dir / "checkpoints" / "last"
    resumed = make_runner(*options, f"run.resume_ckpt_path={last}")
    assert resumed.train()["region_recognition"]
    assert len(read_log(resumed)[1]) == 1 and same_weights(stopped, resumed)


def test_resuming_a_finished_run_does_nothing(make_runner):
    runner = make_runner(FEW)
    runner.train()
    last = runner.output_dir / "checkpoints" / "last"
    again = make_runner(FEW, f"run.resume_ckpt_path={last}")
    assert again.train() == {} and same_weights(runner, again)


def test_resuming_with_other_batches(make_runner):
    stopped = make_runner(FEW, "run.save_every=4")
    stop_before_step(stopped, 4)
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    last = stopped.output_dir / "checkpoints" / "last"
    other = make_runner(FEW, "run.batch_size_train=8", f"run.resume_ckpt_path={last}")
    with pytest.raises(ValueError, match="stands at step 4 of an epoch that has 2 now; run.batch_"):
        other.train()


def test_a_run_that_goes_on_elsewhere_keeps_a_best_of_its_own(make_runner):
    runner = make_runner(FEW)
    runner.train()
    runner.position.best_score = 101.0  # better than anything that comes
    runner.save(("last", "best"))
    last = runner.output_dir / "checkpoints" / "last"
    options = (FEW, "run.max_epoch=2", f"run.resume_ckpt_path={last}")
    other = make_runner(*options, output="elsewhere")
    other.train()
    assert (other.output_dir / "checkpoints" / "best" / "state.pt").is_file()
    same = make_runner(*options)
    same.train()
    assert same.position.best_score == 101.0
