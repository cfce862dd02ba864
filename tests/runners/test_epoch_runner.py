import json
import math

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from dynrefer.config import ConfigError, load_config
from dynrefer.config.schema import LossConfig
from dynrefer.runners import epoch_runner
from dynrefer.runners.checkpointing import LINKS
from dynrefer.runners.epoch_runner import training_data
from tests.runners.conftest import FEW, TWO, WHOLE, losses_of, read_log, same_weights
from tests.tiny_model import tiny_batch

STEPS = 5  # of an epoch with FEW


def test_a_run_writes_log_results_metrics_and_checkpoints(whole):
    steps, others = read_log(whole)
    assert list(steps) == [(epoch, step) for epoch in range(2) for step in range(STEPS)]
    assert all(math.isfinite(value) for values in losses_of(whole).values() for value in values)
    assert [(record["epoch"], record["split"]) for record in others] == [(0, "val"), (1, "val")]
    for epoch in (1, 2):
        content = json.loads((whole / f"metrics-shapes-val-epoch{epoch}.json").read_text())
        assert content["metrics"] == others[epoch - 1]["metrics"]
        assert content["config"]["run"]["seed"] == 42 and "torch" in content["versions"]
        assert (whole / "results" / f"shapes-val-epoch{epoch}.jsonl").is_file()
    assert others[1]["score"] == content["metrics"]["region_recognition"]["accuracy"]
    assert load_config(whole / "config.yaml").run.warmup_steps == 3
    for link in ("last", "best"):
        assert (whole / "checkpoints" / link / "trainable.safetensors").is_file()
    position = torch.load(whole / "checkpoints/last/state.pt", weights_only=True)["position"]
    assert position["global_step"] == 2 * STEPS


def test_the_learning_rate_of_each_step(whole):
    rates = {place: record["lr"] for place, record in read_log(whole)[0].items()}
    assert rates[0, 0] == 0 and rates[0, 1] == pytest.approx(1e-3 / 3) and rates[0, 3] == 1e-3
    assert rates[1, 0] == rates[1, 1] == pytest.approx(0.5e-3)


def test_evaluation_leaves_training_as_it_is(make_runner, whole):
    """Neither the mode nor the random numbers of training depend on evaluations between."""
    runner = make_runner(*WHOLE, "run.valid_splits=[]")
    runner.train()
    assert losses_of(runner.output_dir) == losses_of(whole)


def test_training_lowers_the_loss(make_runner):
    runner = make_runner()
    batch = tiny_batch(runner.model, 4)
    values = [runner._step(batch, step, 3e-3)[0]["total"] for step in range(12)]
    assert values[-1] < 0.8 * values[0]


def test_the_bar_shows_the_loss_of_its_step(make_runner, monkeypatch):
    shown, losses = [], []

    class Bar(list):
        def set_postfix(self, loss, refresh):
            shown.append(loss)

    monkeypatch.setattr(epoch_runner, "Progress", lambda batches, **_: Bar(batches))
    runner = make_runner(FEW, "run.log_freq=100", "run.valid_splits=[]")
    take_step = runner._step
    runner._step = lambda *given: losses.append(take_step(*given)) or losses[-1]
    runner.train()
    assert shown == [f"{values['total']:.3f}" for values, _ in losses] and len({*shown}) > 1


@pytest.fixture
def judged(make_runner, monkeypatch):
    """Runs that evaluations judge by the scores given; labels of the evaluations and the runner."""

    def run(scores, *options):
        labels, scores = [], iter(scores)

        def evaluate(*arguments):
            labels.append(arguments[-1])
            return {"region_recognition": {"accuracy": next(scores)}}

        monkeypatch.setattr(epoch_runner, "evaluate", evaluate)
        runner = make_runner(TWO, *options)
        runner.train()
        return labels, runner

    return run


