"""Names of published tensors and ours, library by library; the data of ``checkpoint_names``.

A rule names published tensors and our own (by their names in a whole ``DynRefer``) as templates.
``*`` inside a name is one level of it (a layer's number), ``*`` at its end the rest of it, ``**``
any number of levels; they stand for the same text on both sides. Nearly all rules are renames; a
layout says what else changes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

# Several published tensors are one of ours, joined along the first dimension.
JOINED = "joined"
# A published bias of query, key and value; ours of query and value. A bias of the key adds the same
# to all scores of a query, which softmax ignores.
QUERY_KEY_VALUE = "query_key_value"
# Published without the leading dimensions of size 1 that tokens [1, L, C] have here.
TOKENS = "tokens"


@dataclass(frozen=True)
class Rule:
    """Published templates <-> own templates."""

    published: tuple[str, ...]
    own: tuple[str, ...]
    layout: str = ""


def renames(*pairs: tuple[str, str]) -> tuple[Rule, ...]:
    """Rules of single tensors that stay as they are, from pairs (published, own)."""
    return tuple(Rule((published,), (own,)) for published, own in pairs)


def _text_query_decoder(published: str, own: str) -> tuple[Rule, ...]:
    """Names of the tag decoder (``tag_*``) or the region-text decoder (``attr_*``)."""
    layer = f"{published}_head.encoder.layer.*"
    return renames(
        (f"{layer}.crossattention.output.dense.*", f"{own}.layers.*.output.*"),
        (f"{layer}.crossattention.output.LayerNorm.*", f"{own}.layers.*.attention_norm.*"),
        (f"{layer}.intermediate.dense.*", f"{own}.layers.*.expand.*"),
        (f"{layer}.output.dense.*", f"{own}.layers.*.contract.*"),
        (f"{layer}.output.LayerNorm.*", f"{own}.layers.*.mlp_norm.*"),
        (f"{layer}.crossattention.self.*", f"{own}.layers.*.*"),
        (f"{published}_vision_proj.*", f"{own}.vision_projection.*"),
        (f"{published}_text_proj.*", f"{own}.text_projection.*"),
        (f"{published}_fc.*", f"{own}.classifier.*"),
    )


def _layers(layer: str, block: str, names: Sequence[str], own: Sequence[str]) -> tuple[Rule, ...]:
    """The modules of a transformer's layer that differ in name only."""
    pairs = zip(names, own, strict=True)
    return renames(*((f"{layer}.{name}.*", f"{block}.{ours}.*") for name, ours in pairs))


def _projections(layer: str, own: str) -> tuple[Rule, ...]:
    """transformers' projections of query, key and value in CLIP, which are one matrix here."""
    return tuple(
        Rule(tuple(f"{layer}.self_attn.{x}_proj.{kind}" for x in "qkv"), (own + kind,), JOINED)
        for kind in ("weight", "bias")
    )


