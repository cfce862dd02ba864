import pytest
import torch
from torch.nn import functional

from dynrefer.models.decoders.cross_attention import CrossAttentionLayer, TextQueryDecoder
from dynrefer.models.decoders.tag import TagDecoder


def layer(dropout=0.0):
    torch.manual_seed(0)
    module = CrossAttentionLayer(8, 2, 16, dropout)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return module


def slow_layer(module, texts, memory):
    """One region at a time, one head at a time."""
    rows = []
    for n in range(len(memory)):
        text = texts[0 if len(texts) == 1 else n]
        q, k, v = module.query(text), module.key(memory[n]), module.value(memory[n])
        heads = []
        for h in range(module.heads):
            part = slice(4 * h, 4 * h + 4)
            weight = (q[:, part] @ k[:, part].T / 2).softmax(dim=-1)
            heads.append(weight @ v[:, part])
        hidden = module.attention_norm(module.output(torch.cat(heads, dim=-1)) + text)
        mlp = module.contract(functional.gelu(module.expand(hidden)))
        rows.append(module.mlp_norm(mlp + hidden))
    return torch.stack(rows)


def test_norms_have_the_epsilon_of_bert():
    norms = [module for module in layer().modules() if isinstance(module, torch.nn.LayerNorm)]
    assert [norm.eps for norm in norms] == [1e-12, 1e-12]


@pytest.mark.parametrize("rows", [1, 3])
def test_layer_against_loops(rows):
    module, texts, memory = layer(), torch.randn(rows, 5, 8), torch.randn(3, 4, 8)
    torch.testing.assert_close(
        module(texts, memory), slow_layer(module, texts, memory), rtol=1e-4, atol=1e-5
    )


def test_texts_do_not_see_each_other():
    decoder = TextQueryDecoder(6, 5, width=8, heads=2, layers=2, intermediate=16).eval()
    texts, memory = torch.randn(5, 8), torch.randn(3, 4, 8)
    together = decoder.decode(texts, memory)
    assert together.shape == (3, 5, 8)
    alone = torch.cat([decoder.decode(texts[i : i + 1], memory) for i in range(5)], dim=1)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def zeroed(*linears):
    for linear in linears:
        torch.nn.init.zeros_(linear.weight)
        torch.nn.init.zeros_(linear.bias)


@pytest.mark.parametrize("place", ["attention", "its output", "MLP"])
def test_dropout_in_training_only(place):
    """At each of its three places alone, the others having nothing to drop or not being seen."""
    module, texts, memory = layer(dropout=0.5), torch.randn(1, 5, 8), torch.randn(2, 4, 8)
    seen = []
    if place == "attention":
        module.output.register_forward_hook(lambda *arguments: seen.append(arguments[-1]))
    else:
        zeroed(module.value, *([module.output] if place == "MLP" else [module.contract]))
        module.register_forward_hook(lambda *arguments: seen.append(arguments[-1]))
    for mode in (True, False):
        seen.clear()
        for _ in range(2):
            module.train(mode)(texts, memory)
        assert torch.equal(*seen) is not mode


def test_the_share_that_is_dropped():
    module = layer(dropout=0.25).train()
    zeroed(module.value, module.contract)
    module.output.bias.data.fill_(1.0)
    module.attention_norm, module.mlp_norm = torch.nn.Identity(), torch.nn.Identity()
    dropped = module(torch.zeros(1, 2000, 8), torch.zeros(1, 4, 8))
    assert (dropped == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    torch.testing.assert_close(dropped.max().item(), 1 / 0.75)


def test_tag_decoder_scores_every_tag_of_every_region():
    decoder = TagDecoder(6, 5, width=8, heads=2, layers=1, intermediate=16, dropout=0.0)
    queries, tags = torch.randn(3, 4, 6), torch.randn(7, 5)
    assert decoder(queries, tags).shape == (3, 7)
    targets = torch.rand(3, 7) < 0.3
    one_by_one = sum(decoder.loss(queries[i : i + 1], tags, targets[i : i + 1]) for i in range(3))
    torch.testing.assert_close(decoder.loss(queries, tags, targets), one_by_one)


def test_layout_is_berts():
    decoder = TextQueryDecoder(6, 5, width=8, heads=2)
    norms = [module for module in decoder.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert len(decoder.layers) == 2 and [norm.eps for norm in norms] == [1e-12] * 4
    assert decoder.layers[0].expand.out_features == 1024 and decoder.layers[0].dropout == 0.1


def test_width_must_be_a_multiple_of_the_heads():
    with pytest.raises(ValueError, match="decoder width 9 is not a multiple of its 2 heads"):
        CrossAttentionLayer(9, 2, 16, 0.0)