def test_best_is_the_best_and_last_the_last(judged):
    _, runner = judged([10.0, 30.0, 20.0, 30.0], "run.max_epoch=4")
    names = {link: (runner.checkpoints / link).resolve().name for link in LINKS}
    steps = len(runner.sampler)
    assert names["best"] == f"step-{2 * steps:08d}" and names["last"] == f"step-{4 * steps:08d}"
    assert names["previous"] == f"step-{3 * steps:08d}" and runner.position.best_score == 30.0


def test_all_processes_wait_for_best_and_the_log_is_on_the_disk(judged, monkeypatch):
    """Before a process loads `best`; and before the evaluation counts as done."""
    calls = []

    def note(owner, name):
        done = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *given: calls.append(name) or done(*given))

    note(epoch_runner, "point")
    note(epoch_runner.RunLog, "sync")
    note(epoch_runner, "note_evaluated")
    note(epoch_runner, "barrier")
    judged([1.0])
    assert calls == ["sync", "point", "sync", "note_evaluated", "barrier"]


def test_best_is_judged_by_the_mean_over_splits(judged):
    splits = "run.valid_splits=[val,test]"
    _, runner = judged([10.0, 50.0, 40.0, 40.0], "run.max_epoch=2", splits)
    assert (runner.checkpoints / "best").resolve() == (runner.checkpoints / "last").resolve()
    assert runner.position.best_score == 40.0


@pytest.mark.parametrize(("every", "expected"), [(1, [1, 2, 3]), (2, [2, 3]), (9, [3])])
def test_epochs_that_are_evaluated(judged, every, expected):
    labels, _ = judged([1.0] * 3, "run.max_epoch=3", f"run.eval_every={every}")
    assert labels == [f"epoch{epoch}" for epoch in expected]


def test_each_epoch_draws_its_own_views(make_runner):
    """Of the same regions, whatever their order."""
    runner = make_runner(FEW)
    drawn = []
    for epoch in (0, 0, 1):
        batches = list(runner._batches(epoch))
        ids = [id_ for batch in batches for id_ in batch.ids]
        ratios = [row for batch in batches for row in batch.ratios.tolist()]
        drawn.append(dict(zip(ids, ratios, strict=True)))
    assert drawn[0] == drawn[1]
    both = drawn[0].keys() & drawn[2].keys()
    assert len(both) >= 18 and all(drawn[0][id_] != drawn[2][id_] for id_ in both)


def update(make_runner, accumulation, batches, weights):
    """Weights after some batches, without dropout; equal starts."""
    runner = make_runner(f"run.accum_grad_iters={accumulation}")
    runner.model.eval()
    runner.model.loss_weights = weights
    for step, batch in enumerate(batches):
        runner._step(batch, step, 1e-2)
    return runner


def test_accumulated_gradients_are_those_of_the_whole_batch(make_runner):
    """Two batches of 4, accumulated, against one of 8.

    A step's loss is the mean over its accumulated batches. So this holds for losses that are means
    over a batch, here of captions with equally many tokens. The tag loss is a sum over regions,
    and counts 1 / accumulation as much; the region-text loss compares the regions of a batch, so
    it meets fewer pairs and is left out.
    """
    model = make_runner().model
    batch = tiny_batch(model, 8)
    batch.captions = [" ".join(["a", caption.split()[1], "star"]) for caption in batch.captions]
    for summed, caption, tag in ((1, 1.0, 0.0), (2, 0.0, 0.01)):
        whole = update(make_runner, 1, [batch], LossConfig(caption, tag, 0.0))
        halves = list(batch.chunks(4))
        parts = update(make_runner, 2, halves, LossConfig(caption, summed * tag, 0.0))
        for name, tensor in whole.model.state_dict().items():
            torch.testing.assert_close(
                parts.model.state_dict()[name], tensor, rtol=1e-3, atol=2e-5, msg=name
            )
        assert not same_weights(whole, make_runner())


