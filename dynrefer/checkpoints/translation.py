"""Names and layouts of one format <-> ours, by the rules of its table."""

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dynrefer.checkpoints.formats import Format, Rule

Tensors = Sequence[Tensor]


@dataclass(frozen=True)
class Match:
    """A rule with the names that it fits: published ones, and ours for the same tensors."""

    rule: Rule
    published: tuple[str, ...]
    own: tuple[str, ...]

    def to_own(self, values: Tensors) -> Tensors:
        """Tensors of the published names -> tensors of ours."""
        return _LAYOUTS[self.rule.layout][0](values)

    def to_published(self, values: Tensors) -> Tensors:
        """Tensors of our names -> tensors of the published ones."""
        return _LAYOUTS[self.rule.layout][1](values)


@dataclass(frozen=True)
class Translation:
    """Names of a file: those that have own ones, the unknown, and the dropped with the reason."""

    matches: list[Match]
    unknown: list[str]
    dropped: dict[str, str]


def match_names(names: Iterable[str], table: Format) -> Translation:
    """Sorts the names of a file in a format."""
    names = list(dict.fromkeys(names))
    present = set(names)
    translation = Translation([], [], {})
    seen: set[str] = set()
    for name in names:
        if name in seen:
            continue
        reason = next((why for key, why in table.dropped.items() if re.fullmatch(key, name)), None)
        match = find(name, table)
        if reason is not None:
            translation.dropped[name] = reason
        elif match is None or not present.issuperset(match.published):
            translation.unknown.append(name)
        else:
            translation.matches.append(match)
            seen.update(match.published)
    return translation


def find(name: str, table: Format, is_own: bool = False) -> Match | None:
    """The first rule for a published name, or for one of ours; None where there is none."""
    for rule in table.rules:
        for template in rule.own if is_own else rule.published:
            if fitting := _pattern(template).fullmatch(name):
                parts = fitting.groups()
                published, own = (
                    tuple(_filled(side, parts) for side in sides)
                    for sides in (rule.published, rule.own)
                )
                return Match(rule, published, own)
    return None


def translate(name: str, table: Format, to_published: bool = False) -> str | None:
    """The name on the other side; None where there is none, or not exactly one."""
    match = find(name, table, is_own=to_published)
    names = () if match is None else match.published if to_published else match.own
    return names[0] if len(names) == 1 else None


def from_published(
    state: Mapping[str, Tensor], table: Format
) -> tuple[dict[str, Tensor], list[str], dict[str, str]]:
    """Published state dict -> own names; also the names no rule knows, and those dropped."""
    translation, own = match_names(state, table), {}
    for match in translation.matches:
        values = match.to_own([state[name] for name in match.published])
        own |= dict(zip(match.own, values, strict=True))
    return own, translation.unknown, translation.dropped


def to_published(state: Mapping[str, Tensor], table: Format) -> dict[str, Tensor]:
    """Own state dict -> published names; raises ValueError for names that have none."""
    matches = {name: find(name, table, is_own=True) for name in state}
    unknown = [name for name, m in matches.items() if m is None or not state.keys() >= {*m.own}]
    if unknown:
        raise ValueError(
            f"{len(unknown)} tensors have no place in {table.title}: {', '.join(unknown[:5])}"
        )
    published: dict[str, Tensor] = {}
    for match in matches.values():
        if match.published[0] not in published:
            values = match.to_published([state[own] for own in match.own])
            published |= dict(zip(match.published, values, strict=True))
    return published


def plain(name: str) -> str:
    """An own name without what peft adds where a language model has adapters."""
    return name.replace("base_model.model.", "").replace(".base_layer.", ".")


def fits(name: str, templates: Iterable[str]) -> bool:
    """Whether a name is one of those that templates stand for."""
    return any(_pattern(template).fullmatch(name) for template in templates)


@functools.cache
def _pattern(template: str) -> re.Pattern[str]:
    stars = re.escape(template).replace(r"\*\*", "(.+)")
    stars = re.sub(r"\\\*$", "(.+)", stars)
    return re.compile(stars.replace(r"\*", "([^.]+)"))


def _filled(template: str, parts: Iterable[str]) -> str:
    for part in parts:
        template = re.sub(r"\*+", lambda _, text=part: text, template, count=1)
    return template


def _split_bias(values: Tensors) -> Tensors:
    query, _, value = values[0].chunk(3)
    return [query.clone(), value.clone()]


def _joined_bias(values: Tensors) -> Tensors:
    query, value = values
    return [torch.cat([query, torch.zeros_like(query), value])]


# Layout of a rule -> how published tensors become ours, and ours published ones.
_LAYOUTS: dict[str, tuple[Callable[[Tensors], Tensors], Callable[[Tensors], Tensors]]] = {
    "": (lambda values: values, lambda values: values),
    "joined": (
        lambda values: [torch.cat(list(values))],
        lambda values: [part.contiguous() for part in values[0].chunk(3)],
    ),
    "query_key_value": (_split_bias, _joined_bias),
    "tokens": (
        lambda values: [values[0][(None,) * (3 - values[0].ndim)]],
        lambda values: [values[0].squeeze()],
    ),
}
