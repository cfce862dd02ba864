"""Configuration: YAML files, ``base:`` lists, dotted overrides, checked against the schema."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from dynrefer.config.plain_yaml import Option, by_schema, parse, plain, valid_at
from dynrefer.config.release import from_release
from dynrefer.config.schema import OF_NAME, Config
from dynrefer.files import shipped
from dynrefer.registry import nearest

# Of folders with a model (dynrefer.models.pretrained); their configuration carries it.
FORMAT_VERSION = 1

# A dotted key of --options; brackets quote a name with dots.
KEY = re.compile(r"[^.\[\]]+(\.[^.\[\]]+|\[[^\]]*\])*")


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names file, key, value and what is valid."""


def load_config(path: str | Path, options: Sequence[str] = ()) -> DictConfig:
    """Loads a YAML file over its bases and the schema's defaults, then applies overrides.

    Its ``base:`` is a list of files (relative to the working directory or to the file), merged in
    order, later ones and the file itself winning. What lies under configs/ in the repository is
    found from any directory, where no other is there. ``options`` are "run.max_epoch=3" strings, or
    the release's pairs "run.max_epoch", "3".

    Raises FileNotFoundError where the file or one of its bases is missing, and ConfigError for
    broken YAML, an unknown key (the nearest valid one is named), a wrong type or a value that is
    not valid.
    """
    config = OmegaConf.structured(Config)
    for source, content in (*_with_bases(Path(path), ()), ("--options", _overrides(options))):
        config = _merged(config, content, source)
        _check_values(config, source)
    try:
        OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path}: {error.full_key}: {_first_line(error)}") from error
    _check_values(config, str(path), resolve=True)
    _check_together(config, str(path))
    return config


def require(config: DictConfig, key: str) -> Any:
    """The value at a dotted key; raises ConfigError where it is not set."""
    try:
        value = OmegaConf.select(config, key, throw_on_missing=True)
    except MissingMandatoryValue:
        value = None
    if value is None:
        raise ConfigError(f"{key} is not set; give it in the YAML file or with --options {key}=...")
    return value


def to_plain(config: DictConfig) -> dict[str, Any]:
    """A configuration as plain dictionaries; keys that are not set are left as "???"."""
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return plain


