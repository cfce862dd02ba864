"""Precision of the parts, and values that are not finite.

Frozen towers and language models are held, and run, in their own precision; the tag and the
region-text decoder and all losses are computed in float32, also inside a run's mixed precision. A
value that is not finite is named where it arises, before it can become text or a training step.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

from dynrefer.config import ConfigError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

Result = TypeVar("Result")


def precision(name: str, key: str) -> torch.dtype:
    """The dtype of "fp32", "bf16" or "fp16"; without a GPU fp16 becomes fp32.

    Raises:
        ConfigError: another name; ``key`` says where it stands.
    """
    if name not in PRECISIONS:
        raise ConfigError(f"{key}: '{name}'; valid: {', '.join(PRECISIONS)}")
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
