"""What configurations make of checkpoints; tests/parity/test_formats.py has the formats."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2Config, Qwen2ForCausalLM

from dynrefer.checkpoints.formats import FORMATS
from dynrefer.checkpoints.tokenizers import load_tokenizer
from dynrefer.checkpoints.translation import to_published
from dynrefer.models.builders import build_model, build_vision
from tests.tiny_model import tiny_batch

T5 = FORMATS["dynrefer_t5"]
LANGUAGE_MODEL = "caption_decoder.language_model."


@pytest.fixture
def published(model):
    """Random weights of the whole model under published names."""
    state = model.state_dict()
    own = {name: torch.rand(tensor.shape) for name, tensor in state.items()}
    for alias in ("encoder", "decoder"):
        own[f"{LANGUAGE_MODEL}{alias}.embed_tokens.weight"] = own[f"{LANGUAGE_MODEL}shared.weight"]
    return to_published(own, T5)


def saved(state, path):
    torch.save({"model": state}, path)
    return path


def test_checkpoints_are_loaded_in_order(configured, published, tmp_path):
    first = saved(published, tmp_path / "first.pth")
    blip2 = {
        name: tensor + 1
        for name, tensor in published.items()
        if name.startswith(("Qformer.", "query_tokens", "ln_vision.", "t5_proj."))
    }
    second = saved(blip2, tmp_path / "second.pth")
    expected = published | blip2
    model = build_model(configured(f"pretrained=[{first},{second}]"))
    for name, tensor in to_published(model.state_dict(), T5).items():
        assert torch.equal(tensor, expected[name]), name
    model = build_model(configured(f"pretrained=[{second},{first}]"))
    for name, tensor in to_published(model.state_dict(), T5).items():
        assert torch.equal(tensor, published[name]), name


def test_names_left_over_are_a_warning_where_asked_for(configured, published, tmp_path, caplog):
    path = saved(published | {"attr_more": torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="file: attr_more"):
        build_model(configured(f"pretrained={path}"))
    model = build_model(configured(f"pretrained={path}", "strict=false"))
    assert torch.equal(model.qformer.query_tokens, published["query_tokens"])
    assert "file: attr_more" in caplog.text


def test_a_part_that_a_file_begins_it_must_hold(configured, published, tmp_path):
    """Else its weights would be neither the file's nor drawn."""
    del published["t5_model.lm_head.weight"]
    path = saved(published, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"lacks 1 tensors .*\n  model: .*lm_head.weight"):
        build_model(configured(f"pretrained={path}"))
    with pytest.raises(
        ValueError, match="no file holds 1 of the model's tensors: .*lm_head.weight"
    ):
        build_model(configured(f"pretrained={path}", "strict=false"))


def test_a_missing_checkpoint_names_the_key(configured, tmp_path):
    with pytest.raises(FileNotFoundError, match="model.pretrained: no checkpoint at .*b.pth"):
        build_model(configured(f"pretrained={tmp_path}/b.pth"))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_tower_in_half_precision_with_another_crop_size(
    configured, model, tmp_path, precision, caplog
):
    """As eva_vit_g.pth is: fp16, one block more, final norm and classifier of its own."""
    state = {
        name: torch.rand(t.shape).half() for name, t in model.vision.tower.state_dict().items()
    }
    last = {name.replace("blocks.0", "blocks.1"): t for name, t in state.items()}
    more = {"norm.weight": torch.zeros(64), "head.bias": torch.zeros(10)}
    torch.save({**last, **state, **more}, tmp_path / "eva_vit_g.pth")
    options = (f"vision.checkpoint={tmp_path}/eva_vit_g.pth", "image_size=64", "vision.freeze=true")
    depth = ("vision.options.depth=2", "vision.drop_last_blocks=1")
    vision = build_vision(configured(*options, *depth, f"vision.precision={precision}"))
    assert len(vision.tower.blocks) == 1 and vision.tower.pos_embed.shape == (1, 65, 64)
    assert "interpolated to 8 x 8 patches" in caplog.text
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    for name, tensor in vision.tower.state_dict().items():
        assert tensor.dtype == dtype
        assert name == "pos_embed" or torch.equal(tensor, state[name].to(dtype))
    assert (vision.norm.weight == 1).all() and vision.norm.weight.dtype == torch.float32
    assert not any(parameter.requires_grad for parameter in vision.parameters())


def test_adapters_start_beside_weights_of_a_checkpoint(configured, published, tmp_path):
    path = saved(published, tmp_path / "a.pth")
    lora = ("caption_decoder.freeze=true", "caption_decoder.lora={rank: 2}")
    model = build_model(configured(f"pretrained={path}", *lora)).eval()
    adapters = {n: p for n, p in model.named_parameters() if "lora_" in n}
    assert len(adapters) == 12 and all(p.requires_grad for p in adapters.values())
    assert all((p == 0).all() == ("lora_B" in name) for name, p in adapters.items())
    plain = build_model(configured(f"pretrained={path}")).eval()
    batch = tiny_batch(model, 2)
    with torch.no_grad():
        assert torch.equal(model(batch).caption, plain(batch).caption)


@pytest.fixture
def qwen(config, tmp_path):
    """A folder with a language model whose output layer is its embedding."""
    tokenizer = load_tokenizer(config.model.caption_decoder.tokenizer, "test")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "tie_word_embeddings": True}
    language_model = Qwen2ForCausalLM(Qwen2Config(**sizes, **heads, vocab_size=len(tokenizer)))
    language_model.save_pretrained(tmp_path / "qwen", max_shard_size="20KB")
    tokenizer.save_pretrained(tmp_path / "qwen")
    return tmp_path / "qwen", language_model


def with_language_model(configured, folder):
    options = ("config=null", "tokenizer=null", "freeze=true", "precision=bf16")
    return configured(
        "arch=dynrefer_causal",
        f"caption_decoder.language_model={folder}",
        *(f"caption_decoder.{option}" for option in options),
    )


def test_a_causal_language_model_in_shards(configured, qwen):
    folder, saved = qwen
    assert len(list(folder.glob("*.safetensors"))) > 2
    decoder = build_model(with_language_model(configured, folder)).caption_decoder
    loaded = decoder.language_model
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    for name, tensor in saved.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor.bfloat16()), name
    rotary = loaded.model.rotary_emb.inv_freq
    assert rotary.dtype == torch.float32
    assert torch.equal(rotary, saved.model.rotary_emb.inv_freq)


def test_language_models_that_cannot_be_read(configured, qwen):
    folder, _ = qwen
    config = with_language_model(configured, folder)
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    shard = folder / index["model.norm.weight"]
    content, state = shard.read_bytes(), load_file(shard)
    shard.write_bytes(content[:-9])
    with pytest.raises(
        ValueError, match=f"model.caption_decoder.language_model.*{shard.name} is bro"
    ):
        build_model(config)
    save_file({**state, "model.norm.weight": torch.zeros(31)}, shard)
    with pytest.raises(ValueError, match=r"norm.weight: file \(31,\), model \(32,\)"):
        build_model(config)
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=f"language_model: .*{shard.name} is missing"):
        build_model(config)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="language_model: .*config.json is missing"):
        build_model(config)
