"""Models from configurations: ``registry.get("model", arch)(config.model)``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from omegaconf import DictConfig, OmegaConf
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel, T5Config, T5ForConditionalGeneration

from dynrefer.config import ConfigError, require
from dynrefer.models import checkpoints
from dynrefer.models.decoders.caption import CaptionDecoder, Generation
from dynrefer.models.decoders.caption_causal import CausalCaptionDecoder, build_causal
from dynrefer.models.decoders.caption_t5 import T5CaptionDecoder, build_t5, untie_output
from dynrefer.models.decoders.region_text import RegionTextDecoder
from dynrefer.models.decoders.tag import TagDecoder
from dynrefer.models.dynrefer import DynRefer, LossWeights
from dynrefer.models.fusion import ViewFusion
from dynrefer.models.initialization import start_from_scratch
from dynrefer.models.qformer import QFormer
from dynrefer.models.text_encoder import TextEncoder
from dynrefer.models.tokenizers import load_tokenizer
from dynrefer.models.vision import VisionEncoder
from dynrefer.registry import registry
from dynrefer.vocabulary import Vocabularies, load_attributes, load_classes, load_tags

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LanguageModelLoader = Callable[[str, torch.dtype], PreTrainedModel]
LanguageModelBuilder = Callable[[dict[str, Any], int, int], nn.Module]


def precision(name: str, key: str) -> torch.dtype:
    """The dtype of "fp32", "bf16" or "fp16"; without a GPU fp16 becomes fp32."""
    if name not in PRECISIONS:
        raise ConfigError(f"{key}: '{name}'; valid: {', '.join(PRECISIONS)}")
    if name == "fp16" and not torch.cuda.is_available():
        return torch.float32
    return PRECISIONS[name]


@registry.register("model", "dynrefer_t5")
def build_dynrefer_t5(config: DictConfig) -> DynRefer:
    """DynRefer with an encoder-decoder language model (FLAN-T5)."""
    return _compose(config, T5CaptionDecoder, _load_t5, build_t5, checkpoints.PUBLISHED_T5)


@registry.register("model", "dynrefer_vicuna")
def build_dynrefer_vicuna(config: DictConfig) -> DynRefer:
    """DynRefer with a causal language model (Vicuna)."""
    return _compose(
        config, CausalCaptionDecoder, _load_causal, build_causal, checkpoints.PUBLISHED_VICUNA
    )


def build_model(config: DictConfig) -> DynRefer:
    """The model that ``config.arch`` names, with ``config.pretrained`` loaded where it is set."""
    return registry.get("model", config.arch)(config)


def load_vocabularies(config: DictConfig) -> Vocabularies:
    """The vocabulary files that ``config.vocabulary`` names (``config`` is the model's)."""
    return Vocabularies(
        load_tags(require(config, "vocabulary.tags")),
        load_attributes(require(config, "vocabulary.attributes")),
        load_classes(require(config, "vocabulary.classes")),
    )


def _compose(
    config: DictConfig,
    decoder_class: type[CaptionDecoder],
    load: LanguageModelLoader,
    build: LanguageModelBuilder,
    rules: checkpoints.Rules,
) -> DynRefer:
    plain = OmegaConf.to_container(config, resolve=True)
    vision = build_vision(config)
    qformer = QFormer(vision.width, **plain["qformer"])
    text_encoder = _text_encoder(config)
    widths = {"query_width": qformer.width, "text_width": text_encoder.width}
    model = DynRefer(
        vision,
        ViewFusion(vision.width, config.num_views, vision.grid, vision.patch),
        qformer,
        TagDecoder(**widths, **plain["tag_decoder"]),
        RegionTextDecoder(**widths, **plain["region_text_decoder"]),
        _caption_decoder(config, qformer.width, decoder_class, load, build),
        text_encoder,
        load_vocabularies(config),
        LossWeights(**plain["loss"]),
        Generation(**plain["generation"]),
        config.tag_threshold,
        rules,
    )
    if config.from_scratch:
        start_from_scratch(model)
    if config.pretrained:
        checkpoints.load_file_or_directory(model, Path(config.pretrained), rules)
    return model


def build_vision(config: DictConfig) -> VisionEncoder:
    """The vision encoder, with the weights of ``vision.checkpoint`` where it is set."""
    options = OmegaConf.to_container(config.vision, resolve=True)
    dtype = precision(options.pop("precision"), "model.vision.precision")
    weights = options.pop("checkpoint")
    vision = VisionEncoder(image_size=config.image_size, **options)
    if weights:
        checkpoints.load_whole(vision, Path(weights), "model.vision.checkpoint")
    if vision.frozen:
        vision.tower.to(dtype)
    return vision


def _text_encoder(config: DictConfig) -> TextEncoder:
    build = registry.get("text_encoder", config.text_encoder.name)
    try:
        return build(**config.text_encoder.options)
    except TypeError as error:
        raise ConfigError(f"model.text_encoder.options: {error}") from error


def _caption_decoder(
    config: DictConfig,
    query_width: int,
    decoder_class: type[CaptionDecoder],
    load: LanguageModelLoader,
    build: LanguageModelBuilder,
) -> CaptionDecoder:
    options = config.caption_decoder
    key = "model.caption_decoder"
    if (options.language_model is None) == (options.config is None):
        raise ConfigError(f"{key}: set either language_model (a name or directory) or config")
    name = options.tokenizer or options.language_model
    if name is None:
        raise ConfigError(f"{key}.tokenizer is not set; a model built from config needs one")
    tokenizer = load_tokenizer(name, f"{key}.tokenizer")
    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    if options.config is None:
        dtype = precision(options.precision, f"{key}.precision") if options.freeze else None
        try:
            language_model = load(options.language_model, dtype or torch.float32)
        except OSError as error:
            raise FileNotFoundError(
                f"{key}.language_model: no language model at '{options.language_model}' (neither a "
                f"directory nor in the Hugging Face cache): {error}"
            ) from error
        if len(tokenizer) > language_model.get_input_embeddings().num_embeddings:
            language_model.resize_token_embeddings(len(tokenizer))
    else:
        fields = {"vocab_size": len(tokenizer), **OmegaConf.to_container(options.config)}
        try:
            language_model = build(fields, tokenizer.pad_token_id, tokenizer.eos_token_id)
        except (TypeError, ValueError, StrictDataclassError) as error:
            raise ConfigError(f"{key}.config: {error}") from error
    return decoder_class(
        language_model, tokenizer, query_width, options.max_text_length, options.freeze
    )


def _load_t5(name: str, dtype: torch.dtype) -> PreTrainedModel:
    config = T5Config.from_pretrained(name, local_files_only=True)
    config.dense_act_fn = "gelu"
    model = T5ForConditionalGeneration.from_pretrained(
        name, config=config, dtype=dtype, local_files_only=True
    )
    untie_output(model)
    return model


def _load_causal(name: str, dtype: torch.dtype) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(name, dtype=dtype, local_files_only=True)
