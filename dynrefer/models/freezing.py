"""Freezing by part: no gradients, and evaluation mode even while the rest of the model trains.

A part is frozen when none of its parameters requires a gradient; there is no other flag. Autograd
then records no graph for it, unless a gradient has to pass through it to a part before.
"""

from collections.abc import Iterable

import torch
from omegaconf import DictConfig
from torch import nn

from dynrefer.config import ConfigError
from dynrefer.registry import nearest

# Part names of `model.freeze` and where the parts lie in the model.
PARTS = {
    "vision": "vision",
    "fusion": "fusion",
    "qformer": "qformer",
    "tag_decoder": "tag_decoder",
    "region_text_decoder": "region_text_decoder",
    "caption_decoder": "caption_decoder",
    "language_model": "caption_decoder.language_model",
    "text_encoder": "text_encoder",
}


def is_frozen(module: nn.Module) -> bool:
    """Whether training changes none of the module's parameters."""
    return not any(parameter.requires_grad for parameter in module.parameters())


class Part(nn.Module):
    """A part of the model; it stays in evaluation mode while it is frozen."""

    @property
    def frozen(self) -> bool:
        """Whether training changes none of the part's parameters."""
        return is_frozen(self)

    def train(self, mode: bool = True) -> "Part":
        """Training or evaluation mode; always evaluation while frozen."""
        return super().train(mode and not self.frozen)

    def graph(self) -> torch.set_grad_enabled:
        """Context without a graph while frozen, for a part whose input needs no gradient."""
        return torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen)


def frozen_parts(config: DictConfig) -> set[str]:
    """Names of the frozen parts: ``freeze`` and the switches of single parts (model section).

    With LoRA, ``caption_decoder.freeze`` freezes the language model's own weights alone, so it
    does not count; "language_model" in ``freeze`` freezes the adapters too.

    Raises:
        ConfigError: ``freeze`` names an unknown part.
    """
    for name in config.freeze:
        if name not in PARTS:
            raise ConfigError(f"model.freeze: '{name}' is no part; {nearest(name, list(PARTS))}")
    names = set(config.freeze)
    if config.vision.freeze:
        names.add("vision")
    if "caption_decoder" in names or (
        config.caption_decoder.freeze and config.caption_decoder.lora is None
    ):
        names.add("language_model")
    return names


def freeze_parts(model: nn.Module, names: Iterable[str]) -> None:
    """Freezes parts of a whole model by name; see :data:`PARTS`."""
    for name in names:
        model.get_submodule(PARTS[name]).requires_grad_(False)
    model.train(model.training)
