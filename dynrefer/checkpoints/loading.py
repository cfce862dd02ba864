"""Loading checkpoints of any format into a model, all or nothing."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dynrefer.assets import fetch_hint, local_path
from dynrefer.checkpoints.files import Checkpoint, open_checkpoint
from dynrefer.checkpoints.formats import FORMATS, Format, detect_format
from dynrefer.checkpoints.plans import LoadPlan, LoadReport, plan_load
from dynrefer.checkpoints.translation import match_names, plain

# What Lightning's modules put before names.
_LIGHTNING = "model."


@dataclass(frozen=True)
class Source:
    """A checkpoint: tensors by name, their format, and where they are from, for messages."""

    tensors: Mapping[str, Tensor]
    format: Format
    name: str

    @property
    def own_names(self) -> set[str]:
        """Plain own names of what it has."""
        matches = match_names(self.tensors, self.format).matches
        return {plain(name) for match in matches for name in match.own}

    def holds(self, prefix: str) -> bool:
        """Whether it has own names with that prefix, adapters apart."""
        return any(n.startswith(prefix) and ".lora_" not in n for n in self.own_names)

    def fills(self, prefix: str) -> bool:
        """Whether a file of its format holds all own names with that prefix."""
        return any(cover.startswith(prefix) for cover in self.format.covers or ())

    def plan(self, module: nn.Module, **options: Any) -> LoadPlan:
        """What :meth:`load` would do; it reads no tensor, and raises the same."""
        return plan_load(module, self.tensors, self.format, self.name, **options)

    def load(self, module: nn.Module, **options: Any) -> LoadReport:
        """Loads it into a model or a part; for ``options`` and errors see :func:`plan_load`.

        After an error of names and shapes nothing is loaded.
        """
        report = self.plan(module, **options).carry_out()
        report.untrained = getattr(self.tensors, "untrained", ())
        return report


def open_source(path: str | Path, key: str | None = None) -> Source:
    """Opens a checkpoint of any format.

    Args:
        path: of a file or folder; with a key also the URL or the name on the Hugging Face hub of
            something that was fetched.
        key: the configuration key that gave it, for messages.

    Raises:
        FileNotFoundError, ValueError: see :func:`open_checkpoint`; or the format is not known.
    """
    try:
        tensors = open_checkpoint(Path(path if key is None else local_path(str(path))))
    except FileNotFoundError as error:
        if key is None:
            raise
        raise FileNotFoundError(f"{key}: {error}{fetch_hint(str(path))}") from error
    return _of_known_format(tensors, str(tensors.path))


def _of_known_format(tensors: Checkpoint, path: str) -> Source:
    """A checkpoint with its format, without the "model." of Lightning's modules before the names.

    Names of language models begin so too: the prefix goes where the names without it are those of
    a more special format.
    """
    once = tensors.without_prefix(_LIGHTNING)
    order, found = list(FORMATS.values()), []
    for candidate in (tensors, once, once.without_prefix(_LIGHTNING)):
        with suppress(ValueError):
            found.append(Source(candidate, detect_format(candidate), path))
    if not found:
        detect_format(tensors, path)
    return min(found, key=lambda source: order.index(source.format))  # the first of equal ones


def load_in_turn(
    module: nn.Module, sources: Sequence[Source], strict: bool = True
) -> list[LoadReport]:
    """Loads checkpoints one after the other; what one of our own folders lacks another may hold."""
    names = set().union(*(source.own_names for source in sources))
    return [source.load(module, strict=strict, elsewhere=names) for source in sources]


def load_weights(module: nn.Module, path: str | Path, prefix: str = "") -> LoadReport:
    """Loads a checkpoint file or folder of any format; see :func:`plan_load`.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: it is broken, or of another architecture; nothing is loaded then.
    """
    return open_source(path).load(module, prefix=prefix)


def split_trainable(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors that training changes, and the others, by own name; shared tensors come once."""
    names_of_trainable = {
        name for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    parts: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        parts[name not in names_of_trainable][name] = tensor.detach().contiguous()
    return parts


def without_held_elsewhere(model: nn.Module, frozen: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The frozen weights, by own name, that no file of the model's configuration holds."""
    return {name: t for name, t in frozen.items() if plain(name) not in model.held_elsewhere}
