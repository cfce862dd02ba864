"""The formats of checkpoints: one table each, both directions; and which of them a file is of."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from dynrefer.checkpoints import rules as rules
from dynrefer.checkpoints.rules import LANGUAGE_MODEL, Rule, renames


@dataclass(frozen=True)
class Format:
    """A kind of checkpoint.

    Attributes:
        name: in :data:`FORMATS`.
        title: in messages.
        signs: regular expressions; a file in which each begins some name is of this format, unless
            one before it in :data:`FORMATS` fits too.
        rules: names of the file <-> names of the model; the first rule that matches a name counts.
        covers: templates of the own names that a whole file holds; None: of what training changes.
        dropped: regular expression over whole published names -> why nothing here reads them.
    """

    name: str
    title: str
    signs: tuple[str, ...]
    rules: tuple[Rule, ...]
    covers: tuple[str, ...] | None
    dropped: Mapping[str, str]


_TEXT_BRANCH = "the Q-Former's text branch is not used"
_LAVIS_DROPPED = {
    r"Qformer\.bert\.embeddings\.(word_embeddings|position_embeddings)\..*": _TEXT_BRANCH,
    r"Qformer\.bert\.embeddings\.position_ids": _TEXT_BRANCH,
    r"Qformer\.bert\.encoder\.layer\.\d+\.(intermediate|output)\..*": _TEXT_BRANCH,
    r"Qformer\.cls\..*": _TEXT_BRANCH,
}
_STAGE_1 = {r"(vision_proj|text_proj|itm_head)\..*|temp": "the losses of BLIP-2's first stage"}
_T5_DROPPED = {
    r".*decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight": (
        "cross-attention has no position bias; old T5 files hold one"
    )
}
_DYNREFER_DROPPED = {
    r"(clip_embeds|att_embeds|ov_embeds)": "text embeddings are made from the vocabularies",
    r"text_encoder\..*": "the text tower is loaded from its own file",
}
_CLIP_HEAD = "CLIP's final norm and projection; ln_vision takes their place"
_CLIP_SCALE = "the temperature of CLIP's own training"
_CLIP_DROPPED = {
    r"(visual\.|vision_model\.)?(ln_post|post_layernorm)\..*": _CLIP_HEAD,
    r"(visual\.)?proj|visual_projection\.weight": _CLIP_HEAD,
    r"text_projection(\.weight)?": "phrases are embedded by what comes before this projection",
    r"(text|vision)_model\.embeddings\.position_ids": "0, 1, 2, ...; old files hold them",
    r"logit_scale": _CLIP_SCALE,
}
_LANGUAGE_MODEL_DROPPED = {r".*rotary_emb\.inv_freq": "it is computed; old files hold it"}

_LAVIS_COVERS = (
    "qformer.model.*",
    "qformer.query_tokens",
    "vision.norm.*",
    "caption_decoder.projection.*",
)
# The query tokens do not train in the release: no trainable name is part of theirs.
_DYNREFER_COVERS = (
    "qformer.model.*",
    "fusion.*",
    "tag_decoder.*",
    "region_text_decoder.*",
    "caption_decoder.projection.*",
    "caption_decoder.control_memory",
)
_TOWERS = ("vision.tower.*", "text_encoder.transformer.*")

_OWN = r"(vision\.(tower|norm)|fusion|(tag|region_text|caption)_decoder|text_encoder)\."
_ADDED_BY_DYNREFER = r"cvem_|cem_|tag_|attr_"

# In the order in which a file is compared with them.
_ALL = (
    Format(
        "dynrefer",
        "DynRefer's own folder",
        (_OWN + r"|qformer\.(model\.|query_tokens)",),
        renames(("*", "*")),
        None,
        {},
    ),
    Format(
        "vision",
        "a vision encoder of our own",
        (r"tower\.",),
        renames(("tower.*", "vision.tower.*"), ("norm.*", "vision.norm.*")),
        ("vision.*",),
        {},
    ),
    Format(
        "dynrefer_t5",
        "the published DynRefer with FLAN-T5",
        (_ADDED_BY_DYNREFER, r"t5_"),
        (*rules.LAVIS, *rules.DYNREFER, *rules.LAVIS_T5),
        _DYNREFER_COVERS,
        _LAVIS_DROPPED | _T5_DROPPED | _DYNREFER_DROPPED,
    ),
    Format(
        "dynrefer_vicuna",
        "the published DynRefer with Vicuna",
        (_ADDED_BY_DYNREFER, r"llm_"),
        (*rules.LAVIS, *rules.DYNREFER, *rules.LAVIS_VICUNA),
        _DYNREFER_COVERS,
        _LAVIS_DROPPED | _DYNREFER_DROPPED | _LANGUAGE_MODEL_DROPPED,
    ),
    Format(
        "lavis_blip2_t5",
        "LAVIS's BLIP-2 with FLAN-T5",
        (r"Qformer\.bert\.", r"t5_"),
        (*rules.LAVIS, *rules.LAVIS_T5),
        _LAVIS_COVERS,
        _LAVIS_DROPPED | _T5_DROPPED,
    ),
    Format(
        "lavis_blip2_vicuna",
        "LAVIS's BLIP-2 with Vicuna",
        (r"Qformer\.bert\.", r"llm_"),
        (*rules.LAVIS, *rules.LAVIS_VICUNA),
        _LAVIS_COVERS,
        _LAVIS_DROPPED | _LANGUAGE_MODEL_DROPPED,
    ),
    Format(
        "lavis_blip2",
        "LAVIS's BLIP-2 before its language model",
        (r"Qformer\.bert\.",),
        rules.LAVIS,
        ("qformer.model.*", "qformer.query_tokens", "vision.norm.*"),
        _LAVIS_DROPPED | _STAGE_1,
    ),
    Format(
        "transformers_blip2",
        "transformers' BLIP-2",
        (r"qformer\.", r"vision_model\."),
        rules.TRANSFORMERS_BLIP2,
        (*_LAVIS_COVERS, "vision.tower.*", f"{LANGUAGE_MODEL}.*"),
        _T5_DROPPED,
    ),
    Format(
        "open_clip",
        "open_clip's EVA-CLIP",
        (r"visual\.trunk\.",),
        rules.OPEN_CLIP_EVA,
        _TOWERS,
        {r"visual\.trunk\.(norm|head)\..*": _CLIP_HEAD, r"logit_scale": _CLIP_SCALE},
    ),
    Format(
        "eva_clip",
        "EVA-CLIP",
        (r"visual\.blocks\.|text\.transformer\.",),
        rules.EVA_CLIP,
        _TOWERS,
        {r"visual\.(norm|head)\..*": _CLIP_HEAD, r"text\.logit_scale": _CLIP_SCALE},
    ),
    Format(
        "open_clip_vit",
        "open_clip's CLIP ViT",
        (r"visual\.transformer\.resblocks\.",),
        rules.OPEN_CLIP_VIT,
        _TOWERS,
        _CLIP_DROPPED,
    ),
    Format(
        "clip_vit",
        "a CLIP ViT in OpenAI's naming",
        (r"class_embedding", r"transformer\.resblocks\."),
        rules.CLIP_TOWER,
        ("vision.tower.*",),
        _CLIP_DROPPED,
    ),
    Format(
        "transformers_clip",
        "transformers' CLIP",
        (r"vision_model\.pre_layrnorm\.",),
        rules.TRANSFORMERS_CLIP,
        _TOWERS,
        _CLIP_DROPPED,
    ),
    Format(
        "eva_vit_g",
        "a vision tower in timm's naming",
        (r"patch_embed\.proj\.", r"blocks\."),
        renames(("*", "vision.tower.*")),
        ("vision.tower.*",),
        {r"(norm|fc_norm|head)\..*": _CLIP_HEAD},
    ),
    Format(
        "lora",
        "adapters of peft",
        (r"base_model\.model\..*lora_",),
        rules.PEFT,
        (f"{LANGUAGE_MODEL}.**.lora_*",),
        {},
    ),
    Format(
        "language_model",
        "a language model of transformers",
        (r".*(embed_tokens|embed_in|shared|wte)\.weight",),
        renames(("*", f"{LANGUAGE_MODEL}.*")),
        (f"{LANGUAGE_MODEL}.*",),
        _T5_DROPPED | _LANGUAGE_MODEL_DROPPED,
    ),
)
FORMATS: Mapping[str, Format] = {table.name: table for table in _ALL}


def detect_format(names: Collection[str], source: str = "state dict") -> Format:
    """The format whose names these are.

    Raises:
        ValueError: no format has such names.
    """
    for table in FORMATS.values():
        if all(any(re.match(sign, name) for name in names) for sign in table.signs):
            return table
    known = ", ".join(table.title for table in FORMATS.values())
    raise ValueError(
        f"{source} is of no known format; its names begin with {sorted(names)[:3]}; known: {known}"
    )
