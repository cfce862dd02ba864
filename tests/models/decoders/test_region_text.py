import math

import pytest
import torch
from torch.nn import functional

from dynrefer.models.decoders import region_text
from dynrefer.models.decoders.region_text import RegionTextDecoder


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    module = RegionTextDecoder(6, 5, width=8, heads=2, layers=1, intermediate=16, dropout=0.0)
    for parameter in module.parameters():
        if parameter.ndim:
            torch.nn.init.normal_(parameter, std=0.5)
    return module


def inputs(regions=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(regions, 4, 6, generator=generator),
        torch.randn(regions, 5, generator=generator),
    )


def test_start_of_temperature_and_bias():
    fresh = RegionTextDecoder(6, 5)
    assert fresh.log_scale.item() == pytest.approx(math.log(10)) and fresh.bias.item() == -10


def test_similarity_is_a_linear_function_of_normalised_vectors(decoder):
    queries, texts = inputs()
    hidden = decoder.decode(decoder.text_projection(texts), decoder.vision_projection(queries))
    unit = hidden / hidden.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(decoder(queries, texts), decoder.classifier(unit)[..., 0])


def slow_loss(decoder, queries, texts, detach):
    """Both directions over all pairs; ``detach`` cuts the gathered side."""
    total = 0.0
    n = len(queries)
    memory, projected = decoder.vision_projection(queries), decoder.text_projection(texts)
    for gathered in ("memory", "texts"):
        for i in range(n):
            for j in range(n):
                region, text = memory[i : i + 1], projected[j : j + 1]
                if detach and gathered == "memory":
                    region = region.detach()
                if detach and gathered == "texts":
                    text = text.detach()
                logit = decoder.similarity(text, region)[0, 0] * decoder.log_scale.exp()
                sign = 1 if i == j else -1
                total = total - functional.logsigmoid(sign * (logit + decoder.bias))
    return total / n / 2


def test_loss_and_gradients_against_loops(decoder):
    queries, texts = (tensor.requires_grad_() for tensor in inputs())
    watched = [queries, texts, *decoder.parameters()]
    loss = decoder.loss(queries, texts)
    slow = slow_loss(decoder, queries, texts, detach=True)
    torch.testing.assert_close(loss, slow)
    gradients, expected = (torch.autograd.grad(value, watched) for value in (loss, slow))
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    attached = torch.autograd.grad(slow_loss(decoder, queries, texts, detach=False), queries)[0]
    assert (attached - gradients[0]).abs().max() > 1e-4  # so the comparison above can fail


def test_mean_over_processes_is_the_loss_of_the_whole_batch(decoder, monkeypatch):
    queries, texts = inputs(regions=4)
    whole = decoder.loss(queries, texts)
    everything = {
        4: decoder.vision_projection(queries).detach(),
        8: decoder.text_projection(texts).detach(),
    }
    parts = []
    for start in (0, 2):
        monkeypatch.setattr(
            region_text,
            "gather_constant",
            lambda local, start=start: (everything[4 if local.ndim == 3 else 8], start),
        )
        parts.append(decoder.loss(queries[start : start + 2], texts[start : start + 2]))
    torch.testing.assert_close(sum(parts) / 2, whole)
