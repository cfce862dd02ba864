"""Models from configurations: ``registry.get("model", arch)(config.model)``."""

import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from dynrefer.checkpoints.configs import parts_with_files, view_selectors
from dynrefer.checkpoints.loading import Source, load_in_turn, open_source
from dynrefer.checkpoints.places import TOWER, VISION, check_filled, with_memory, without_memory
from dynrefer.checkpoints.translation import plain as plain_name
from dynrefer.config import require
from dynrefer.config.schema import LossConfig
from dynrefer.config.values import listed
from dynrefer.models.decoders.caption import Generation, NoCaptionDecoder
from dynrefer.models.decoders.region_text import RegionTextDecoder
from dynrefer.models.decoders.tag import TagDecoder
from dynrefer.models.dynrefer import DynRefer
from dynrefer.models.fusion import ViewFusion
from dynrefer.models.language_models import CAUSAL, T5, VICUNA, Family, build_caption_decoder
from dynrefer.models.parts import building, freeze_parts, frozen_parts, precision
from dynrefer.models.qformer import QFormer
from dynrefer.models.text_encoder import TextEncoder
from dynrefer.models.text_encoder.embeddings import EmbeddingCache, cached_text_encoder
from dynrefer.models.vision import VisionEncoder
from dynrefer.registry import registry
from dynrefer.vocabulary import Vocabularies, load_attributes, load_classes, load_tags

logger = logging.getLogger(__name__)


@registry.register("model", "dynrefer_t5")
def build_dynrefer_t5(config: DictConfig, captions: bool = True) -> DynRefer:
    """DynRefer with an encoder-decoder language model (FLAN-T5)."""
    return _compose(config, T5, captions)


@registry.register("model", "dynrefer_vicuna")
def build_dynrefer_vicuna(config: DictConfig, captions: bool = True) -> DynRefer:
    """DynRefer with Vicuna, whose sequences begin with the end token."""
    return _compose(config, VICUNA, captions)


@registry.register("model", "dynrefer_causal")
def build_dynrefer_causal(config: DictConfig, captions: bool = True) -> DynRefer:
    """DynRefer with any causal language model of transformers (Llama, Qwen, Mistral, ...)."""
    return _compose(config, CAUSAL, captions)


def build_model(config: DictConfig, captions: bool = True) -> DynRefer:
    """The model that ``config.arch`` names, with ``config.pretrained`` loaded where it is set.

    Args:
        config: the model's.
        captions: False builds it without its language model, for tasks that need none.
    """
    build = registry.get("model", config.arch)
    return build(config) if captions else build(config, captions=False)


def load_model(config: DictConfig, captions: bool = True) -> DynRefer:
    """The model of a whole configuration, with the checkpoints of ``run.load_ckpt_path``.

    Raises:
        ConfigError, FileNotFoundError, ValueError: it cannot be built, or a file does not fit.
    """
    model = build_model(config.model, captions)
    model.view_selectors = view_selectors(config)
    paths = listed(config.run.load_ckpt_path)
    sources = [open_source(path, "run.load_ckpt_path") for path in paths]
    for report in load_in_turn(model, sources, config.model.strict):
        model.held_elsewhere -= report.names
        model.learned |= report.learned
    return model


def warn_of_noise(model: DynRefer, config: DictConfig) -> None:
    """One line where something that predicts has learned nothing."""
    if noise := _unlearned(model):
        logger.warning(
            "run.load_ckpt_path is %s and model.pretrained is %s: nothing has trained %s, whose "
            "predictions are noise; name a checkpoint that training wrote",
            config.run.load_ckpt_path or "not set",
            config.model.pretrained,
            ", ".join(sorted(noise)),
        )


def _unlearned(model: DynRefer) -> set[str]:
    """Parts that no file has given anything learned, and such modules of other parts."""
    learned = {tuple(name.split(".")[:2]) for name in model.learned}
    parts = {part for part, _ in learned}
    unlearned = set()
    for name, _ in model.named_parameters():
        part, module = plain_name(name).split(".")[:2]
        begins_as_nothing = ".lora_" in name or name.startswith("vision.norm.")
        if (part, module) not in learned and not begins_as_nothing:
            unlearned.add(f"{part}.{module}" if part in parts else part)
    return unlearned


def load_vocabularies(config: DictConfig) -> Vocabularies:
    """The vocabulary files that ``config.vocabulary`` names (``config`` is the model's)."""
    return Vocabularies(
        load_tags(require(config, "vocabulary.tags")),
        load_attributes(require(config, "vocabulary.attributes")),
        load_classes(require(config, "vocabulary.classes")),
    )


