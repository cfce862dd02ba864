"""One table of everything that a configuration can name."""

import difflib
from collections.abc import Callable
from typing import Any, TypeVar

Registered = TypeVar("Registered")

KINDS = ("model", "dataset", "processor", "task", "runner", "lr_schedule", "view_selector")
KINDS += ("text_encoder", "tag_parser")


class UnknownNameError(KeyError):
    """A name that the registry does not hold; the message suggests the nearest one it holds."""

    def __str__(self) -> str:
        return str(self.args[0])  # a KeyError would show the message in quotes


def nearest(name: str, valid: list[str]) -> str:
    """The sentence that follows an unknown name: the nearest valid one and the whole list."""
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}valid: {', '.join(sorted(valid)) or '(none)'}"


class Registry:
    """Maps (kind, name) to a class or function.

    A part registers itself where it is defined (``@registry.register("task", "recognition")``);
    a configuration finds it by name.
    """

    def __init__(self, kinds: tuple[str, ...] = KINDS) -> None:
        self._entries: dict[str, dict[str, Any]] = {kind: {} for kind in kinds}

    def register(self, kind: str, name: str) -> Callable[[Registered], Registered]:
        """Decorator that stores a class or function; raises KeyError for a name already taken."""
        entries = self._kind(kind)

        def store(part: Registered) -> Registered:
            if entries.get(name, part) is not part:
                raise KeyError(f"{kind} '{name}' is registered already, by {entries[name]}")
            entries[name] = part
            return part

        return store

    def get(self, kind: str, name: str) -> Any:
        """The registered part; UnknownNameError, which suggests the nearest name, for none."""
        entries = self._kind(kind)
        if name not in entries:
            hint = nearest(name, list(entries))
            raise UnknownNameError(f"no {kind} is registered as '{name}'; {hint}")
        return entries[name]

    def names(self, kind: str) -> list[str]:
        """Sorted names of one kind."""
        return sorted(self._kind(kind))

    def _kind(self, kind: str) -> dict[str, Any]:
        if kind not in self._entries:
            raise UnknownNameError(f"unknown kind '{kind}'; {nearest(kind, list(self._entries))}")
        return self._entries[kind]


registry = Registry()
