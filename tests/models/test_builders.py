import copy

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from dynrefer.checkpoints.formats import FORMATS
from dynrefer.checkpoints.tokenizers import load_tokenizer
from dynrefer.checkpoints.translation import to_published
from dynrefer.config import ConfigError, load_config
from dynrefer.models.builders import (
    build_model,
    build_vision,
    load_vocabularies,
    precision,
)
from dynrefer.models.decoders.caption_causal import CausalCaptionDecoder
from dynrefer.models.decoders.caption_t5 import T5CaptionDecoder, build_t5
from tests.tiny_model import tiny_batch, tiny_model

LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


def changed(config, **values):
    """The model's configuration with values at dotted keys."""
    copied = copy.deepcopy(config)
    for key, value in values.items():
        OmegaConf.update(copied.model, key.replace("__", "."), value, merge=False)
    return copied.model


def test_every_block_reaches_its_part(model, config):
    sizes = config.model
    assert model.vision.tower.embed_dim == sizes.vision.options.embed_dim == 64
    assert not model.vision.frozen and len(model.vision.tower.blocks) == 1
    assert model.fusion.num_views == 3 and model.fusion.grid == 4 and model.fusion.patch == 8
    assert model.qformer.query_tokens.shape == (1, 4, 32) and model.qformer.width == 32
    assert len(model.tag_decoder.layers) == 1 and model.tag_decoder.layers[0].heads == 2
    assert model.region_text_decoder.layers[0].expand.out_features == 64
    assert isinstance(model.caption_decoder, T5CaptionDecoder)
    assert model.caption_decoder.max_text_length == 32 and not model.caption_decoder.frozen
    assert (model.tag_threshold, model.loss_weights.tag) == (0.7, 0.01)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_release_keys_reach_the_model(config, tmp_path):
    OmegaConf.save(config, tmp_path / "tiny.yaml")
    release = {
        "num_query_token": 5,
        "tag_thr": 0.9,
        "num_beams": 5,
        "max_new_tokens": 30,
        "max_txt_len": 11,
        "freeze_vit": True,
        "drop_path_rate": 0,
        "tag_bert_config": "somewhere.json",
        "apply_lemmatizer": False,
    }
    options = [f"model.{key}={value}" for key, value in release.items()]
    model = build_model(load_config(tmp_path / "tiny.yaml", options).model)
    assert model.qformer.query_tokens.shape[1] == 5 and model.tag_threshold == 0.9
    assert (model.generation.num_beams, model.generation.max_new_tokens) == (5, 30)
    assert model.caption_decoder.max_text_length == 11
    assert model.vision.frozen


def test_the_seed_makes_the_weights(config):
    first, second = tiny_model(config, 1).state_dict(), tiny_model(config, 1).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["fusion.mlp.0.weight"], tiny_model(config, 2).fusion.mlp[0].weight)


def test_causal_model(config):
    model = build_model(
        changed(config, arch="dynrefer_vicuna", caption_decoder__config=LLAMA)
    ).eval()
    assert isinstance(model.caption_decoder, CausalCaptionDecoder)
    batch = tiny_batch(model, 2)
    assert torch.isfinite(model(batch).total)
    assert all(prediction.caption is not None for prediction in model.predict(batch))


def test_other_causal_language_models(config):
    qwen = {"model_type": "qwen2", "num_key_value_heads": 2, **LLAMA}
    model = build_model(changed(config, arch="dynrefer_vicuna", caption_decoder__config=qwen))
    assert type(model.caption_decoder.language_model).__name__ == "Qwen2ForCausalLM"


def test_frozen_parts_and_precisions(config):
    model = build_model(
        changed(config, vision__freeze=True, vision__precision="bf16", caption_decoder__freeze=True)
    ).train()
    assert model.vision.precision == torch.bfloat16 and not model.vision.tower.training
    assert model.vision.norm.weight.dtype == torch.float32
    assert not model.caption_decoder.language_model.training
    frozen = {name.split(".")[0] for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"vision", "caption_decoder"}
    model(tiny_batch(model, 2)).total.backward()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_vision_weights_from_a_file(config, model, tmp_path, precision):
    path = tmp_path / "vision.safetensors"
    save_file(model.vision.state_dict(), path)
    values = {"vision__checkpoint": str(path), "vision__freeze": True}
    built = build_model(changed(config, **values, vision__precision=precision)).vision
    saved = model.vision.state_dict()
    for name, tensor in built.state_dict().items():
        assert torch.equal(tensor, saved[name].to(tensor.dtype))
    with pytest.raises(FileNotFoundError, match="model.vision.checkpoint: no checkpoint at none"):
        build_model(changed(config, vision__checkpoint="none"))


