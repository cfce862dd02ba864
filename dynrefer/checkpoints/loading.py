"""Loading checkpoints of any format into a model, all or nothing, one tensor in memory at a time.

Names and shapes are compared before the first tensor is read. A parameter that takes no memory yet
(:func:`without_memory`) gets the tensor that was read, another one is overwritten in place.
"""

import logging
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from dynrefer.assets import fetch_hint, local_path
from dynrefer.checkpoints.files import Checkpoint, open_checkpoint
from dynrefer.checkpoints.formats import FORMATS, Format, detect_format
from dynrefer.checkpoints.places import Place, places_of
from dynrefer.checkpoints.translation import Match, fits, match_names, plain

logger = logging.getLogger(__name__)

_LIGHTNING, _LANGUAGE_MODEL = "model.", "caption_decoder.language_model."


@dataclass
class LoadReport:
    """What became of the names of a file and of the model.

    ``loaded`` and ``missing`` are own names; missing are those that the file should hold.
    ``unexpected`` are names of the file that the model has no place for, ``dropped`` those left out
    on purpose with the reason. ``untrained`` are parts that the file says have learned nothing.
    """

    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)
    untrained: Collection[str] = ()

    @property
    def learned(self) -> set[str]:
        """The parts of the model that got something learned."""
        return {name.split(".")[0] for name in self.loaded} - set(self.untrained)


@dataclass(frozen=True)
class Source:
    """A checkpoint and its format."""

    tensors: Checkpoint
    format: Format

    def holds(self, prefix: str) -> bool:
        """Whether it has own names with that prefix, adapters apart."""
        matches = match_names(self.tensors, self.format).matches
        names = (name for match in matches for name in match.own)
        return any(name.startswith(prefix) and ".lora_" not in name for name in names)

    def fills(self, prefix: str) -> bool:
        """Whether a file of its format holds all own names with that prefix."""
        return any(cover.startswith(prefix) for cover in self.format.covers or ())

    def load(self, module: nn.Module, prefix: str = "", strict: bool = True) -> LoadReport:
        """Loads it into a model or, with its prefix, into a part; see :func:`load_state`."""
        path = str(self.tensors.path)
        report = load_state(
            module, self.tensors, self.format, prefix=prefix, strict=strict, source=path
        )
        report.untrained = self.tensors.untrained
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
    return _of_known_format(tensors, str(path))


def _of_known_format(tensors: Checkpoint, path: str) -> Source:
    """A checkpoint with its format, without the "model." of Lightning's modules before the names.

    Names of language models begin so too: the prefix goes where the names without it are those of
    a more special format.
    """
    once = tensors.without_prefix(_LIGHTNING)
    order, found = list(FORMATS.values()), []
    for candidate in (tensors, once, once.without_prefix(_LIGHTNING)):
        with suppress(ValueError):
            found.append(Source(candidate, detect_format(candidate)))
    if not found:
        detect_format(tensors, path)
    return min(found, key=lambda source: order.index(source.format))  # the first of equal ones


def load_state(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    table: Format,
    *,
    prefix: str = "",
    strict: bool = True,
    source: str = "state dict",
) -> LoadReport:
    """Loads a checkpoint, each tensor in the precision and on the device of the model's.

    Args:
        module: a ``DynRefer``, or a part of it.
        tensors: by the format's names.
        table: the format.
        prefix: the part's name in the model with a dot, "vision."; the file's other tensors are
            left alone.
        strict: whether names left over on either side are an error; else a warning.
        source: the file, for messages.

    Raises:
        ValueError: names are left over, or shapes differ; nothing is loaded then.
    """
    steps, report = plan_load(module, tensors, table, prefix=prefix, strict=strict, source=source)
    filled: set[int] = set()
    for match, targets in steps:
        if filled.issuperset(map(id, targets)):
            continue  # a second name of a shared tensor
        values = match.to_own([tensors[name] for name in match.published])
        for place, value in zip(targets, values, strict=True):
            if value.shape != place.tensor.shape:
                logger.warning(
                    "%s: position embeddings are interpolated to %d x %d patches",
                    *(source, *place.grid),
                )
            try:
                place.fill(value)
            except FloatingPointError as error:
                raise ValueError(f"{source} is broken: {error}") from error
            filled.add(id(place))
    logger.info("%s: %s, %d tensors loaded", source, table.title, len(report.loaded))
    for reason, count in Counter(report.dropped.values()).items():
        logger.info("%s: %d tensors left out: %s", source, count, reason)
    return report


def plan_load(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    table: Format,
    *,
    prefix: str = "",
    strict: bool = True,
    source: str = "state dict",
) -> tuple[list[tuple[Match, list[Place]]], LoadReport]:
    """What :func:`load_state` would do, in its order; it reads no tensor, and raises the same.

    Returns:
        The names that match, each with the places of the model that they are for.
    """
    places = places_of(module, prefix)
    matches, report = _plan(module, tensors, table, places, prefix)
    _check_shapes(matches, tensors, places, source)
    reasons = {reason for _, reason in _left_out(module, prefix)}
    if not report.loaded and reasons.isdisjoint(report.dropped.values()):
        raise ValueError(f"{source} ({table.title}) holds nothing of what is loaded from it")
    _check_names(report, table, strict, source)
    return [(match, [places[plain(name)] for name in match.own]) for match in matches], report


