"""What a checkpoint would fill of a model: its names and shapes compared, all or nothing.

Names and shapes are compared before the first tensor is read. A parameter that takes no memory yet
(:func:`without_memory`) gets the tensor that was read, another one is overwritten in place.
"""

import logging
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from dynrefer.checkpoints.files import Checkpoint
from dynrefer.checkpoints.formats import Format
from dynrefer.checkpoints.places import Place, places_of
from dynrefer.checkpoints.translation import Match, fits, match_names, plain

logger = logging.getLogger(__name__)


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
    def names(self) -> set[str]:
        """Plain names of what was loaded."""
        return set(map(plain, self.loaded))

    @property
    def learned(self) -> set[str]:
        """Those of parts that have learned something."""
        return {name for name in self.names if name.split(".")[0] not in self.untrained}


@dataclass(frozen=True)
class LoadPlan:
    """What is put where, by order.

    Attributes:
        steps: names that match, each with the places of the model that they are for.
        report: what becomes of all names.
        tensors: by the names of the file's format.
        title: of the format.
        source: the file, for messages.
    """

    steps: list[tuple[Match, list[Place]]]
    report: LoadReport
    tensors: Mapping[str, Tensor]
    title: str
    source: str

    def carry_out(self) -> LoadReport:
        """Fills the places, each in its own precision and on its device.

        Raises:
            ValueError: a tensor cannot be read, or holds numbers that are not finite.
        """
        filled: set[int] = set()
        for match, places in self.steps:
            if not filled.issuperset(map(id, places)):  # no second name of a shared tensor
                self._fill(match, places)
                filled.update(map(id, places))
        logger.info("%s: %s, %d tensors loaded", self.source, self.title, len(self.report.loaded))
        for reason, count in Counter(self.report.dropped.values()).items():
            logger.info("%s: %d tensors left out: %s", self.source, count, reason)
        return self.report

    def _fill(self, match: Match, places: list[Place]) -> None:
        values = match.to_own([self.tensors[name] for name in match.published])
        for place, value in zip(places, values, strict=True):
            if value.shape != place.tensor.shape:
                logger.warning(
                    "%s: position embeddings are interpolated to %d x %d patches",
                    *(self.source, *place.grid),
                )
            try:
                place.fill(value)
            except FloatingPointError as error:
                raise ValueError(f"{self.source} is broken: {error}") from error


def plan_load(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    table: Format,
    source: str,
    prefix: str = "",
    strict: bool = True,
    elsewhere: Collection[str] = (),
) -> LoadPlan:
    """Compares a checkpoint with a model, or with a part of it; reads no tensor.

    A model tells by ``held_elsewhere`` which of its tensors (plain own names) have their values
    from other files.

    Args:
        module: a ``DynRefer``, or a part of it.
        tensors: by the format's names.
        table: the format.
        source: the file, for messages.
        prefix: the part's name in the model with a dot, "vision."; the file's other tensors are
            left alone.
        strict: whether names left over on either side are an error; else a warning.
        elsewhere: plain own names that are in other files, too.

    Raises:
        ValueError: names are left over, or shapes differ.
    """
    places = places_of(module, prefix)
    matches, report = _matched(module, tensors, table, places, prefix)
    elsewhere = {*elsewhere, *getattr(module, "held_elsewhere", ())}
    report.missing = _missing(places, report.loaded, table, elsewhere)
    _check_shapes(matches, tensors, places, source)
    reasons = {reason for _, reason in _left_out(module, prefix)}
    if not report.loaded and reasons.isdisjoint(report.dropped.values()):
        raise ValueError(f"{source} ({table.title}) holds nothing of what is loaded from it")
    _check_names(report, table, strict, source)
    steps = [(match, [places[plain(name)] for name in match.own]) for match in matches]
    return LoadPlan(steps, report, tensors, table.title, source)


def _matched(
    module: nn.Module,
    names: Iterable[str],
    table: Format,
    places: Mapping[str, Place],
    prefix: str,
) -> tuple[list[Match], LoadReport]:
    """What can be loaded, and what becomes of every name of the file."""
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
    places: Mapping[str, Place], loaded: Iterable[str], table: Format, elsewhere: Collection[str]
) -> list[str]:
    """Names that the file should hold: what its format covers, and the rest of what it began."""
    found = {id(places[plain(name)]) for name in loaded}
    held = {id(places[name]) for name in elsewhere if name in places}
    begun = {_section(name) for name in loaded}
    missing = {}
    for name, place in places.items():
        is_adapter = ".lora_" in name
        if table.covers is None:
            # Our own folders leave frozen weights to the files that they are from. Adapters may be
            # put on a model that was saved without any.
            is_covered = not is_adapter and id(place) not in held
        else:
            is_covered = fits(name, [c for c in table.covers if (".lora_" in c) == is_adapter])
        if id(place) not in found and (is_covered or _section(name) in begun):
            missing[id(place)] = place.name
    return list(missing.values())


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
    begun = {_section(name) for name in report.loaded}
    if table.covers is None and not begun.issuperset(map(_section, report.missing)):
        message += (
            "\nIt leaves what stayed frozen to the files that training began from: name them by "
            "the same keys (model.pretrained, model.vision.checkpoint, ...)."
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
