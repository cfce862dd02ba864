import re

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from transformers import LlamaConfig, LlamaForCausalLM

from dynrefer.checkpoints.formats import FORMATS, detect_format
from dynrefer.checkpoints.translation import (
    find,
    fits,
    from_published,
    match_names,
    plain,
    to_published,
    translate,
)
from tests.parity.official import CASES, published_state

T5, VICUNA, BLIP2 = (FORMATS[n] for n in ("dynrefer_t5", "dynrefer_vicuna", "transformers_blip2"))


@pytest.mark.parametrize("case", CASES)
def test_published_names_translate_both_ways_and_tensors_stay_as_they_are(case):
    state, table = published_state(case), FORMATS[CASES[case]]
    own, unknown, dropped = from_published(state, table)
    assert not unknown and len(own) == len(state) - len(dropped) > 150
    back = to_published(own, table)
    assert set(back) == set(state) - set(dropped)
    for name, tensor in back.items():
        assert tensor is state[name]
        assert translate(translate(name, table), table, to_published=True) == name


@pytest.mark.parametrize("table", [T5, VICUNA])
def test_own_names_translate_both_ways(model, table):
    """Every name of a model has a published one, and no two share it."""
    names = list(model.state_dict())
    published = [translate(name, table, to_published=True) for name in names]
    assert None not in published and len(set(published)) == len(names)
    assert [translate(name, table) for name in published] == names


@pytest.mark.parametrize(
    ("table", "published", "own"),
    [
        (
            "dynrefer_t5",
            "visual_encoder.blocks.12.attn.q_bias",
            "vision.tower.blocks.12.attn.q_bias",
        ),
        ("dynrefer_t5", "ln_vision.weight", "vision.norm.weight"),
        (
            "dynrefer_t5",
            "Qformer.bert.encoder.layer.4.crossattention.self.key.weight",
            "qformer.model.encoder.layer.4.crossattention.attention.key.weight",
        ),
        (
            "lavis_blip2_t5",
            "Qformer.bert.encoder.layer.4.output_query.dense.bias",
            "qformer.model.encoder.layer.4.output_query.dense.bias",
        ),
        (
            "dynrefer_vicuna",
            "attr_head.encoder.layer.1.crossattention.self.query.bias",
            "region_text_decoder.layers.1.query.bias",
        ),
        (
            "dynrefer_t5",
            "tag_head.encoder.layer.0.output.LayerNorm.bias",
            "tag_decoder.layers.0.mlp_norm.bias",
        ),
        ("dynrefer_t5", "attr_t", "region_text_decoder.log_scale"),
        ("dynrefer_t5", "cvem_mlp.2.weight", "fusion.mlp.2.weight"),
        ("lavis_blip2_vicuna", "llm_proj.bias", "caption_decoder.projection.bias"),
        ("lavis_blip2", "query_tokens", "qformer.query_tokens"),
        (
            "transformers_blip2",
            "vision_model.encoder.layers.7.self_attn.projection.bias",
            "vision.tower.blocks.7.attn.proj.bias",
        ),
        ("transformers_blip2", "vision_model.post_layernorm.bias", "vision.norm.bias"),
        ("open_clip", "visual.trunk.cls_token", "vision.tower.cls_token"),
        ("eva_clip", "text.ln_final.bias", "text_encoder.transformer.ln_final.bias"),
        ("eva_vit_g", "blocks.3.mlp.fc2.bias", "vision.tower.blocks.3.mlp.fc2.bias"),
        ("vision", "norm.weight", "vision.norm.weight"),
        ("dynrefer", "fusion.mlp.0.bias", "fusion.mlp.0.bias"),
        (
            "dynrefer_t5",
            "t5_model.base_model.model.lm_head.lora_A.default.weight",
            "caption_decoder.language_model.base_model.model.lm_head.lora_A.default.weight",
        ),
    ],
)
def test_some_names(table, published, own):
    assert translate(published, FORMATS[table]) == own
    assert translate(own, FORMATS[table], to_published=True) == published


def test_names_that_no_rule_knows():
    assert translate("optimizer.step", T5) is None
    assert translate("attr_tt", T5) is None
    assert translate("llm_proj.weight", T5) is None
    with pytest.raises(
        ValueError, match="1 tensors have no place in the published DynRefer with F.*: vision.mean"
    ):
        to_published({"vision.mean": torch.zeros(1)}, T5)


def test_the_fused_bias_of_transformers():
    """Query, key and value; the key's is zero when it is written, and nothing reads it."""
    own_names = tuple(f"vision.tower.blocks.5.attn.{part}_bias" for part in "qv")
    name = "vision_model.encoder.layers.5.self_attn.qkv.bias"
    fused = torch.arange(6.0)
    own, unknown, _ = from_published({name: fused}, BLIP2)
    assert not unknown and tuple(own) == own_names
    assert [own[name].tolist() for name in own_names] == [[0, 1], [4, 5]]
    assert to_published(own, BLIP2)[name].tolist() == [0, 1, 0, 0, 4, 5]
    assert find(own_names[1], BLIP2, is_own=True).published == (name,)
    assert translate(name, BLIP2) is None  # it is not one name
    with pytest.raises(ValueError, match="q_bias"):
        to_published({own_names[0]: fused}, BLIP2)


