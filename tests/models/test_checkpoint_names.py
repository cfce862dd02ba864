import json
import re
from pathlib import Path

import pytest
import torch

from dynrefer.models.checkpoints import (
    DROPPED,
    PUBLISHED_T5,
    PUBLISHED_VICUNA,
    from_published,
    to_published,
    translate,
)

PARITY = Path(__file__).parents[1] / "data" / "parity"
CASES = [("official_tiny", PUBLISHED_T5), ("official_tiny_vicuna", PUBLISHED_VICUNA)]


def published_names(case):
    return json.loads((PARITY / case / "case.json").read_text())["keys"]


@pytest.mark.parametrize(("case", "rules"), CASES)
def test_names_translate_both_ways_and_tensors_stay_as_they_are(case, rules):
    state = {name: torch.randn(shape) for name, shape in published_names(case).items()}
    own, unknown, dropped = from_published(state, rules)
    assert not unknown and len(own) == len(state) - len(dropped) > 150
    back = to_published(own, rules)
    assert set(back) == set(state) - set(dropped)
    for name, tensor in back.items():
        assert tensor is state[name]
        assert translate(translate(name, rules), rules, to_published=True) == name


@pytest.mark.parametrize("rules", [PUBLISHED_T5, PUBLISHED_VICUNA])
def test_own_names_translate_both_ways(model, rules):
    """Every name of a model has a published one, and no two share it."""
    names = [
        name
        for name in model.state_dict()
        if rules is PUBLISHED_T5 or not name.startswith("caption_decoder.language_model")
    ]
    published = [translate(name, rules, to_published=True) for name in names]
    assert None not in published and len(set(published)) == len(names)
    assert [translate(name, rules) for name in published] == names


@pytest.mark.parametrize(
    ("published", "own"),
    [
        ("visual_encoder.blocks.12.attn.q_bias", "vision.tower.blocks.12.attn.q_bias"),
        ("ln_vision.weight", "vision.norm.weight"),
        (
            "Qformer.bert.encoder.layer.4.crossattention.self.key.weight",
            "qformer.model.encoder.layer.4.crossattention.attention.key.weight",
        ),
        (
            "Qformer.bert.encoder.layer.4.output_query.dense.bias",
            "qformer.model.encoder.layer.4.output_query.dense.bias",
        ),
        (
            "attr_head.encoder.layer.1.crossattention.self.query.bias",
            "region_text_decoder.layers.1.query.bias",
        ),
        ("tag_head.encoder.layer.0.output.LayerNorm.bias", "tag_decoder.layers.0.mlp_norm.bias"),
        ("attr_t", "region_text_decoder.log_scale"),
        ("cvem_mlp.2.weight", "fusion.mlp.2.weight"),
        ("t5_proj.bias", "caption_decoder.projection.bias"),
    ],
)
def test_some_names(published, own):
    assert translate(published, PUBLISHED_T5) == own
    assert translate(own, PUBLISHED_T5, to_published=True) == published


def test_names_that_no_rule_knows():
    assert translate("optimizer.step", PUBLISHED_T5) is None
    assert translate("attr_tt", PUBLISHED_T5) is None
    assert translate("llm_proj.weight", PUBLISHED_T5) is None
    with pytest.raises(KeyError, match="'vision.mean' has no published name"):
        to_published({"vision.mean": torch.zeros(1)}, PUBLISHED_T5)


def test_dropped_names_have_a_reason():
    state = {
        "Qformer.bert.embeddings.word_embeddings.weight": torch.zeros(1),
        "Qformer.bert.encoder.layer.11.intermediate.dense.weight": torch.zeros(1),
        "Qformer.cls.predictions.bias": torch.zeros(1),
        "clip_embeds": torch.zeros(1),
        "text_encoder.token_embedding.weight": torch.zeros(1),
    }
    own, unknown, dropped = from_published(state, PUBLISHED_T5)
    assert not own and not unknown and set(dropped) == set(state)
    assert set(dropped.values()) <= set(DROPPED.values())


def test_every_rule_and_pattern_is_well_formed():
    for published, own in (*PUBLISHED_T5, *PUBLISHED_VICUNA):
        assert published.count("*") == own.count("*")
    for pattern in DROPPED:
        re.compile(pattern)
