import math

import pytest
import torch
from torch import nn

from dynrefer.config import ConfigError
from dynrefer.runners import updates
from dynrefer.runners.updates import Updates, parameter_groups
from tests.runners.conftest import FEW, read_log
from tests.tiny_model import tiny_batch


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


def test_adamw_gets_the_settings(make_runner):
    optimizer = make_runner("run.beta2=0.9", "run.weight_decay=0.3").updates.optimizer
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
    assert {group["betas"] for group in optimizer.param_groups} == {(0.9, 0.9)}
    runner = make_runner()
    runner._step(tiny_batch(runner.model, 4), 0, 1e-5)
    assert {group["lr"] for group in runner.updates.optimizer.param_groups} == {1e-5}


class Line(nn.Module):
    """A model with two weights, whose gradients a test sets."""

    device = torch.device("cpu")

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)

    def set_gradients(self, *values):
        for parameter, value in zip(self.parameters(), values, strict=True):
            parameter.grad = torch.full_like(parameter, value)


@pytest.fixture
def line(make_config):
    """The model and its updates."""

    def make(*options):
        torch.manual_seed(0)
        model = Line()
        return model, Updates(make_config(*options), model)

    return make


def apply(model, ups, *gradients):
    """An update by gradients; the norm that was found."""
    model.set_gradients(*gradients)
    norm = ups.gradient_norm()
    ups.apply(norm, math.isfinite(norm), "epoch 1, step 7")
    return norm.item()


@pytest.mark.parametrize("scale", [None, 1024.0])
@pytest.mark.parametrize(("limit", "used"), [("null", [3.0, 4.0]), ("0.5", [0.3, 0.4])])
def test_clipped_gradients(line, monkeypatch, limit, used, scale):
    """Those of fp16 are unscaled first."""
    model, ups = line(f"run.max_grad_norm={limit}")
    if scale is not None:
        ups.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        ups.scaler.scale(torch.zeros(()))
    seen = []
    monkeypatch.setattr(
        ups.optimizer, "step", lambda: seen.extend(p.grad.item() for p in model.parameters())
    )
    factor = scale or 1
    assert apply(model, ups, 3.0 * factor, 4.0 * factor) == pytest.approx(5.0)
    assert seen == pytest.approx(used, rel=1e-5)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_gradients_that_are_not_finite_change_nothing(line, caplog, value):
    model, ups = line()
    before = [parameter.clone() for parameter in model.parameters()]
    for number in (1, 2):
        apply(model, ups, 1.0, value)
        assert ups.skipped == ups.in_a_row == number
    assert all(map(torch.equal, before, model.parameters())) and not ups.optimizer.state
    assert caplog.messages[-1] == (
        "epoch 1, step 7: gradients of 1 of 2 tensors are not finite (second.weight); step "
        "skipped, 2 so far"
    )
    apply(model, ups, 1.0, 1.0)
    assert not any(map(torch.equal, before, model.parameters()))
    assert (ups.skipped, ups.in_a_row) == (2, 0)
    other = line()[1]
    other.load_state_dict(ups.state_dict(), "x")
    assert other.skipped == 2


def test_many_such_steps_in_a_row_end_training(line, monkeypatch):
    monkeypatch.setattr(updates, "MOST_SKIPPED", 3)
    model, ups = line()
    for gradient in (math.inf, math.inf, 1.0, math.inf, math.inf):
        apply(model, ups, 1.0, gradient)
    with pytest.raises(FloatingPointError, match=r"step 7: .*\(second.weight\), for the 3th step"):
        apply(model, ups, 1.0, math.inf)


def test_a_poisoned_step_is_skipped_and_logged(make_runner, monkeypatch):
    """An infinite gradient of a finite loss; the steps after it are taken."""
    runner = make_runner(FEW, "run.valid_splits=[]")
    norm, before = runner.updates.gradient_norm, []

    def poisoned():
        if runner.position.global_step == 1:
            before.extend(p.detach().clone() for p in runner.model.parameters())
            next(runner.model.parameters()).grad.view(-1)[0] = math.inf
        if runner.position.global_step == 2:
            assert all(map(torch.equal, before, runner.model.parameters()))
        return norm()

    monkeypatch.setattr(runner.updates, "gradient_norm", poisoned)
    runner.train()
    records = read_log(runner.output_dir)[0].values()
    assert [record.get("skipped") for record in records] == [None, 1, 1, 1, 1]
    assert all(torch.isfinite(p).all() for p in runner.model.parameters())


def test_nothing_to_train(make_runner):
    parts = "vision,fusion,qformer,tag_decoder,region_text_decoder,caption_decoder"
    with pytest.raises(ConfigError, match=r"every part of the model is frozen \(model.freeze\)"):
        make_runner(FEW, f"model.freeze=[{parts}]")