def load_weights(module: nn.Module, path: str | Path, prefix: str = "") -> LoadReport:
    """Loads a checkpoint file or folder of any format; see :func:`load_state`.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: it is broken, or of another architecture; nothing is loaded then.
    """
    return open_source(path).load(module, prefix)


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


def _plan(
    module: nn.Module,
    names: Iterable[str],
    table: Format,
    places: Mapping[str, Place],
    prefix: str,
) -> tuple[list[Match], LoadReport]:
    """What can be loaded, and what becomes of every name."""
    translation = match_names(names, table)
    report = LoadReport(unexpected=translation.unknown, dropped=translation.dropped)
    left_out = _left_out(module, prefix)
    matches = []
    for match in translation.matches:
        reason = next((why for key, why in left_out if re.fullmatch(key, match.own[0])), None)
        if not match.own[0].startswith(prefix):
            reason = f"not of the part '{prefix.removesuffix('.')}'"
        if reason is not None:
            report.dropped |= dict.fromkeys(match.published, reason)
        elif all(plain(name) in places for name in match.own):
            matches.append(match)
            report.loaded += match.own
        else:
            report.unexpected += match.published
    report.missing = _missing(places, report.loaded, table, getattr(module, "pretrained_names", ()))
    return matches, report


def _left_out(module: nn.Module, prefix: str) -> list[tuple[str, str]]:
    """Own names (regular expressions) of what parts were built without, and why.

    A part tells by ``left_out``, which maps regular expressions over its own names to reasons.
    """
    return [
        (re.escape(f"{prefix}{name}." if name else prefix) + pattern, reason)
        for name, part in module.named_modules()
        for pattern, reason in getattr(part, "left_out", {}).items()
    ]


def _missing(
    places: Mapping[str, Place],
    loaded: Iterable[str],
    table: Format,
    loaded_before: Collection[str],
) -> list[str]:
    """Names that the file should hold: what its format covers, and the rest of what it began."""
    found = {id(places[plain(name)]) for name in loaded}
    begun, parts = {_section(name) for name in loaded}, {_part(name) for name in loaded}
    missing = {}
    for name, place in places.items():
        if table.covers is None:
            # A folder of our own leaves weights that were frozen to the files that they are from:
            # of a part that it holds nothing of they stay, and so do those that are loaded already.
            # Adapters may be put on a model that was saved without any.
            trains = place.tensor.requires_grad and ".lora_" not in name
            is_covered = trains and _part(name) in parts and name not in loaded_before
        else:
            kind = [cover for cover in table.covers if (".lora_" in cover) == (".lora_" in name)]
            is_covered = fits(name, kind)
        if id(place) not in found and (is_covered or _section(name) in begun):
            missing[id(place)] = place.name
    return list(missing.values())


def _part(name: str) -> str:
    """The part of the model that a name belongs to; a language model is one of its own."""
    is_inside = plain(name).startswith(_LANGUAGE_MODEL)
    return _LANGUAGE_MODEL if is_inside else name.split(".")[0]


def _section(name: str) -> tuple[str, bool]:
    """The submodule of a part that a name belongs to, and whether it is an adapter's."""
    return ".".join(plain(name).split(".")[:2]), ".lora_" in name


def _check_shapes(
    matches: Iterable[Match],
    tensors: Mapping[str, Tensor],
    places: Mapping[str, Place],
    source: str,
) -> None:
    wrong = []
    for match in matches:
        held = [_described(tensors, name) for name in match.published]
        targets = [places[plain(name)] for name in match.own]
        try:
            values = match.to_own(held)
            is_right = all(place.takes(v) for place, v in zip(targets, values, strict=True))
        except (RuntimeError, ValueError):  # parts that cannot be joined or split
            is_right = False
        if not is_right:
            sides = (
                ", ".join(
                    f"{tuple(t.shape)}{'' if t.is_floating_point() else ' of no floats'}"
                    for t in side
                )
                for side in (held, [place.tensor for place in targets])
            )
            wrong.append("  {}: file {}, model {}".format(", ".join(match.own), *sides))
    if wrong:
        raise ValueError(
            f"{source} belongs to another architecture; {len(wrong)} tensors differ in shape or "
            "kind:\n" + _head(wrong)
        )


def _described(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    return tensors.described(name) if isinstance(tensors, Checkpoint) else tensors[name].to("meta")


def _check_names(report: LoadReport, table: Format, strict: bool, source: str) -> None:
    if not report.missing and not report.unexpected:
        return
    message = (
        f"{source} belongs to another architecture; it lacks {len(report.missing)} tensors that "
        f"{table.title} should hold and has {len(report.unexpected)} that the model has no place "
        "for:\n"
    )
    message += _head(
        [f"  model: {name}" for name in sorted(report.missing)],
        [f"  file: {name}" for name in sorted(report.unexpected)],
    )
    if any(".lora_" in name for name in report.unexpected):
        message += "\nThe file holds adapters; model.caption_decoder.lora makes a place for them."
    if strict:
        raise ValueError(f"{message}\n(model.strict: false makes this a warning)")
    logger.warning("%s", message)


def _head(*groups: Sequence[str], most: int = 8) -> str:
    """The first lines of each group, and how many more there are."""
    lines = []
    for group in groups:
        lines += group[:most]
        if len(group) > most:
            lines.append(f"  ... and {len(group) - most} more")
    return "\n".join(lines)
