import json
import math

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from dynrefer.config import ConfigError
from dynrefer.config_schema import LossConfig
from dynrefer.runners import epoch_runner
from dynrefer.runners.epoch_runner import parameter_groups, training_data
from tests.runners.conftest import FEW, losses_of, same_weights
from tests.tiny_model import tiny_batch


def test_a_run_writes_log_results_metrics_and_checkpoints(make_runner, read_log):
    runner = make_runner(FEW, "run.max_epoch=2")
    metrics = runner.train()
    assert set(metrics) == {"region_recognition"}
    steps, others = read_log(runner)
    per_epoch = len(runner.sampler)
    assert per_epoch >= 4 and list(steps) == [(e, s) for e in range(2) for s in range(per_epoch)]
    assert all(math.isfinite(value) for values in losses_of(steps).values() for value in values)
    assert [record["split"] for record in others] == ["val", "val"]
    assert others[1]["score"] == metrics["region_recognition"]["accuracy"]
    out = runner.output_dir
    for epoch in (1, 2):
        content = json.loads((out / f"metrics-shapes-val-epoch{epoch}.json").read_text())
        assert content["metrics"] == others[epoch - 1]["metrics"]
        assert content["config"]["run"]["seed"] == 42 and "torch" in content["versions"]
        assert (out / "results" / f"shapes-val-epoch{epoch}.jsonl").is_file()
    for link in ("last", "best"):
        assert (out / "checkpoints" / link / "trainable.safetensors").is_file()
    assert runner.position.epoch == 2 and runner.position.global_step == 2 * per_epoch


def test_training_lowers_the_loss(make_runner, read_log):
    runner = make_runner("run.max_epoch=4", "run.valid_splits=[]", "run.init_lr=3e-3")
    runner.train()
    values = [values[0] for values in losses_of(read_log(runner)[0]).values()]
    assert sum(values[-8:]) < 0.8 * sum(values[:8])


def test_best_is_the_best_and_last_the_last(make_runner, monkeypatch):
    scores = iter([10.0, 30.0, 20.0])
    monkeypatch.setattr(
        epoch_runner,
        "evaluate",
        lambda *_: {"region_recognition": {"accuracy": next(scores)}},
    )
    runner = make_runner(FEW, "run.max_epoch=3")
    runner.train()
    checkpoints = runner.output_dir / "checkpoints"
    steps = len(runner.sampler)
    names = {link: (checkpoints / link).resolve().name for link in ("best", "last")}
    assert names == {"best": f"step-{2 * steps:08d}", "last": f"step-{3 * steps:08d}"}
    assert runner.position.best_score == 30.0


def test_best_is_judged_by_the_mean_over_splits(make_runner, monkeypatch):
    scores = iter([10.0, 50.0, 40.0, 40.0])  # two epochs, each val and test
    monkeypatch.setattr(
        epoch_runner,
        "evaluate",
        lambda *_: {"region_recognition": {"accuracy": next(scores)}},
    )
    runner = make_runner(FEW, "run.max_epoch=2", "run.valid_splits=[val,test]")
    runner.train()
    checkpoints = runner.output_dir / "checkpoints"
    assert (checkpoints / "best").resolve() == (checkpoints / "last").resolve()
    assert runner.position.best_score == 40.0


def test_each_epoch_draws_its_own_views(make_runner, monkeypatch):
    runner = make_runner("datasets.shapes.build_info.max_imgs=2", "run.max_epoch=3")
    seen, train_epoch = [], runner._train_epoch
    monkeypatch.setattr(
        runner,
        "_train_epoch",
        lambda *arguments: (
            train_epoch(*arguments),
            seen.append(int(runner.dataset.datasets[0]._epoch)),
        ),
    )
    runner.train()
    assert seen == [0, 1, 2]


@pytest.mark.parametrize(("every", "expected"), [(1, [1, 2, 3]), (2, [2, 3]), (9, [3])])
def test_epochs_that_are_evaluated(make_runner, monkeypatch, every, expected):
    seen = []
    monkeypatch.setattr(
        epoch_runner,
        "evaluate",
        lambda *arguments: seen.append(arguments[-1]) or {"region_recognition": {"accuracy": 1.0}},
    )
    make_runner(
        "datasets.shapes.build_info.max_imgs=2", "run.max_epoch=3", f"run.eval_every={every}"
    ).train()
    assert seen == [f"epoch{epoch}" for epoch in expected]


