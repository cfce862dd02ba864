import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynrefer.models.losses import asymmetric_loss, sigmoid_pair_loss, token_loss

seeds = st.integers(0, 10**6)


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def slow_asymmetric(logits, targets):
    """Loss and gradient, element by element; the focusing weight is a constant of the gradient."""
    total, gradient = 0.0, []
    for logit, target in zip(logits.flatten().tolist(), targets.flatten().tolist(), strict=True):
        p = sigmoid(logit)
        if target:
            total -= math.log(max(p, 1e-8))
            gradient.append(p - 1 if p > 1e-8 else 0.0)
            continue
        shifted = min(1 - p + 0.05, 1)
        focus = (1 - shifted) ** 7
        total -= focus * math.log(max(shifted, 1e-8))
        gradient.append(focus * p * (1 - p) / shifted if 1 - p + 0.05 <= 1 else 0.0)
    return total, gradient


@settings(deadline=None, max_examples=40)
@given(seed=seeds, scale=st.sampled_from([0.1, 2.0, 15.0]))
def test_asymmetric_loss(seed, scale):
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(3, 5, generator=generator) * scale).requires_grad_()
    targets = torch.rand(3, 5, generator=generator) < 0.4
    loss = asymmetric_loss(logits, targets)
    (gradient,) = torch.autograd.grad(loss, logits)
    total, slow_gradient = slow_asymmetric(logits, targets)
    assert loss.item() == pytest.approx(total, rel=1e-4, abs=1e-5)
    assert gradient.flatten().tolist() == pytest.approx(slow_gradient, rel=1e-3, abs=1e-5)


def test_asymmetric_loss_of_extreme_logits_is_finite():
    logits = torch.tensor([[1e4, -1e4, 1e4, -1e4]], requires_grad=True)
    loss = asymmetric_loss(logits, torch.tensor([[True, True, False, False]]))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logits.grad).all()


def test_sure_negatives_cost_nothing():
    """The clip takes easy negatives out of the loss altogether."""
    logits = torch.linspace(-20, -3, 30, requires_grad=True)
    loss = asymmetric_loss(logits, torch.zeros(30, dtype=torch.bool))
    loss.backward()
    assert loss == 0 and (logits.grad == 0).all()


def test_asymmetric_loss_in_half_precision_and_with_integer_targets():
    logits, targets = torch.randn(2, 50), torch.randint(0, 2, (2, 50))
    exact = asymmetric_loss(logits, targets.bool())
    assert torch.equal(asymmetric_loss(logits, targets), exact)
    loss = asymmetric_loss(logits.bfloat16(), targets)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact, rtol=0.02, atol=0)


@settings(deadline=None, max_examples=40)
@given(seed=seeds, local=st.integers(1, 4), before=st.integers(0, 3), after=st.integers(0, 3))
def test_sigmoid_pair_loss(seed, local, before, after):
    generator = torch.Generator().manual_seed(seed)
    similarity = torch.randn(local, before + local + after, generator=generator)
    own = before + torch.arange(local)
    scale, bias = torch.tensor(math.log(10)), torch.tensor(-10.0)
    total = 0.0
    for i, row in enumerate(similarity.tolist()):
        for j, value in enumerate(row):
            logit = 10 * value - 10
            total -= math.log(sigmoid(logit if j == before + i else -logit))
    loss = sigmoid_pair_loss(similarity, own, scale, bias)
    assert loss.item() == pytest.approx(total / local, rel=1e-4)


def test_sigmoid_pair_loss_trains_scale_and_bias():
    scale, bias = (torch.tensor(value, requires_grad=True) for value in (0.5, -1.0))
    loss = sigmoid_pair_loss(torch.randn(2, 2), torch.arange(2), scale, bias)
    loss.backward()
    assert scale.grad.abs() > 0 and bias.grad.abs() > 0


@settings(deadline=None, max_examples=40)
@given(seed=seeds, rows=st.integers(1, 4), length=st.integers(1, 5))
def test_token_loss(seed, rows, length):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, length, 6, generator=generator)
    targets = torch.randint(0, 6, (rows, length), generator=generator)
    targets[torch.rand(rows, length, generator=generator) < 0.4] = -100
    total, count = 0.0, 0
    for i in range(rows):
        for t in range(length):
            if targets[i, t] == -100:
                continue
            values = logits[i, t].tolist()
            total += math.log(sum(map(math.exp, values))) - values[targets[i, t]]
            count += 1
    loss, number = token_loss(logits, targets)
    assert number.item() == count
    assert loss.item() == pytest.approx(total, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_of_half_precision_are_computed_in_float32(dtype):
    """The same as of the same numbers in float32, to the last bit, also inside autocast."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 40, 30, generator=generator).to(dtype)
    targets = torch.randint(0, 30, (6, 40), generator=generator)
    scale, bias, own = torch.tensor(math.log(10)), torch.tensor(-10.0), torch.arange(6)
    losses = (
        lambda x: token_loss(x, targets)[0],
        lambda x: asymmetric_loss(x, targets[..., None] > 20),
        lambda x: sigmoid_pair_loss(x[..., 0], own, scale, bias),
    )
    for loss in losses:
        exact = loss(logits.float())
        for enabled in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled):
                half = loss(logits)
            assert half.dtype == torch.float32 and torch.equal(half, exact)
