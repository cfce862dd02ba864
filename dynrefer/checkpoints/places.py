"""Where a checkpoint's tensors go: the tensors of a model, some of which take no memory yet."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from math import isqrt, prod

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from dynrefer.checkpoints.translation import plain

# Own names, of a whole model, and what those of parts with files of their own begin with.
VISION, TEXT_ENCODER = "vision.", "text_encoder."
LANGUAGE_MODEL = "caption_decoder.language_model."
TOWER = f"{VISION}tower."
POSITIONS = f"{TOWER}pos_embed"


@contextmanager
def without_memory(enabled: bool = True, dtype: torch.dtype | None = None) -> Iterator[None]:
    """Parameters of modules that are built inside take no memory; buffers are as ever.

    Args:
        enabled: False changes nothing.
        dtype: of the parameters; None: as they are made.
    """
    if not enabled:
        yield
        return

    def register_on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        _register(module, name, parameter)
        if parameter is not None and not parameter.is_meta:  # a shared one stays shared
            empty = torch.empty_like(parameter, device="meta", dtype=dtype)
            module._parameters[name] = nn.Parameter(empty, parameter.requires_grad)

    with _registering(register_on_meta):
        yield


def with_memory() -> AbstractContextManager[None]:
    """Inside :func:`without_memory`: parameters of these modules have their values after all."""
    return _registering(_register)


_register = nn.Module.register_parameter


@contextmanager
def _registering(register: Callable[..., None]) -> Iterator[None]:
    before = nn.Module.register_parameter
    nn.Module.register_parameter = register
    try:
        yield
    finally:
        nn.Module.register_parameter = before


def check_filled(module: nn.Module) -> None:
    """Raises ValueError where a parameter that was built without memory has got no weights."""
    empty = [name for name, parameter in module.named_parameters() if parameter.is_meta]
    if empty:
        raise ValueError(
            f"no file holds {len(empty)} of the model's tensors: {', '.join(empty[:3])}, ...; name "
            "one that does: model.pretrained, model.vision.checkpoint, "
            "model.text_encoder.options.checkpoint, model.caption_decoder.language_model"
        )


@dataclass
class Place:
    """A tensor of the model; shared tensors lie in several modules.

    Attributes:
        name: its name in the whole model.
        owners: modules, and the tensor's name in each.
    """

    name: str
    tensor: Tensor
    owners: list[tuple[nn.Module, str]]

    def takes(self, value: Tensor) -> bool:
        """Whether a tensor can be put here, interpolated where it has to be."""
        fits = value.shape == self.tensor.shape or self._grid_of(value.shape) is not None
        return fits and value.is_floating_point() == self.tensor.is_floating_point()

    def fill(self, value: Tensor) -> None:
        """Puts a tensor here, in the place's precision: over the old one, or itself.

        Raises:
            FloatingPointError: a number is not finite, in that precision.
        """
        if value.shape != self.tensor.shape:
            value = self._resized(value)
        if not self.tensor.is_meta:
            with torch.no_grad():
                self._check_finite(self.tensor.copy_(value))
            return
        value = value.to(self.tensor.dtype).contiguous()
        self._check_finite(value)
        if isinstance(self.tensor, nn.Parameter):
            value = nn.Parameter(value, self.tensor.requires_grad)
        for module, name in self.owners:
            setattr(module, name, value)

    def _check_finite(self, value: Tensor) -> None:
        is_number = value.is_floating_point() and value.numel() and not value.is_meta
        # The extremes of a tensor with a NaN are NaN; this takes no memory of the tensor's size.
        if is_number and not all(map(torch.isfinite, value.aminmax())):
            raise FloatingPointError(f"{self.name} holds numbers that are not finite")

    @property
    def grid(self) -> tuple[int, int]:
        """Patches of the tower that these position embeddings belong to, in height and width."""
        return tuple(self.owners[0][0].patch_embed.grid_size)

    def _grid_of(self, shape: torch.Size) -> tuple[int, int] | None:
        """The square grid of other position embeddings [1, L, C]; None where they do not fit."""
        own = self.tensor.shape
        if self.name != POSITIONS or len(shape) != 3 or (shape[0], shape[2]) != (own[0], own[2]):
            return None
        patches = shape[1] - self._prefix_tokens
        side = isqrt(max(patches, 0))
        return (side, side) if patches and side**2 == patches else None

    @property
    def _prefix_tokens(self) -> int:
        """Tokens that have a position embedding and are no patches."""
        return self.tensor.shape[1] - prod(self.grid)

    def _resized(self, value: Tensor) -> Tensor:
        """Position embeddings interpolated as LAVIS does: bicubic, not antialiased."""
        return resample_abs_pos_embed(
            value,
            list(self.grid),
            list(self._grid_of(value.shape)),
            num_prefix_tokens=self._prefix_tokens,
            antialias=False,
        )


def places_of(module: nn.Module, prefix: str) -> dict[str, Place]:
    """A module's tensors by their plain names in the whole model.

    Args:
        prefix: the module's name in the model with a dot, "vision."; "" for the model.
    """
    by_id: dict[int, Place] = {}
    places: dict[str, Place] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        place = by_id.setdefault(id(tensor), Place(prefix + name, tensor, []))
        owner, _, key = name.rpartition(".")
        place.owners.append((module.get_submodule(owner), key))
        places[plain(prefix + name)] = place
    return places