def test_a_hybrid_tower_is_loaded_from_its_file(config, tmp_path):
    """timm runs the convolutional stem while it builds one, so that takes real weights."""
    options = {"patch_size": 2, "embed_dim": 64, "depth": 1, "num_heads": 2}
    hybrid = {"vision__name": "vit_tiny_r_s16_p8_224", "vision__options": options}
    vision = build_vision(changed(config, **hybrid))
    path = tmp_path / "vision.safetensors"
    save_file(vision.state_dict(), path)
    loaded = build_vision(changed(config, **hybrid, vision__checkpoint=str(path)))
    for name, tensor in vision.state_dict().items():
        assert loaded.state_dict()[name].equal(tensor)


def test_what_a_tower_s_file_holds_besides_is_a_warning_where_asked_for(
    config, model, tmp_path, caplog
):
    path = tmp_path / "vision.safetensors"
    save_file({**model.vision.state_dict(), "tower.more": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="file: tower.more"):
        build_model(changed(config, vision__checkpoint=str(path)))
    build_model(changed(config, vision__checkpoint=str(path), strict=False))
    assert "file: tower.more" in caplog.text


def test_weights_from_scratch_keep_the_variance(config):
    """Wider than the published start, which is made for parts that are pretrained."""
    torch.manual_seed(0)
    plain, scratch = build_model(config.model), build_model(changed(config, from_scratch=True))
    assert plain.qformer.query_tokens.std().item() == pytest.approx(0.02, rel=0.2)
    assert scratch.qformer.query_tokens.std().item() == pytest.approx(1, rel=0.2)
    fan_in = scratch.fusion.mlp[0].in_features
    for module, bound in (
        (scratch.fusion.mlp[0], (6 / fan_in) ** 0.5),
        (scratch.fusion.mlp[2], (6 / (2 * scratch.vision.width)) ** 0.5),
        (scratch.qformer.model.encoder.layer[0].attention.attention.query, (6 / 64) ** 0.5),
        (scratch.tag_decoder.vision_projection, (6 / 64) ** 0.5),
    ):
        assert 0.9 * bound < module.weight.abs().max() <= bound and not module.bias.any()


@pytest.fixture
def t5_directory(config, tmp_path):
    """A language model in Hugging Face format, with its tokenizer."""
    tokenizer = load_tokenizer(config.model.caption_decoder.tokenizer, "test")
    fields = {
        **OmegaConf.to_container(config.model.caption_decoder.config),
        "vocab_size": len(tokenizer) + 6,
    }
    torch.manual_seed(5)
    model = build_t5(fields, tokenizer.pad_token_id, tokenizer.eos_token_id)
    torch.nn.init.normal_(model.lm_head.weight)
    model.save_pretrained(tmp_path / "t5")
    tokenizer.save_pretrained(tmp_path / "t5")
    return tmp_path / "t5", model


@pytest.mark.parametrize("freeze", [True, False])
def test_language_model_from_a_directory(config, t5_directory, freeze):
    path, saved = t5_directory
    model = build_model(
        changed(
            config,
            caption_decoder__config=None,
            caption_decoder__tokenizer=None,
            caption_decoder__language_model=str(path),
            caption_decoder__precision="bf16",
            caption_decoder__freeze=freeze,
        )
    )
    loaded = model.caption_decoder.language_model
    assert loaded.dtype == (torch.bfloat16 if freeze else torch.float32)
    assert loaded.config.dense_act_fn == "gelu" and not loaded.config.scale_decoder_outputs
    assert loaded.lm_head.weight is not loaded.shared.weight
    for name in (
        "lm_head.weight",
        "shared.weight",
        "encoder.block.0.layer.0.SelfAttention.q.weight",
    ):
        torch.testing.assert_close(
            loaded.get_parameter(name).float(), saved.get_parameter(name), atol=2e-2, rtol=2e-2
        )
    captions = [prediction.caption for prediction in model.eval().predict(tiny_batch(model, 2))]
    assert len(captions) == 2


def test_causal_language_model_from_a_directory_gets_a_padding_token(config, tmp_path):
    tokenizer = load_tokenizer(config.model.caption_decoder.tokenizer, "test")
    fields = {**LLAMA, "vocab_size": len(tokenizer), "bos_token_id": 1, "eos_token_id": 1}
    LlamaForCausalLM(LlamaConfig(**fields, pad_token_id=None)).save_pretrained(tmp_path)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    model = build_model(
        changed(
            config,
            arch="dynrefer_vicuna",
            caption_decoder__config=None,
            caption_decoder__tokenizer=None,
            caption_decoder__language_model=str(tmp_path),
        )
    )
    decoder = model.caption_decoder
    assert decoder.tokenizer.pad_token == "[PAD]"
    assert decoder.language_model.get_input_embeddings().num_embeddings >= len(decoder.tokenizer)
    assert torch.isfinite(model(tiny_batch(model, 2)).total)


def test_pretrained_weights(config, model, tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"model": to_published(model.state_dict(), FORMATS["dynrefer_t5"])}, path)
    built = build_model(changed(config, pretrained=str(path)))
    state = built.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    with pytest.raises(FileNotFoundError, match="no checkpoint at .*b.pth"):
        build_model(changed(config, pretrained=str(tmp_path / "b.pth")))


