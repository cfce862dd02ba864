import pytest
import torch

from dynrefer.models.qformer import QFormer


def qformer(**options):
    torch.manual_seed(0)
    sizes = {
        "num_query_tokens": 4,
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    return QFormer(12, **{**sizes, **options})


def test_shape_and_independence_of_regions():
    module = qformer().eval()
    tokens = torch.randn(3, 7, 12)
    queries = module(tokens)
    assert queries.shape == (3, 4, 16) and module.width == 16
    torch.testing.assert_close(queries[1:2], module(tokens[1:2]), rtol=1e-5, atol=1e-5)


def test_cross_attention_stands_in_even_layers():
    layers = qformer().model.encoder.layer
    assert [hasattr(layer, "crossattention") for layer in layers] == [True, False, True]


def test_layout_is_berts():
    module = qformer(dropout=0.25)
    assert module.model.layernorm.eps == 1e-12
    assert module.model.dropout.p == 0.25
    layer = module.model.encoder.layer[0]

    for attention in (layer.attention.attention, layer.crossattention.attention):
        assert attention.attention_dropout == 0.25
    names = {name.split(".")[0] for name, _ in module.model.encoder.layer[1].named_parameters()}
    assert names == {"attention", "intermediate_query", "output_query"}  # no text branch


@pytest.mark.parametrize("freeze", [True, False])
def test_query_tokens_and_gradients(freeze):
    module = qformer(freeze_query_tokens=freeze).train()
    module(torch.randn(2, 5, 12)).square().sum().backward()
    without = [name for name, parameter in module.named_parameters() if parameter.grad is None]
    assert without == (["query_tokens"] if freeze else [])


def test_dropout_in_training_only():
    module, tokens = qformer(), torch.randn(2, 5, 12)
    assert not torch.equal(module.train()(tokens), module(tokens))
    assert torch.equal(module.eval()(tokens), module(tokens))
    assert torch.equal(qformer(dropout=0.0).train()(tokens), qformer(dropout=0.0).train()(tokens))
