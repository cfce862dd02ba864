"""LoRA for language models through peft (arXiv 2106.09685): adapters beside frozen weights.

The adapters are float32 whatever the precision of the weights. A folder of adapters is peft's
(``adapter_config.json``, ``adapter_model.safetensors``), so that peft alone can read it too; here
``model.pretrained`` or ``run.load_ckpt_path`` takes it.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import peft
import torch
from peft.tuners.lora import LoraLayer
from peft.utils import get_peft_model_state_dict
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from dynrefer.checkpoints.folders import new_folder, write_tensors
from dynrefer.config import ConfigError
from dynrefer.config.schema import LoraConfig
from dynrefer.registry import nearest

KEY = "model.caption_decoder.lora"

# Query and value projections, as different architectures name them; the first pair that fits.
_QUERY_AND_VALUE = (
    ("q_proj", "v_proj"),
    ("q", "v"),
    ("query_key_value",),
    ("qkv_proj",),
    ("c_attn",),
)


def add_adapters(language_model: PreTrainedModel, settings: LoraConfig) -> peft.PeftModel:
    """Freezes a language model and puts trainable adapters beside its layers.

    Args:
        settings: ``target_modules`` is a list of layer names, a regular expression over whole
            names, or None for the query and value projections.

    Raises:
        ConfigError: a name or an expression fits no layer.
    """
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=_targets(language_model, settings.target_modules),
    )
    adapted = peft.get_peft_model(language_model, config)
    _start(adapted)
    return adapted


def save_adapters(language_model: peft.PeftModel, directory: Path) -> None:
    """Writes the adapters alone, as a folder that peft reads.

    Raises:
        FileExistsError: the folder holds something.
        OSError: it cannot be written.
    """
    state = get_peft_model_state_dict(language_model, save_embedding_layers=False)
    with new_folder(directory) as folder:
        write_tensors(folder, "adapter_model", state.items())
        language_model.peft_config["default"].save_pretrained(str(folder))


def merge_adapters(language_model: peft.PeftModel) -> PreTrainedModel:
    """Adds the adapters to the weights; returns the plain language model.

    Raises:
        ValueError: a merged weight is not finite.
    """
    return language_model.merge_and_unload(safe_merge=True)


def _start(language_model: nn.Module) -> None:
    """Draws the adapters of layers whose weights take no memory yet: peft puts them there, too."""
    for layer in language_model.modules():
        if isinstance(layer, LoraLayer) and layer.get_base_layer().weight.is_meta:
            for name in layer.adapter_layer_names:
                getattr(layer, name).to_empty(device=torch.get_default_device())
            layer.reset_lora_parameters("default", True)


def _targets(language_model: nn.Module, wanted: str | Sequence[str] | None) -> list[str]:
    """Names of the layers that get adapters, or ends of names."""
    layers = [
        name
        for name, module in language_model.named_modules()
        if isinstance(module, nn.Linear | nn.Embedding | Conv1D)
    ]
    valid = sorted({name.rpartition(".")[2] for name in layers})
    if wanted is not None and not isinstance(wanted, str | list | tuple):
        raise ConfigError(f"{KEY}.target_modules: {wanted}; valid is a list of names, or a text")
    if isinstance(wanted, str):
        try:
            matched = [name for name in layers if re.fullmatch(wanted, name)]
        except re.error as error:
            raise ConfigError(
                f"{KEY}.target_modules: '{wanted}' is no regular expression: {error}"
            ) from error
        if not matched:
            raise ConfigError(
                f"{KEY}.target_modules: '{wanted}' matches no layer; their names end in {valid}"
            )
        return matched
    if wanted is None:
        found = next((names for names in _QUERY_AND_VALUE if set(names) <= set(valid)), None)
        if found is None:
            kind = type(language_model).__name__
            raise ConfigError(
                f"{KEY}.target_modules has no default for {kind}; valid: {', '.join(valid)}"
            )
        return list(found)
    for name in wanted:
        if not any(layer == name or layer.endswith(f".{name}") for layer in layers):
            kind = type(language_model).__name__
            raise ConfigError(
                f"{KEY}.target_modules: '{name}' is no layer of {kind}; {nearest(name, valid)}"
            )
    return list(wanted)