def test_evaluation_leaves_training_as_it_is(make_runner, read_log):
    """Neither the mode nor the random numbers of training depend on evaluations between."""
    runs = []
    for splits in ("[val]", "[]"):
        runner = make_runner(FEW, "run.max_epoch=2", f"run.valid_splits={splits}", output=splits)
        runner.train()
        runs.append(losses_of(read_log(runner)[0]))
    assert runs[0] == runs[1]


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
    monkeypatch.setattr(runner.optimizer, "step", lambda: counts.append(len(scaled)))
    scale = runner.scaler.scale
    monkeypatch.setattr(
        runner.scaler, "scale", lambda loss: scaled.append(loss.item()) or scale(loss)
    )
    batch = tiny_batch(runner.model.eval(), 2)
    totals = [runner._step(batch, step, 1e-3).total.item() for step in range(7)]
    assert counts == [3, 6, 7]
    shares = [total / value for total, value in zip(totals, scaled, strict=True)]
    assert shares == pytest.approx([3] * 6 + [1], rel=1e-5)


def test_clipped_gradients(make_runner, monkeypatch):
    norms = {}
    for limit in ("null", "0.5"):
        runner = make_runner(f"run.max_grad_norm={limit}")
        gradients = [parameter.grad for parameter in runner.model.parameters()]
        assert gradients == [None] * len(gradients)
        monkeypatch.setattr(
            runner.optimizer,
            "step",
            lambda runner=runner, limit=limit: norms.update(
                {limit: nn.utils.get_total_norm(p.grad for p in runner.model.parameters()).item()}
            ),
        )
        runner._step(tiny_batch(runner.model.eval(), 4), 0, 1e-3)
    assert norms["null"] > 1 and norms["0.5"] == pytest.approx(0.5, rel=1e-3)


def test_the_learning_rate_of_each_step(make_runner, read_log):
    runner = make_runner(FEW, "run.max_epoch=2", "run.warmup_lr=0", "run.warmup_steps=3")
    runner.train()
    rates = {place: record["lr"] for place, record in read_log(runner)[0].items()}
    assert rates[0, 0] == 0 and rates[0, 1] == pytest.approx(1e-3 / 3) and rates[0, 3] == 1e-3
    assert rates[1, 0] == rates[1, 1] == pytest.approx(0.5e-3)
    assert {group["lr"] for group in runner.optimizer.param_groups} == {rates[1, 0]}


def test_parameter_groups_are_the_published_ones():
    module = nn.ModuleDict(
        {
            "linear": nn.Linear(2, 2),
            "ln": nn.Linear(2, 2),  # its name alone exempts the weight
            "bias_layer": nn.Embedding(2, 2),
            "norm": nn.LayerNorm(2),
            "frozen": nn.Linear(2, 2).requires_grad_(False),
        }
    )
    decayed, exempt = parameter_groups(module, 0.05)
    assert (decayed["weight_decay"], exempt["weight_decay"]) == (0.05, 0.0)
    assert [id(p) for p in decayed["params"]] == [id(module["linear"].weight)]
    assert len(exempt["params"]) == 6


def test_a_loss_that_is_not_finite_ends_the_run(make_runner):
    runner = make_runner(FEW)
    nn.init.constant_(runner.model.fusion.mlp[2].weight, float("nan"))
    with pytest.raises(FloatingPointError, match=r"^region tokens of region\(s\) \["):
        runner.train()
    assert not (runner.output_dir / "checkpoints").exists()


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
    other = make_runner(*options, "run.seed=7", output="other")
    other.resume(runner.output_dir / "checkpoints" / "last")
    assert same_weights(runner, other)


def test_nothing_to_train(make_runner):
    parts = "vision,fusion,qformer,tag_decoder,region_text_decoder,caption_decoder"
    with pytest.raises(ConfigError, match=r"every part of the model is frozen \(model.freeze\)"):
        make_runner(FEW, f"model.freeze=[{parts}]")