@pytest.mark.parametrize(
    ("values", "error", "match"),
    [
        ({"arch": "dynrefer_t6"}, KeyError, "no model is registered .*; did you mean 'dynrefer_t5"),
        ({"vision__name": "vit_tinny"}, ValueError, "timm cannot build 'vit_tinny' with"),
        ({"image_size": 33}, ValueError, "model.image_size"),
        ({"qformer__num_attention_heads": 3}, ConfigError, "model.qformer: .*32.* is not a mult"),
        ({"tag_decoder__heads": 3}, ConfigError, "model.tag_decoder: .* 32 is not a multiple of"),
        ({"region_text_decoder__heads": 3}, ConfigError, "model.region_text_decoder: .*multiple"),
        ({"image_size": 7}, ValueError, "model.image_size: 7 is not a multiple of the patches"),
        *(
            ({f"vision__options__{key}": value}, ValueError, f"vision, .*: timm cannot .*{key}")
            for key, value in (("num_heads", 3), ("patch_size", 0), ("embed_dim", 63))
        ),
        *(
            ({"text_encoder__options": {"width": value}}, ConfigError, f"options.width: {value}; v")
            for value in (0, -2, "wide", 1.5, True)
        ),
        *(
            ({f"caption_decoder__config__{key}": value}, ConfigError, f"config.{key}: {value}; val")
            for key, value in (("num_heads", 0), ("num_layers", 0), ("d_model", -1), ("d_kv", 0))
        ),
        ({"caption_decoder__config__vocab_size": "many"}, ConfigError, "vocab_size: many; valid"),
        ({"text_encoder__name": "word_feature"}, KeyError, "did you mean 'word_features'"),
        (
            {"text_encoder__options": {"widht": 3}},
            ConfigError,
            "model.text_encoder.options: .*'widht'",
        ),
        ({"caption_decoder__config": None}, ConfigError, "set either language_model .* or config"),
        ({"caption_decoder__language_model": "x"}, ConfigError, "set either language_model"),
        ({"caption_decoder__tokenizer": None}, ConfigError, "caption_decoder.tokenizer is not set"),
        (
            {"caption_decoder__tokenizer": "no/where"},
            FileNotFoundError,
            "model.caption_decoder.tokenizer: no tokenizer at 'no/where'",
        ),
        (
            {"caption_decoder__config": {"d_modell": 32}},
            ConfigError,
            "model.caption_decoder.config: 'd_modell' is no field .*did you mean 'd_model'",
        ),
        (
            {"caption_decoder__config": {"d_model": "big"}},
            ConfigError,
            "model.caption_decoder.config.d_model: big; valid is a whole number",
        ),
        (
            {"arch": "dynrefer_vicuna", "caption_decoder__config": {"model_type": "lama"}},
            ConfigError,
            "model.caption_decoder.config: .*lama",
        ),
        (
            {"vocabulary__tags": "no/tags.txt"},
            FileNotFoundError,
            "no/tags.txt.*model.vocabulary.tags",
        ),
        ({"vocabulary__classes": "???"}, ConfigError, "vocabulary.classes is not set"),
    ],
)
def test_what_cannot_be_built(config, values, error, match):
    with pytest.raises(error, match=f"(?s){match}"):
        build_model(changed(config, **values))


@pytest.mark.parametrize("kind", ["language_model", "tokenizer"])
def test_missing_language_model(config, tmp_path, kind):
    values = {"caption_decoder__config": None, f"caption_decoder__{kind}": str(tmp_path)}
    if kind == "tokenizer":
        values["caption_decoder__language_model"] = str(tmp_path)
    else:
        values["caption_decoder__tokenizer"] = config.model.caption_decoder.tokenizer
    with pytest.raises(FileNotFoundError, match=rf"model.caption_decoder.{kind}"):
        build_model(changed(config, **values))


def test_precision_names():
    assert precision("bf16") == torch.bfloat16
    expected = torch.float16 if torch.cuda.is_available() else torch.float32
    assert precision("fp16") == expected


def test_vocabularies(config):
    vocabularies = load_vocabularies(config.model)
    assert "striped" in vocabularies.tags.names and "star" in vocabularies.classes.names
    assert len(vocabularies.attributes) > 10