def test_a_part_of_a_joined_tensor_is_left_over():
    names = [f"vision_model.encoder.layers.0.self_attn.{x}_proj.weight" for x in "qv"]
    translation = match_names(names, FORMATS["transformers_clip"])
    assert translation.unknown == names and not translation.matches


def test_dropped_names_have_a_reason():
    state = dict.fromkeys(
        [
            "Qformer.bert.embeddings.word_embeddings.weight",
            "Qformer.bert.encoder.layer.11.intermediate.dense.weight",
            "Qformer.cls.predictions.bias",
            "clip_embeds",
            "text_encoder.token_embedding.weight",
            "t5_model.decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
        ],
        torch.zeros(1),
    )
    own, unknown, dropped = from_published(state, T5)
    assert not own and not unknown and set(dropped) == set(state)
    assert all(dropped.values())


@pytest.mark.parametrize(
    ("name", "table", "names"),
    [
        ("dynrefer", "dynrefer", ["qformer.query_tokens"]),
        ("vision", "vision", ["tower.cls_token", "norm.bias", "tower.patch_embed.proj.weight"]),
        ("LAVIS T5", "lavis_blip2_t5", ["Qformer.bert.embeddings.LayerNorm.bias", "t5_proj.bias"]),
        (
            "stage 1",
            "lavis_blip2",
            ["Qformer.bert.embeddings.LayerNorm.bias", "temp", "itm_head.bias", "query_tokens"],
        ),
        (
            "BLIP-2",
            "transformers_blip2",
            ["query_tokens", "qformer.layernorm.bias", "vision_model.post_layernorm.bias"],
        ),
        ("text tower alone", "eva_clip", ["text.transformer.resblocks.0.ln_1.bias"]),
        ("BERT apart", "dynrefer_t5", ["tag_fc.weight", "t5_proj.bias", "Qformer.bert.x"]),
        ("T5", "language_model", ["shared.weight", "encoder.block.0.layer.0.layer_norm.weight"]),
        ("Llama", "language_model", ["model.embed_tokens.weight", "lm_head.weight"]),
        ("peft", "lora", ["base_model.model.lm_head.lora_A.weight"]),
    ],
)
def test_formats_are_told_apart(name, table, names):
    assert detect_format(names) is FORMATS[table]


@pytest.mark.parametrize("case", CASES)
def test_the_cases_are_told_apart(case):
    assert detect_format(published_state(case)) is FORMATS[CASES[case]]


def test_an_unknown_format():
    with pytest.raises(
        ValueError, match=r"a.pth is of no known format; .* \['layer1.bias'\]; known"
    ):
        detect_format(["layer1.bias"], "a.pth")


def test_names_of_peft_both_ways():
    """Those of a wrapped model, and those of its own files, which leave the adapter's name out."""
    config = LlamaConfig(
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        vocab_size=20,
    )
    layers = ["embed_tokens", "q_proj", "lm_head"]
    model = get_peft_model(LlamaForCausalLM(config), LoraConfig(r=2, target_modules=layers))
    wrapped = {f"caption_decoder.language_model.{name}" for name in model.state_dict()}
    published = {translate(name, VICUNA, to_published=True) for name in wrapped}
    assert "llm_model.base_model.model.model.embed_tokens.lora_embedding_A.default" in published
    assert {translate(name, VICUNA) for name in published} == wrapped

    saved = get_peft_model_state_dict(model, save_embedding_layers=False)
    own, unknown, dropped = from_published(saved, FORMATS["lora"])
    assert not unknown and not dropped and set(own) <= wrapped and len(own) == 6
    back = to_published(own, FORMATS["lora"])
    assert set(back) == set(saved) and all(back[name] is saved[name] for name in saved)

    bare = {
        f"caption_decoder.language_model.{name}" for name in LlamaForCausalLM(config).state_dict()
    }
    assert {plain(name) for name in wrapped if "lora_" not in name} == bare


def test_every_table_is_well_formed():
    for table in FORMATS.values():
        for rule in table.rules:
            stars = {tuple(re.findall(r"\*+", name)) for name in (*rule.published, *rule.own)}
            assert len(stars) == 1, rule
        for pattern in (*table.dropped, *table.signs):
            re.compile(pattern)
        assert all(table.dropped.values())


def test_stars_of_templates():
    assert fits("a.1.b.c", ["a.*.b.*"]) and not fits("a.1.2.b.c", ["a.*.b.*"])
    assert fits("a.1.2.b.c", ["a.**.b.c"]) and fits("a.1.2", ["a.*"]) and not fits("a.", ["a.*"])