def _compose(config: DictConfig, family: Family, captions: bool) -> DynRefer:
    plain = OmegaConf.to_container(config, resolve=True)
    frozen = frozen_parts(config)
    sources = [open_source(path, "model.pretrained") for path in listed(config.pretrained)]
    vision = build_vision(config, sources)
    with building("model.qformer"):
        qformer = QFormer(vision.width, **plain["qformer"])
    vocabularies = load_vocabularies(config)
    text_encoder = _text_encoder(config, vocabularies)
    widths = {"query_width": qformer.width, "text_width": text_encoder.width}
    # Before the decoders: the order of the parts decides which random numbers each starts from.
    fusion = ViewFusion(vision.width, config.num_views, vision.grid, vision.patch)
    with building("model.tag_decoder"):
        tag_decoder = TagDecoder(**widths, **plain["tag_decoder"])
    with building("model.region_text_decoder"):
        region_text_decoder = RegionTextDecoder(**widths, **plain["region_text_decoder"])
    model = DynRefer(
        vision,
        fusion,
        qformer,
        tag_decoder,
        region_text_decoder,
        build_caption_decoder(config, qformer.width, family, sources)
        if captions
        else NoCaptionDecoder(),
        text_encoder,
        vocabularies,
        LossConfig(**plain["loss"]),
        Generation(**plain["generation"]),
        config.tag_threshold,
    )
    freeze_parts(model, frozen)
    model.config = OmegaConf.create(plain)
    if config.from_scratch:
        _start_from_scratch(model)
    _note_files_of_parts(model)
    for report in load_in_turn(model, sources, config.strict):
        model.held_elsewhere |= report.names
        model.learned |= report.learned
    if not model.qformer.query_tokens.is_meta:  # else all of it was built so on purpose
        check_filled(model)
    return model


def _note_files_of_parts(model: DynRefer) -> None:
    parts = parts_with_files(model.config)
    names = {plain_name(name) for name in model.state_dict() if ".lora_" not in name}
    model.held_elsewhere = {name for name in names if name.startswith(parts)}
    model.learned = set(model.held_elsewhere)


def _start_from_scratch(model: DynRefer) -> None:
    """Draws weights that keep the variance of what passes from vision to the decoders.

    The published model starts from BLIP-2, and its own new parts start as the release starts them.
    In a narrow model without any pretrained part those starts hide the image: with BERT's deviation
    of 0.02 and a deformable step that begins at zero, queries differ by 0.002 from region to region
    where they should by 0.3, and training stays on a plateau for hundreds of steps.
    """
    parts = (model.fusion, model.qformer, model.tag_decoder, model.region_text_decoder)
    for module in (module for part in parts for module in part.modules()):
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    nn.init.kaiming_uniform_(model.fusion.mlp[0].weight, nonlinearity="relu")
    nn.init.normal_(model.qformer.query_tokens)
    if model.fusion.alignment is not None:
        model.fusion.alignment.pass_through()


def build_vision(config: DictConfig, sources: Sequence[Source] = ()) -> VisionEncoder:
    """The vision encoder, with the weights of ``vision.checkpoint`` where it is set.

    Args:
        config: the model's.
        sources: what ``pretrained`` names; a tower that they hold takes no memory yet.
    """
    options = OmegaConf.to_container(config.vision, resolve=True)
    options["freeze"] = "vision" in frozen_parts(config)
    dtype = precision(options.pop("precision"))
    weights = options.pop("checkpoint")
    is_in_file = bool(weights) or any(source.holds(TOWER) for source in sources)
    vision = _vision_encoder(config.image_size, options, is_in_file)
    if is_in_file:  # files of towers lack the norm behind them
        vision.norm.to_empty(device="cpu").reset_parameters()
    if vision.frozen:
        vision.tower.to(dtype)
    if weights and not any(source.fills(TOWER) for source in sources):
        source = open_source(weights, "model.vision.checkpoint")
        source.load(vision, prefix=VISION, strict=config.strict)
    return vision


def _vision_encoder(image_size: int, options: dict[str, Any], is_in_file: bool) -> VisionEncoder:
    try:
        with without_memory(is_in_file):
            return VisionEncoder(image_size=image_size, **options)
    except ValueError:
        # timm's hybrid towers try their stem out while they are built, which needs its weights.
        with with_memory():
            return VisionEncoder(image_size=image_size, **options)


def _text_encoder(config: DictConfig, vocabularies: Vocabularies) -> TextEncoder:
    name = config.text_encoder.name
    options = OmegaConf.to_container(config.text_encoder.options, resolve=True)
    build = functools.partial(_build_text_encoder, name, options)
    # Without a file of its own nothing here says what an encoder's weights are.
    if not (config.vocabulary.cache and options.get("checkpoint")):
        return build()
    cache = EmbeddingCache(Path(config.vocabulary.cache), name, options)
    return cached_text_encoder(build, cache, vocabularies)


def _build_text_encoder(name: str, options: dict[str, Any]) -> TextEncoder:
    build = registry.get("text_encoder", name)
    with building("model.text_encoder.options"):
        return build(**options)
