"""LoRA on every kind of language model, from configuration to merged weights."""

import json
import re

import peft
import pytest
import torch
from torch import nn

from dynrefer.config import ConfigError
from dynrefer.config.release import RELEASE_VALUES
from dynrefer.config.schema import LoraConfig
from dynrefer.models import lora
from dynrefer.models.builders import build_model
from tests.tiny_model import tiny_batch

SIZES = (
    "hidden_size: 32, intermediate_size: 64, num_hidden_layers: 1, num_attention_heads: 2, "
    "num_key_value_heads: 2"
)
KINDS = {
    "t5": ("arch=dynrefer_t5",),
    "llama": ("arch=dynrefer_vicuna", f"caption_decoder.config={{{SIZES}}}"),
    "qwen": ("arch=dynrefer_causal", f"caption_decoder.config={{model_type: qwen2, {SIZES}}}"),
    "mistral": (
        "arch=dynrefer_causal",
        f"caption_decoder.config={{model_type: mistral, {SIZES}}}",
    ),
}
DEFAULTS = {"t5": {"q", "v"}, **dict.fromkeys(("llama", "qwen", "mistral"), {"q_proj", "v_proj"})}
each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def adapted(configured):
    """A tiny model with adapters of rank 4, and others where the options say so."""

    def of(kind, *options):
        replaced = () if kind == "t5" else ("caption_decoder.config=null",)
        base = ("caption_decoder.freeze=true", "caption_decoder.lora={rank: 4, alpha: 8}")
        torch.manual_seed(0)
        return build_model(configured(*replaced, *KINDS[kind], *base, *options)).eval()

    return of


def adapters(model):
    return {name: p for name, p in model.named_parameters() if "lora_" in name}


def layers_with_adapters(model):
    return {re.search(r"([^.]+)\.lora_", name)[1] for name in adapters(model)}


def start(model):
    """Adapters begin as nothing: this gives them something to say."""
    for parameter in adapters(model).values():
        nn.init.normal_(parameter, std=0.5)


def caption_loss(model):
    batch = tiny_batch(model, 3)
    queries = torch.linspace(-1, 1, 3 * 4 * 32).view(3, 4, 32)
    return model.caption_decoder.loss(queries, batch.control_words, batch.captions)[0]


