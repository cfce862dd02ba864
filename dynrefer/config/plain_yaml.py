"""YAML whose scalars keep their characters until the schema says what they are.

YAML takes 2024_06_01 for a number, ``no`` for False and ``a #2`` for "a" with a comment. A key
whose type is text gets the characters as they were written; others get what YAML makes of them.
"""

import re
import types
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml

_SCALARS = (str, int, float, bool)
_TIMESTAMP = "tag:yaml.org,2002:timestamp"


class Plain(str):
    """A scalar that is no text for YAML, as it was written; ``value`` is what YAML makes of it."""

    value: Any


class Option(str):
    """A value of the command line, as it was typed; ``key`` is what it is for."""

    key: str

    def parsed(self) -> Any:
        """What YAML makes of it; raises ValueError where it is none."""
        try:
            return parse(self)
        except yaml.YAMLError as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{self.key}={self}: cannot be read: {reason}") from error


class _Loader(yaml.SafeLoader):
    """Keys are unique, 1e-3 is a number, and dates are texts."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's way
        first: [resolver for resolver in resolvers if resolver[0] != _TIMESTAMP]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        value = super().construct_object(node, deep)
        if not isinstance(node, yaml.ScalarNode) or isinstance(value, str):
            return value
        scalar = Plain(node.value)
        scalar.value = value
        return scalar

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                where = (f"duplicate key {key}", node.start_mark)
                raise yaml.constructor.ConstructorError(None, None, *where)
        return super().construct_mapping(node, deep)


_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))


def parse(text: str) -> Any:
    """Dictionaries, lists, texts and :class:`Plain` scalars; raises yaml.YAMLError."""
    return yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader


def plain(value: Any) -> Any:
    """A scalar as YAML understands it."""
    if isinstance(value, Option):
        return plain(value.parsed())
    return value.value if isinstance(value, Plain) else value


def by_schema(value: Any, hint: Any, key: str = "") -> Any:
    """The value with its scalars as texts where the type is known, else as YAML understands them.

    ``value`` is what ``parse`` gives, or an :class:`Option`; ``hint`` its type: a scalar, a
    dataclass, ``list[...]``, ``dict[...]``, unions of them, Any. Raises ValueError, which begins
    with ``key``, for an option that is no YAML, or a number that stands for true or false.
    """
    hints = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if isinstance(value, dict):
        dotted = f"{key}." if key else ""
        return {
            str(name): by_schema(item, _hint_of(hints, name), f"{dotted}{name}")
            for name, item in value.items()
        }
    if isinstance(value, list):
        of_items = next((get_args(one)[0] for one in hints if get_origin(one) is list), Any)
        return [by_schema(item, of_items, key) for item in value]
    if isinstance(value, Option):
        text = _of_option(value, hints)
        return by_schema(value.parsed(), hint, key) if text is value else text
    if bool in hints and str(value).isdecimal() and str(value) not in ("0", "1"):
        raise ValueError(f"{key}: {value}; valid is true or false")
    if isinstance(value, Plain):
        is_known = value.value is not None and any(one in _SCALARS for one in hints)
        return str(value) if is_known else value.value
    return value


def _of_option(value: Option, hints: Iterable[Any]) -> Any:
    """The text of an option, or its texts; the option itself where YAML is to be read."""
    if list[str] in hints and value.startswith("["):
        inside = value[1:].removesuffix("]").strip()
        if value.endswith("]") and not set(inside) & set("[]{}'\""):
            return [item.strip() for item in inside.split(",")] if inside else []
        return value
    if str in hints:
        return None if value in ("", "null") else str(value)
    return value


def valid_at(key: str, hint: Any) -> str:
    """What is valid for a dotted key below a type, in words; "" where the schema leaves it open."""
    hints = [hint]
    for name in key.split(".") if key else ():
        hint = _hint_of(hints, name)
        hints = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else [hint]
    words = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
    words |= {list: "a list, [a, b]", dict: "a mapping, {a: b}", types.NoneType: "null"}
    known = [get_origin(one) or one for one in hints]
    named = [words.get(dict if is_dataclass(one) else one, "") for one in known]
    return " or ".join(filter(None, named))


def _hint_of(hints: Iterable[Any], key: str) -> Any:
    """The type of a key's value."""
    for hint in hints:
        if is_dataclass(hint):
            known = {field.name: field.metadata.get("type") for field in fields(hint)}
            return known.get(key) or get_type_hints(hint).get(key, Any)
        if get_origin(hint) is dict:
            return get_args(hint)[1]
    return Any