def test_updates_come_at_the_end_of_an_accumulation_and_of_the_epoch(make_runner, monkeypatch):
    runner = make_runner("run.accum_grad_iters=3")
    monkeypatch.setattr(type(runner.sampler), "__len__", lambda _: 7)
    counts, scaled = [], []
    monkeypatch.setattr(runner.updates.optimizer, "step", lambda: counts.append(len(scaled)))
    scale = runner.updates.scaler.scale
    monkeypatch.setattr(
        runner.updates.scaler, "scale", lambda loss: scaled.append(loss.item()) or scale(loss)
    )
    batch = tiny_batch(runner.model.eval(), 2)
    totals = [runner._step(batch, step, 1e-3)[0]["total"] for step in range(7)]
    assert counts == [3, 6, 7]
    shares = [total / value for total, value in zip(totals, scaled, strict=True)]
    assert shares == pytest.approx([3] * 6 + [1], rel=1e-5)


def test_a_loss_that_is_not_finite_ends_the_run(make_runner):
    runner = make_runner(FEW)
    nn.init.constant_(runner.model.fusion.mlp[2].weight, float("nan"))
    with pytest.raises(FloatingPointError, match=r"^region tokens of region\(s\) \["):
        runner.train()
    assert not runner.checkpoints.exists()


def test_accumulating_over_more_than_an_epoch_is_refused(make_runner):
    with pytest.raises(ConfigError, match="run.accum_grad_iters: 999; valid is at most the steps"):
        make_runner("run.accum_grad_iters=999")


def test_checkpoints_between_accumulated_batches_are_refused(make_runner):
    with pytest.raises(ConfigError, match="save_every: 3 is not a multiple of run.accum_grad_iter"):
        make_runner("run.save_every=3", "run.accum_grad_iters=2")
    make_runner("run.save_every=4", "run.accum_grad_iters=2")


def test_training_data_of_several_datasets(make_config, world, make_runner):
    options = [f"datasets.more.build_info.annotations.train=[{world / 'val.json'}]"]
    tags = make_runner().model.vocabularies.tags
    one = len(training_data(make_config(), tags))
    both = training_data(make_config(*options), tags)
    assert len(both.datasets) == 2 and len(both) > one
    both.set_epoch(3)
    assert [int(part._epoch) for part in both.datasets] == [3, 3]
    with pytest.raises(ConfigError, match=r"no dataset has annotations for run.train_splits=\['x"):
        training_data(make_config("run.train_splits=[x]"), tags)


def test_images_limit_the_training_regions(make_config, make_runner):
    tags = make_runner().model.vocabularies.tags
    whole = training_data(make_config(), tags)
    index = whole.datasets[0].index
    limited = training_data(make_config("datasets.shapes.build_info.max_imgs=2"), tags)
    assert len(limited) == int(index.region_counts[:2].sum()) < len(whole)


@pytest.mark.parametrize("option", ["with_seg=true", "obj_lvl=false"])
def test_ways_of_the_release_that_no_configuration_takes(make_config, make_runner, option):
    tags = make_runner().model.vocabularies.tags
    with pytest.raises(ConfigError, match=rf"datasets.shapes.build_info has .*{option[:4]}"):
        training_data(make_config(f"datasets.shapes.build_info.{option}"), tags)


def test_adapters_train_beside_frozen_parts_and_resume(make_runner):
    options = (
        FEW,
        "run.valid_splits=[]",
        "model.freeze=[vision,fusion]",
        "model.caption_decoder.freeze=true",
        "model.caption_decoder.gradient_checkpointing=true",
        "model.caption_decoder.lora={rank: 2}",
    )
    runner = make_runner(*options)
    before = {name: tensor.clone() for name, tensor in runner.model.state_dict().items()}
    runner.train()
    state = runner.model.state_dict()
    changed = {name for name, tensor in state.items() if not torch.equal(tensor, before[name])}
    saved = load_file(runner.output_dir / "checkpoints/last/trainable.safetensors")
    assert changed <= saved.keys() and sum("lora_" in name for name in changed) >= 6
    assert not any(name.startswith(("vision.", "fusion.")) for name in saved)
    other = make_runner(*options, output="other")
    assert not same_weights(runner, other)
    other.resume(runner.output_dir / "checkpoints" / "last")
    assert same_weights(runner, other)