def _with_bases(path: Path, above: tuple[Path, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The file's bases, theirs first, then the file, as (name, content).

    One with ``format_version`` is that of a folder with a model (``dynrefer.models.pretrained``).
    """
    named, path = path, path if path.exists() else shipped(path)
    if path.resolve() in above:
        raise ConfigError(f"{path}: `base` refers back to itself through {above[-1]}")
    if not path.is_file():
        raise FileNotFoundError(f"no configuration file at {named}")
    try:
        content = parse(path.read_bytes().decode("utf-8-sig"))
    except (yaml.YAMLError, ValueError, OSError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML: {error}") from error
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a mapping with model, datasets and run is expected")
    bases = content.pop("base", None) or []
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"{path}: base: a list of files is expected, found {bases}")
    if "format_version" in content:
        content = _of_folder(content, path)
    for base in bases:
        beside = path.parent / base
        found = beside if beside.is_file() and not Path(base).is_file() else Path(base)
        yield from _with_bases(found, (*above, path.resolve()))
    yield str(path), content


def _of_folder(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """The configuration in a folder with a model, its "./name" being files of the folder.

    Raises ConfigError for a version that cannot be read here, and FileNotFoundError where the
    folder lacks one of its ``weights``.
    """
    version = plain(content.pop("format_version"))
    if type(version) is not int or version < 1:
        raise ConfigError(f"{path}: format_version: {version}; valid is 1 to {FORMAT_VERSION}")
    if version > FORMAT_VERSION:
        newer = f"{version} was written by a newer DynRefer; this one reads"
        raise ConfigError(f"{path}: format_version: {newer} versions up to {FORMAT_VERSION}")
    for name in content.pop("weights", []):
        if not (path.parent / name).is_file():
            raise FileNotFoundError(f"{path.parent / name} is missing; {path} names it")
    # Only what describes the model may name files of the folder.
    return {**content, "model": _in_folder(content.get("model") or {}, path.parent)}


def _in_folder(value: Any, folder: Path) -> Any:
    """The value with every path that begins with "./" (or is ".") put into the folder."""
    if isinstance(value, dict):
        return {key: _in_folder(inner, folder) for key, inner in value.items()}
    if isinstance(value, list):
        return [_in_folder(inner, folder) for inner in value]
    is_inside = isinstance(value, str) and (value == "." or value.startswith("./"))
    return str(folder / value) if is_inside else value


def _overrides(options: Sequence[str]) -> dict[str, Any]:
    """Overrides as nested mappings whose leaves are :class:`Option`."""
    pairs = list(options)
    if pairs and "=" not in pairs[0]:
        if len(pairs) % 2:
            raise ConfigError(f"--options: '{pairs[-1]}' has no value; write key=value")
        pairs = [f"{key}={value}" for key, value in zip(pairs[::2], pairs[1::2], strict=True)]
    content: dict[str, Any] = {}
    for pair in pairs:
        key, found, text = pair.partition("=")
        if not found:
            raise ConfigError(f"--options: '{pair}' is not of the form key=value")
        words = re.findall(r"\[([^\]]*)\]|([^.\[\]]+)", key) if KEY.fullmatch(key) else []
        *parents, last = [quoted or word for quoted, word in words] or [key]
        section = content
        for parent in parents:
            inner = section.get(parent, {})
            inner = inner.parsed() if isinstance(inner, Option) else inner
            section[parent] = section = inner if isinstance(inner, dict) else {}
        section[last] = option = Option(text)
        option.key = key
    return content


def _merged(config: DictConfig, content: dict[str, Any], source: str) -> DictConfig:
    """The configuration with the content over it."""
    if not isinstance(content.get("model", {}), dict):
        found = plain(content["model"])
        raise ConfigError(f"{source}: model: a mapping is expected, found {found!r}")
    try:
        content = by_schema(from_release(content), Config)
    except ValueError as error:
        raise ConfigError(f"{source}: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{source}: a value refers back to itself (&name, *name)") from error
    _drop_arguments(config, content)
    try:
        return OmegaConf.merge(config, OmegaConf.create(content))
    except (ConfigKeyError, ConfigAttributeError) as error:
        raise ConfigError(_unknown_key(source, error)) from error
    except (OmegaConfBaseException, TypeError) as error:
        key = getattr(error, "full_key", None) or _rejected_key(config, OmegaConf.create(content))
        valid = valid_at(re.sub(r"\[.*?\]", "", key), Config)
        value = content
        for name in key.split("."):
            value = value.get(name) if isinstance(value, dict) else value
        reason = f"{value!r}; valid is {valid}" if valid else _first_line(error)
        raise ConfigError(f"{source}: {key}: {reason}") from error


def _drop_arguments(config: DictConfig, content: dict[str, Any]) -> None:
    """Sets the arguments of a name back to their defaults where the content gives another name."""
    kind = OmegaConf.get_type(config)
    if kind in OF_NAME and content.get("name") not in (None, config.name):
        config[OF_NAME[kind]] = getattr(kind(), OF_NAME[kind])
    for key, value in content.items():
        inner = config.get(key) if isinstance(value, dict) and key in config else None
        if isinstance(inner, DictConfig):
            _drop_arguments(inner, value)


def _check_values(
    config: DictConfig, source: str, resolve: bool = False, section: str = ""
) -> None:
    """Raises ConfigError for a value that its key does not take; references only with resolve."""
    kind = OmegaConf.get_type(config)
    known = fields(kind) if is_dataclass(kind) else ()
    valid = {field.name: field.metadata.get("valid") for field in known}
    for key in config:
        if OmegaConf.is_missing(config, key):
            continue
        if OmegaConf.is_interpolation(config, key) and not resolve:
            continue
        value, name = config[key], f"{section}{key}"
        if isinstance(value, DictConfig):
            _check_values(value, source, resolve, f"{name}.")
            continue
        for item in value if isinstance(value, ListConfig) else [value]:
            if valid.get(key) and item is not None and item not in valid[key]:
                raise ConfigError(f"{source}: {name}: {item}; valid is {valid[key]}")
            if isinstance(item, str) and not _is_text(item):
                raise ConfigError(f"{source}: {name}: {item!r}; valid is text in UTF-8")


def _is_text(value: str) -> bool:
    """Whether files can hold it, and be named so."""
    return "\0" not in value and value.encode("utf-8", "ignore").decode() == value


def _check_together(config: DictConfig, source: str) -> None:
    """Raises ConfigError for values that are valid alone and not beside each other."""
    model, run = config.model, config.run
    generation, loss = model.generation, model.loss
    problems = [
        (
            generation.min_length > generation.max_new_tokens,
            f"model.generation.min_length: {generation.min_length}; valid is at most "
            f"max_new_tokens, {generation.max_new_tokens}",
        ),
        (
            not loss.caption + loss.tag + loss.region_text,
            "model.loss: caption, tag and region_text are all 0; nothing would be learned",
        ),
        (
            run.min_lr > run.init_lr,
            f"run.min_lr: {run.min_lr}; valid is at most init_lr, {run.init_lr}",
        ),
        (
            -1 < run.warmup_lr < 0,
            f"run.warmup_lr: {run.warmup_lr}; valid is a number from 0 to 1, or -1 for no ramp",
        ),
    ]
    for part, width, heads in (
        ("qformer", "hidden_size", "num_attention_heads"),
        ("tag_decoder", "width", "heads"),
        ("region_text_decoder", "width", "heads"),
    ):
        sizes = model[part][width], model[part][heads]
        message = f"model.{part}.{width}: {sizes[0]}; valid is a multiple of {heads}, {sizes[1]}"
        problems.append((sizes[0] % sizes[1], message))
    built = {name: one.build_info for name, one in config.datasets.items()}
    known = [name for name, info in built.items() if info.annotations or info.shards]
    for name in config.datasets:
        message = f"datasets.{name} has neither annotations nor shards; {nearest(name, known)}"
        problems.append((known and name not in known, message))
    for is_wrong, message in problems:
        if is_wrong:
            raise ConfigError(f"{source}: {message}")


def _rejected_key(config: DictConfig, content: DictConfig) -> str:
    """The dotted key of the first entry that does not fit, where OmegaConf does not name it."""
    for key, value in content.items():
        try:
            OmegaConf.merge(config, {key: value})
        except (OmegaConfBaseException, TypeError):
            inner = config[key]
            if isinstance(value, DictConfig) and isinstance(inner, DictConfig):
                return f"{key}.{_rejected_key(inner, value)}"
            return str(key)
    return "?"


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def _unknown_key(source: str, error: OmegaConfBaseException) -> str:
    parent, _, key = (error.full_key or "").rpartition(".")
    valid = list(error.parent_node.keys()) if error.parent_node is not None else []
    place = f"{parent}.{key}" if parent else key
    return f"{source}: unknown key '{place}'; {nearest(key, [str(name) for name in valid])}"
