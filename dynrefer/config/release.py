"""The release's flat keys and old values, moved to where they live here."""

from typing import Any

from dynrefer.config.plain_yaml import plain
from dynrefer.config.schema import GenerationConfig

# The release's flat model keys and where their values live here.
RELEASE_KEYS: dict[str, str] = {
    "model.vit_model": "model.vision.name",
    "model.img_size": "model.image_size",
    "model.vit_precision": "model.vision.precision",
    "model.freeze_vit": "model.vision.freeze",
    "model.use_grad_checkpoint": "model.vision.gradient_checkpointing",
    "model.num_query_token": "model.qformer.num_query_tokens",
    "model.t5_model": "model.caption_decoder.language_model",
    "model.llm_model": "model.caption_decoder.language_model",
    "model.finetune_llm": "model.caption_decoder.lora",
    "model.max_txt_len": "model.caption_decoder.max_text_length",
    "model.tag_list": "model.vocabulary.tags",
    "model.ovad_file": "model.vocabulary.attributes",
    "model.ov_file": "model.vocabulary.classes",
    "model.tag_thr": "model.tag_threshold",
    "model.split_size": "run.split_size",
    **{f"model.{key}": f"model.generation.{key}" for key in GenerationConfig.__dataclass_fields__},
}

# Release values that have another name here.
RELEASE_VALUES: dict[str, dict[Any, Any]] = {
    "model.vision.name": {
        "eva_clip_g": "eva_giant_patch14_clip_224",
        "clip_L": "vit_large_patch14_clip_quickgelu_224",
    },
    # What its list [embed_tokens, lm_head, q, v] comes to: LAVIS's T5 registers its embedding under
    # another name first, and Vicuna has no layers called q and v.
    "model.caption_decoder.lora": {
        True: {"target_modules": r"model\.embed_tokens|lm_head|.*\.(q|v)"},
        False: None,
    },
    "run.runner": {"dynrefer": "epoch"},
}

# Release keys that nothing depends on here, and the only values they may have.
RELEASE_FIXED: dict[str, tuple[Any, ...]] = {
    "model.tag_bert_config": (),
    "model.drop_path_rate": (0,),
    "model.first_word_control": (False,),
    "model.apply_lemmatizer": (False,),
    "run.report_metric": (True,),
    "run.visualize": (False,),
    # torchrun's environment says what these three say in the release
    "run.world_size": (),
    "run.dist_url": (),
    "run.distributed": (),
}


def from_release(content: dict[str, Any]) -> dict[str, Any]:
    """Moves the release's keys and values of ``dynrefer.config.plain_yaml.parse`` to the schema's.

    The content is changed. Raises ValueError where a key has a value that nothing here supports.
    """
    for old, allowed in RELEASE_FIXED.items():
        section, _, key = old.partition(".")
        if key in _section(content, [section]):
            value = plain(content[section].pop(key))
            if allowed and value not in allowed:
                raise ValueError(f"{old}: {value}; only {allowed[0]} is supported")
    for old, new in RELEASE_KEYS.items():
        key, (*parents, last) = old.removeprefix("model."), new.split(".")
        if key in _section(content, ["model"]):
            _section(content, parents, make=True)[last] = content["model"].pop(key)
    for key, names in RELEASE_VALUES.items():
        *parents, last = key.split(".")
        section = _section(content, parents)
        value = plain(section.get(last))
        if isinstance(value, str | bool) and value in names:
            section[last] = names[value]
    return content


def _section(content: dict[str, Any], keys: list[str], make: bool = False) -> dict[str, Any]:
    """The mapping at some keys; an empty one, put there with ``make``, where there is none."""
    for key in keys:
        if make and not isinstance(content.get(key), dict):
            content[key] = {}
        inner = content.get(key)
        content = inner if isinstance(inner, dict) else {}
    return content