LANGUAGE_MODEL = "caption_decoder.language_model"
_TEXT = "text_encoder.transformer"
_BLOCK, _TEXT_BLOCK = "vision.tower.blocks.*", f"{_TEXT}.transformer.resblocks.*"
# Norms, output projection and MLP of a layer.
_TIMM = ("norm1", "norm2", "attn.proj", "mlp.fc1", "mlp.fc2")
_OPEN_CLIP = ("ln_1", "ln_2", "attn.out_proj", "mlp.c_fc", "mlp.c_proj")
_CLIP = ("layer_norm1", "layer_norm2", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")
_BLIP2 = ("layer_norm1", "layer_norm2", "self_attn.projection", "mlp.fc1", "mlp.fc2")

# BLIP-2 of LAVIS, which the published DynRefer is built on.
LAVIS = renames(
    ("visual_encoder.*", "vision.tower.*"),
    ("ln_vision.*", "vision.norm.*"),
    ("query_tokens", "qformer.query_tokens"),
    ("Qformer.bert.embeddings.LayerNorm.*", "qformer.model.layernorm.*"),
    (
        "Qformer.bert.encoder.layer.*.attention.self.*",
        "qformer.model.encoder.layer.*.attention.attention.*",
    ),
    (
        "Qformer.bert.encoder.layer.*.crossattention.self.*",
        "qformer.model.encoder.layer.*.crossattention.attention.*",
    ),
    ("Qformer.bert.encoder.layer.*", "qformer.model.encoder.layer.*"),
)
LAVIS_T5 = renames(
    ("t5_model.*", f"{LANGUAGE_MODEL}.*"),
    ("t5_proj.*", "caption_decoder.projection.*"),
)
LAVIS_VICUNA = renames(
    ("llm_model.*", f"{LANGUAGE_MODEL}.*"),
    ("llm_proj.*", "caption_decoder.projection.*"),
)

# What the published DynRefer adds to it.
DYNREFER = (
    *renames(
        ("cvem_align.*", "fusion.alignment.*"),
        ("cvem_mlp.*", "fusion.mlp.*"),
        ("attr_t", "region_text_decoder.log_scale"),
        ("attr_b", "region_text_decoder.bias"),
        ("cem_memory", "caption_decoder.control_memory"),
    ),
    *_text_query_decoder("tag", "tag_decoder"),
    *_text_query_decoder("attr", "region_text_decoder"),
)

# BLIP-2 of transformers.
_BLIP2_LAYER = "vision_model.encoder.layers.*"
TRANSFORMERS_BLIP2 = (
    *renames(
        ("vision_model.embeddings.class_embedding", "vision.tower.cls_token"),
        ("vision_model.embeddings.position_embedding", "vision.tower.pos_embed"),
        ("vision_model.embeddings.patch_embedding.*", "vision.tower.patch_embed.proj.*"),
        (f"{_BLIP2_LAYER}.self_attn.qkv.weight", f"{_BLOCK}.attn.qkv.weight"),
        ("vision_model.post_layernorm.*", "vision.norm.*"),
        ("query_tokens", "qformer.query_tokens"),
        ("qformer.*", "qformer.model.*"),
        ("language_projection.*", "caption_decoder.projection.*"),
        ("language_model.*", f"{LANGUAGE_MODEL}.*"),
    ),
    Rule(
        (f"{_BLIP2_LAYER}.self_attn.qkv.bias",),
        (f"{_BLOCK}.attn.q_bias", f"{_BLOCK}.attn.v_bias"),
        QUERY_KEY_VALUE,
    ),
    *_layers(_BLIP2_LAYER, _BLOCK, _BLIP2, _TIMM),
)

# EVA-CLIP: its towers are timm's and open_clip's.
EVA_CLIP = renames(("visual.*", "vision.tower.*"), ("text.*", f"{_TEXT}.*"))
OPEN_CLIP_EVA = renames(("visual.trunk.*", "vision.tower.*"), ("text.*", f"{_TEXT}.*"))


# CLIP ViT of open_clip, of OpenAI and LAVIS (the tower alone), and of transformers.
def _clip_tower(tower: str) -> tuple[Rule, ...]:
    layer = f"{tower}transformer.resblocks.*"
    return (
        Rule((f"{tower}class_embedding",), ("vision.tower.cls_token",), TOKENS),
        Rule((f"{tower}positional_embedding",), ("vision.tower.pos_embed",), TOKENS),
        *renames(
            (f"{tower}conv1.weight", "vision.tower.patch_embed.proj.weight"),
            (f"{tower}ln_pre.*", "vision.tower.norm_pre.*"),
            (f"{layer}.attn.in_proj_weight", f"{_BLOCK}.attn.qkv.weight"),
            (f"{layer}.attn.in_proj_bias", f"{_BLOCK}.attn.qkv.bias"),
        ),
        *_layers(layer, _BLOCK, _OPEN_CLIP, _TIMM),
    )


CLIP_TOWER = _clip_tower("")
OPEN_CLIP_VIT = (
    *_clip_tower("visual."),
    *renames(
        ("positional_embedding", f"{_TEXT}.positional_embedding"),
        ("token_embedding.weight", f"{_TEXT}.token_embedding.weight"),
        ("transformer.resblocks.*", f"{_TEXT}.transformer.resblocks.*"),
        ("ln_final.*", f"{_TEXT}.ln_final.*"),
    ),
)
_VISION, _WORDS = "vision_model.embeddings", "text_model.embeddings"
TRANSFORMERS_CLIP = (
    Rule((f"{_VISION}.class_embedding",), ("vision.tower.cls_token",), TOKENS),
    Rule((f"{_VISION}.position_embedding.weight",), ("vision.tower.pos_embed",), TOKENS),
    *renames(
        (f"{_VISION}.patch_embedding.*", "vision.tower.patch_embed.proj.*"),
        ("vision_model.pre_layrnorm.*", "vision.tower.norm_pre.*"),  # as it is spelt there
        (f"{_WORDS}.token_embedding.weight", f"{_TEXT}.token_embedding.weight"),
        (f"{_WORDS}.position_embedding.weight", f"{_TEXT}.positional_embedding"),
        ("text_model.final_layer_norm.*", f"{_TEXT}.ln_final.*"),
    ),
    *_layers("vision_model.encoder.layers.*", _BLOCK, _CLIP, _TIMM),
    *_layers("text_model.encoder.layers.*", _TEXT_BLOCK, _CLIP, _OPEN_CLIP),
    *_projections("vision_model.encoder.layers.*", f"{_BLOCK}.attn.qkv."),
    *_projections("text_model.encoder.layers.*", f"{_TEXT_BLOCK}.attn.in_proj_"),
)

# A file of adapters by peft: it leaves the adapter's name out.
_ADAPTED = f"{LANGUAGE_MODEL}.base_model.model"
PEFT = renames(
    ("base_model.model.**.lora_A.weight", f"{_ADAPTED}.**.lora_A.default.weight"),
    ("base_model.model.**.lora_B.weight", f"{_ADAPTED}.**.lora_B.default.weight"),
    ("base_model.model.**.lora_embedding_A", f"{_ADAPTED}.**.lora_embedding_A.default"),
    ("base_model.model.**.lora_embedding_B", f"{_ADAPTED}.**.lora_embedding_B.default"),
    ("base_model.model.*", f"{_ADAPTED}.*"),
)
