"""What all parts of the model share: which of their weights train, and in which precision they run.

A part is frozen when none of its parameters requires a gradient; there is no other flag. It then
stays in evaluation mode while the rest trains, and autograd records no graph for it, unless a
gradient has to pass through it to a part before. Frozen towers and language models are held, and
run, in their own precision; the deformable step, the tag and the region-text decoder and all losses
are computed in float32, also inside a run's mixed precision. A value that is not finite is named
where it arises, before it can become text or a training step.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

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
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

Result = TypeVar("Result")


# What libraries raise where a model cannot be built with some arguments.
BUILD_ERRORS = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError),
    *(RuntimeError, TypeError, ValueError),
)


@contextmanager
def building(key: str) -> Iterator[None]:
    """Names the key whose values something could not be built of.

    Raises:
        ConfigError: with what was raised, of a library's assertion and the like the first line.
    """
    try:
        yield
    except (ConfigError, torch.OutOfMemoryError):
        raise
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from error
    except BUILD_ERRORS as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ConfigError(f"{key}: {reason[:300]}") from error


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
    names = set(config.freeze)
    for name in names - set(PARTS):
        raise ConfigError(f"model.freeze: '{name}' is no part; {nearest(name, list(PARTS))}")
    if config.vision.freeze:
        names.add("vision")
    own = config.caption_decoder
    if "caption_decoder" in names or (own.freeze and own.lora is None):
        names.add("language_model")
    return names


def freeze_parts(model: nn.Module, names: Iterable[str]) -> None:
    """Freezes parts of a whole model by name; see :data:`PARTS`."""
    for name in names:
        model.get_submodule(PARTS[name]).requires_grad_(False)
    model.train(model.training)


def precision(name: str) -> torch.dtype:
    """The dtype of "fp32", "bf16" or "fp16"; without a GPU fp16 becomes fp32."""
    if name == "fp16" and not torch.cuda.is_available():
        return torch.float32
    return PRECISIONS[name]


def without_autocast(device: torch.device) -> torch.autocast:
    """Context in which parts compute in the precision of their weights."""
    return torch.autocast(device.type, enabled=False)


def in_float32(method: Callable[..., Result]) -> Callable[..., Result]:
    """Makes a module's method, whose arguments are tensors, compute in float32."""

    @functools.wraps(method)
    def wrapped(self: Any, *tensors: Tensor) -> Result:
        with without_autocast(tensors[0].device):
            return method(self, *(x.float() if x.is_floating_point() else x for x in tensors))

    return wrapped


class NonFiniteError(FloatingPointError):
    """A quantity that is not finite.

    Args:
        quantity: what it is, in the plural: "tag logits".
        regions: ids of the regions, or their positions in the batch where ids are not known.
        advice: what to do.
    """

    def __init__(self, quantity: str, regions: Sequence[int | str], advice: str = "") -> None:
        self.quantity, self.regions, self.advice = quantity, list(regions), advice
        super().__init__(
            f"{quantity} of region(s) {self.regions} are not finite{advice and '; '}{advice}"
        )


def check_finite(quantity: str, values: Tensor, advice: str = "") -> None:
    """Raises NonFiniteError with the positions of values [N, ...] that hold NaN or infinity.

    A bool tensor says itself where values are finite.
    """
    finite = values if values.dtype == torch.bool else torch.isfinite(values)
    if not finite.all():
        bad = ~finite.reshape(len(finite), -1).all(dim=1)
        raise NonFiniteError(quantity, bad.nonzero().flatten().tolist(), advice)


@contextmanager
def naming_regions(ids: Sequence[int | str]) -> Iterator[None]:
    """Puts the regions' ids in place of their positions in the batch into a NonFiniteError."""
    try:
        yield
    except NonFiniteError as error:
        regions = [ids[position] for position in error.regions]
        raise NonFiniteError(error.quantity, regions, error.advice) from error