@each_kind
def test_only_the_adapters_of_query_and_value_learn(adapted, kind):
    model = adapted(kind).train()
    language_model = model.caption_decoder.language_model
    trainable = {name for name, p in language_model.named_parameters() if p.requires_grad}
    assert trainable == {name for name, _ in language_model.named_parameters() if "lora_" in name}
    assert layers_with_adapters(model) == DEFAULTS[kind]
    start(model)
    before = {name: p.detach().clone() for name, p in language_model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(tiny_batch(model, 3)).total.backward()
    optimizer.step()
    changed = {n for n, p in language_model.named_parameters() if not torch.equal(p, before[n])}
    assert changed == trainable


@pytest.mark.parametrize(
    ("targets", "message"),
    [("'(('", r"'\(\(' is no regular expression"), ("5", "5; valid is a list of names")],
)
def test_targets_of_another_kind(adapted, targets, message):
    with pytest.raises(ConfigError, match=f"lora.target_modules: {message}"):
        adapted("t5", f"caption_decoder.lora={{rank: 2, target_modules: {targets}}}")


def test_settings_reach_every_adapter(adapted):
    model = adapted("t5", "caption_decoder.lora={rank: 4, alpha: 6, dropout: 0.3}")
    layers = [m for m in model.modules() if isinstance(m, peft.tuners.lora.LoraLayer)]
    assert layers and {layer.scaling["default"] for layer in layers} == {6 / 4}
    assert {layer.lora_dropout["default"].p for layer in layers} == {0.3}
    assert {layer.r["default"] for layer in layers} == {4}


@each_kind
def test_fresh_adapters_change_nothing_and_trained_ones_do(adapted, kind):
    model = adapted(kind)
    with model.caption_decoder.language_model.disable_adapter():
        plain = caption_loss(model)
    assert torch.equal(caption_loss(model), plain)
    start(model)
    assert (caption_loss(model) - plain).abs() > 1e-3
    assert len(model.predict(tiny_batch(model, 2), {"caption"})) == 2


def test_adapters_are_float32_beside_weights_in_bf16(adapted):
    model = adapted("t5", "caption_decoder.precision=bf16")
    language_model = model.caption_decoder.language_model
    assert language_model.dtype == torch.bfloat16
    assert {p.dtype for p in adapters(model).values()} == {torch.float32}
    start(model)
    caption_loss(model).backward()
    assert all(p.grad.dtype == torch.float32 for p in adapters(model).values())


@each_kind
def test_merged_weights_say_the_same(adapted, kind):
    model = adapted(kind)
    start(model)
    loss, names = caption_loss(model), set(dict(model.named_parameters()))
    captions = [p.caption for p in model.predict(tiny_batch(model, 3), {"caption"})]
    model.caption_decoder.merge_adapters()
    assert not isinstance(model.caption_decoder.language_model, peft.PeftModel)
    assert not adapters(model) and names > {n for n in names if "language_model" not in n}
    torch.testing.assert_close(caption_loss(model), loss, rtol=1e-4, atol=1e-4)
    assert [p.caption for p in model.predict(tiny_batch(model, 3), {"caption"})] == captions
    assert not model.train().caption_decoder.language_model.training


def test_merging_weights_that_are_not_finite(adapted):
    model = adapted("t5")
    nn.init.constant_(next(iter(adapters(model).values())), float("nan"))
    with pytest.raises(ValueError, match="NaNs detected"):
        model.caption_decoder.merge_adapters()


@each_kind
def test_peft_reads_what_is_saved_alone(adapted, tmp_path, kind):
    model, other = adapted(kind), adapted(kind)
    start(model)
    model.caption_decoder.save_adapters(tmp_path / "adapters")
    files = {path.name for path in (tmp_path / "adapters").iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors", "SHA256SUMS"}
    assert json.loads((tmp_path / "adapters/adapter_config.json").read_text())["r"] == 4
    plain = other.caption_decoder.language_model.unload()
    other.caption_decoder.language_model = peft.PeftModel.from_pretrained(
        plain, tmp_path / "adapters"
    ).eval()
    assert torch.equal(caption_loss(other), caption_loss(model))
    with pytest.raises(FileExistsError, match="adapters exists"):
        model.caption_decoder.save_adapters(tmp_path / "adapters")


@each_kind
def test_saved_adapters_start_a_model(adapted, tmp_path, kind):
    model = adapted(kind)
    start(model)
    model.caption_decoder.save_adapters(tmp_path / "adapters")
    loaded = adapted(kind, f"pretrained={tmp_path / 'adapters'}")
    assert torch.equal(caption_loss(loaded), caption_loss(model))
    with pytest.raises(ValueError, match="(?s)adapters.*lora"):
        adapted(kind, f"pretrained={tmp_path / 'adapters'}", "caption_decoder.lora.rank=2")


@pytest.mark.parametrize("method", ["save_adapters", "merge_adapters"])
def test_without_adapters(model, tmp_path, method):
    arguments = [tmp_path / "adapters"] if method == "save_adapters" else []
    with pytest.raises(ValueError, match="has no adapters; model.caption_decoder.lora gives it"):
        getattr(model.caption_decoder, method)(*arguments)
    assert not (tmp_path / "adapters").exists()


@pytest.mark.parametrize(
    ("kind", "targets", "layers"),
    [
        ("t5", "[wi_0, wo]", {"wi_0", "wo"}),
        ("t5", "[SelfAttention.q]", {"q"}),
        ("t5", "'encoder.*k'", {"k"}),
        ("llama", "[up_proj, lm_head]", {"up_proj", "lm_head"}),
    ],
)
def test_layers_by_name_or_expression(adapted, kind, targets, layers):
    model = adapted(kind, f"caption_decoder.lora.target_modules={targets}")
    assert layers_with_adapters(model) == layers
    if targets != "[SelfAttention.q]":
        return
    assert not any("EncDecAttention" in name for name in adapters(model))


@pytest.mark.parametrize(
    ("kind", "layers"), [("t5", {"lm_head", "q", "v"}), ("llama", {"lm_head", "embed_tokens"})]
)
def test_the_layers_of_the_release(adapted, kind, layers):
    targets = RELEASE_VALUES["model.caption_decoder.lora"][True]["target_modules"]
    model = adapted(kind, f"caption_decoder.lora.target_modules='{targets}'")
    assert layers_with_adapters(model) == layers
    start(model)
    loss = caption_loss(model)
    loss.backward()
    assert all(parameter.grad is not None for parameter in adapters(model).values())
    model.caption_decoder.merge_adapters()
    torch.testing.assert_close(caption_loss(model), loss, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "targets", "match"),
    [
        (
            "t5",
            "[q_proj]",
            "'q_proj' is no layer of T5ForCond.*valid: embed_tokens, k, lm_head, o, q",
        ),
        ("llama", "[q, v]", "'q' is no layer of LlamaForCausalLM; .*k_proj, lm_head, o_proj"),
        ("llama", "[q_porj]", "'q_porj' is no layer .*did you mean 'q_proj'"),
        ("t5", "'.*_proj'", r"'\.\*_proj' matches no layer; their names end in \['embed_tokens'"),
    ],
)
def test_layers_that_are_not_there(adapted, kind, targets, match):
    with pytest.raises(ConfigError, match=f"caption_decoder.lora.target_modules: {match}"):
        adapted(kind, f"caption_decoder.lora.target_modules={targets}")


def test_a_model_without_known_projections():
    with pytest.raises(ConfigError, match="has no default for Sequential; valid: 0, 1"):
        lora.add_adapters(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), LoraConfig())


def test_settings_that_cannot_be(adapted):
    with pytest.raises(ConfigError, match="caption_decoder.freeze: False; LoRA trains adapters"):
        adapted("t5", "caption_decoder.freeze=false")


def test_adapters_can_be_frozen_as_well(adapted):
    model = adapted("t5", "freeze=[language_model]").train()
    assert adapters(model) and not any(p.requires_grad for p in adapters(model).values())
    assert not any(m.training for m in model.caption_decoder.language_model.modules())
    assert model.caption_decoder.projection.weight.requires_grad
