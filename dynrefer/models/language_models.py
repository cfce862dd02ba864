"""Caption decoders from configurations: tokenizer and language model, loaded or built untrained."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, StrictDataclassError
from omegaconf import DictConfig, OmegaConf
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from dynrefer.assets import fetch_hint, local_path
from dynrefer.checkpoints.gguf_files import find_gguf, gguf_config, is_gguf, open_gguf
from dynrefer.checkpoints.loading import Source, open_source
from dynrefer.checkpoints.places import LANGUAGE_MODEL, without_memory
from dynrefer.checkpoints.tokenizers import load_tokenizer
from dynrefer.config import ConfigError
from dynrefer.config.schema import LoraConfig
from dynrefer.models.decoders.caption import CaptionDecoder
from dynrefer.models.decoders.caption_causal import CausalCaptionDecoder, build_causal
from dynrefer.models.decoders.caption_t5 import T5CaptionDecoder, build_t5, t5_of
from dynrefer.models.parts import building, frozen_parts, precision

KEY = "model.caption_decoder"

# Fields of a language model's configuration that follow from the tokenizer or from the decoder.
_DERIVED_FIELDS = {
    *("architectures", "bos_token_id", "decoder_start_token_id", "dtype", "eos_token_id"),
    *("is_encoder_decoder", "pad_token_id", "transformers_version"),
}
# Ends of the names of fields that are sizes.
_SIZES = ("_size", "_layers", "_heads", "_dim", "d_model", "d_ff", "d_kv")
_DERIVED_FIELDS_OF_T5 = {
    *("dense_act_fn", "is_gated_act", "model_type"),
    *("scale_decoder_outputs", "tie_word_embeddings"),
}


@dataclass(frozen=True)
class Family:
    """How language models of one kind become caption decoders.

    Args:
        decoder: the class of the decoder.
        configured: untrained, of a configuration of transformers.
        build: untrained, from the fields of its configuration, with the ids of padding and end.
        starts_with_end: sequences begin with the end token, whatever start token there is.
    """

    decoder: type[CaptionDecoder]
    configured: Callable[[PreTrainedConfig], PreTrainedModel]
    build: Callable[[dict[str, Any], int, int], nn.Module]
    starts_with_end: bool = False


T5 = Family(T5CaptionDecoder, t5_of, build_t5)
VICUNA = Family(CausalCaptionDecoder, AutoModelForCausalLM.from_config, build_causal, True)
CAUSAL = Family(CausalCaptionDecoder, AutoModelForCausalLM.from_config, build_causal)


def build_caption_decoder(
    config: DictConfig, query_width: int, family: Family, sources: Sequence[Source] = ()
) -> CaptionDecoder:
    """The decoder that ``config.caption_decoder`` describes (``config`` is the model's).

    Args:
        query_width: width D of the Q-Former's queries.
        sources: what ``pretrained`` names; a language model that they hold takes no memory yet.

    Raises:
        ConfigError: keys that do not fit each other, or a value that is not valid.
        FileNotFoundError: there is no such language model or tokenizer on this machine.
    """
    options = config.caption_decoder
    if (options.language_model is None) == (options.config is None):
        raise ConfigError(f"{KEY}: set either language_model (a name or directory) or config")
    if options.lora is not None and not options.freeze:
        raise ConfigError(
            f"{KEY}.freeze: False; LoRA trains adapters beside frozen weights, valid is True, or "
            f"{KEY}.lora=null"
        )
    tokenizer = _tokenizer(options, family)
    # Weights that training changes are held in float32, whatever is computed in.
    is_fixed = options.freeze or "language_model" in frozen_parts(config)
    dtype = precision(options.precision) if is_fixed else torch.float32
    if options.config is None:
        language_model = _load(options.language_model, tokenizer, dtype, family, sources)
    else:
        with without_memory(any(source.holds(LANGUAGE_MODEL) for source in sources)):
            language_model = _build(options.config, tokenizer, family)
        for parameter in language_model.parameters():  # buffers of positions stay in float32
            parameter.data = parameter.data.to(dtype)
    return family.decoder(
        language_model,
        tokenizer,
        query_width,
        options.max_text_length,
        is_fixed,
        None if options.lora is None else LoraConfig(**OmegaConf.to_container(options.lora)),
        options.gradient_checkpointing,
    )


def language_model_config(name: str) -> PreTrainedConfig:
    """The configuration of a language model, by its name; of a BLIP-2 its text part.

    Raises:
        FileNotFoundError: there is no such language model on this machine.
        ImportError, ValueError: of a GGUF file, see :func:`find_gguf` and :func:`gguf_config`.
    """
    if is_gguf(name):
        return gguf_config(find_gguf(name, f"{KEY}.language_model"))
    try:
        return _config_in(_folder(name))
    except OSError as error:
        raise _not_found(name, error) from error


def plain_fields(config: PreTrainedConfig) -> dict[str, Any]:
    """A language model's configuration as ``model.caption_decoder.config`` takes it."""
    derived = _DERIVED_FIELDS | (_DERIVED_FIELDS_OF_T5 if config.is_encoder_decoder else set())
    # Old files hold fields that transformers no longer knows.
    known = type(config)().to_dict().keys() - derived
    return {name: value for name, value in config.to_diff_dict().items() if name in known}


def _tokenizer(options: DictConfig, family: Family) -> PreTrainedTokenizerBase:
    name = options.tokenizer or options.language_model
    if name is None:
        raise ConfigError(f"{KEY}.tokenizer is not set; a model built from config needs one")
    tokenizer = load_tokenizer(name, f"{KEY}.tokenizer")
    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    if family.starts_with_end:
        tokenizer.bos_token = tokenizer.eos_token
    return tokenizer


def _load(
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    dtype: torch.dtype,
    family: Family,
    sources: Sequence[Source],
) -> PreTrainedModel:
    """A language model of transformers; only its configuration where ``sources`` hold it whole."""
    file = find_gguf(name, f"{KEY}.language_model") if is_gguf(name) else None
    try:
        place = file or _folder(name)
        with without_memory(dtype=dtype):
            language_model = family.configured(gguf_config(file) if file else _config_in(place))
        is_later = any(source.fills(LANGUAGE_MODEL) for source in sources)
        if is_later:
            source = None
        else:
            source = open_gguf(file, language_model) if file else open_source(place)
    except OSError as error:
        raise _not_found(name, error) from error
    except ValueError as error:
        kind = family.decoder.__name__
        raise ConfigError(
            f"{KEY}.language_model: '{name}' is no model for {kind}: {error}"
        ) from error
    if source is not None:
        source.load(language_model, prefix=LANGUAGE_MODEL)
        if len(tokenizer) > language_model.get_input_embeddings().num_embeddings:
            language_model.resize_token_embeddings(len(tokenizer))
    return language_model


def _build(config: DictConfig, tokenizer: PreTrainedTokenizerBase, family: Family) -> nn.Module:
    fields = OmegaConf.to_container(config)
    for name, value in fields.items():
        if name.endswith(_SIZES) and (type(value) is not int or value < 1):
            raise ConfigError(f"{KEY}.config.{name}: {value}; valid is a whole number from 1 on")
    fields["vocab_size"] = max(fields.get("vocab_size", 0), len(tokenizer))
    with building(f"{KEY}.config"):
        try:
            return family.build(fields, tokenizer.pad_token_id, tokenizer.eos_token_id)
        except (ValueError, StrictDataclassError) as error:  # may list all that transformers knows
            raise ValueError(str(error).partition("\n")[0][:300]) from error


def _folder(name: str) -> Path:
    """The folder of a language model: itself, or where it lies in the Hugging Face cache."""
    folder = Path(local_path(name))
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(name, local_files_only=True))
        except HFValidationError as error:
            raise FileNotFoundError(str(error)) from error
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"config.json is missing in {folder}")
    return folder


def _config_in(folder: Path) -> PreTrainedConfig:
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    return getattr(config, "text_config", config)  # BLIP-2 of transformers holds a T5


def _not_found(name: str, error: OSError) -> FileNotFoundError:
    return FileNotFoundError(
        f"{KEY}.language_model: no language model at '{name}' (neither a directory nor in the "
        f"Hugging Face cache){fetch_hint(name)}: {error}"
    )
