"""What a key of the schema takes: declared beside the key, checked by ``dynrefer.config``."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Valid:
    """Finite numbers between limits (``above`` excludes its own), or names.

    ``whole`` is about numbers whose type is not int already.
    """

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    whole: bool = False
    names: tuple[str, ...] = ()

    def __contains__(self, value: Any) -> bool:
        if self.names:
            return value in self.names
        is_inside = math.isfinite(value) and self.least <= value <= self.most
        return is_inside and value > self.above and not (self.whole and value % 1)

    def __str__(self) -> str:
        if self.names:
            return ", ".join(self.names)
        kind = "a whole number" if self.whole else "a number"
        begin = f"above {self.above:.12g}"
        if not math.isfinite(self.above):
            begin = f"from {self.least:.12g}"
        end = " on" if self.above == -math.inf else ""
        return f"{kind} {begin}{end if self.most == math.inf else f' to {self.most:.12g}'}"


def number(default: Any, least: float = -math.inf, most: float = math.inf, **more: Any) -> Any:
    """A key for a number, or for a list of numbers, within limits."""
    return field(default=default, metadata={"valid": Valid(least, most, **more)})


def count(default: int | None, least: int = 1, most: float = math.inf) -> Any:
    """A key for a whole number."""
    return number(default, least, most, whole=True)


def choice(default: str | None, *others: str) -> Any:
    """A key for one of some names; or for none, where that is the default."""
    names = others if default is None else (default, *others)
    return field(default=default, metadata={"valid": Valid(names=names)})


def texts() -> Any:
    """A key for one text, a list of them, or none."""
    return field(default=None, metadata={"type": str | list[str] | None})


def listed(value: str | Iterable[str] | None) -> list[str]:
    """The value of a key of :func:`texts` as a list."""
    return [value] if isinstance(value, str) else list(value or ())


def part(kind: Callable[..., Any], *arguments: Any) -> Any:
    """A key for a section, a list or a mapping, made anew of the arguments each time."""
    return field(default_factory=lambda: kind(*arguments))
