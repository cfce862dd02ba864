"""Configuration: YAML files, ``base:`` lists, dotted overrides, checked against the schema."""

from collections.abc import Iterator, Sequence
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

from dynrefer.config_schema import LEAST, RELEASE_FIXED, RELEASE_KEYS, RELEASE_VALUES, Config
from dynrefer.registry import nearest

# Of folders with a model (dynrefer.models.pretrained); their configuration carries it.
FORMAT_VERSION = 1


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names file, key, value and what is valid."""


def load_config(path: str | Path, options: Sequence[str] = ()) -> DictConfig:
    """Loads a YAML file over its bases and the schema's defaults, then applies overrides.

    Args:
        path: YAML file; its ``base:`` is a list of files (relative to the working directory or to
            the file), merged in order, later ones and the file itself winning.
        options: "run.max_epoch=3" strings, or the release's pairs "run.max_epoch", "3".

    Raises:
        FileNotFoundError: the file or one of its bases is missing.
        ConfigError: broken YAML, an unknown key (the nearest valid one is named), a wrong type.
    """
    config = OmegaConf.structured(Config)
    for source, content in (*_with_bases(Path(path), ()), ("--options", _overrides(options))):
        content = _from_release(content, source)
        try:
            config = OmegaConf.merge(config, content)
        except (ConfigKeyError, ConfigAttributeError) as error:
            raise ConfigError(_unknown_key(source, error)) from error
        except (OmegaConfBaseException, TypeError) as error:
            key = getattr(error, "full_key", None) or _rejected_key(config, content)
            raise ConfigError(f"{source}: {key}: {_first_line(error)}") from error
    _check_values(config, str(path))
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


def _with_bases(path: Path, above: tuple[Path, ...]) -> Iterator[tuple[str, DictConfig]]:
    """The file's bases, theirs first, then the file, as (name, content).

    One with ``format_version`` is that of a folder with a model (``dynrefer.models.pretrained``).
    """
    if path.resolve() in above:
        raise ConfigError(f"{path}: `base` refers back to itself through {above[-1]}")
    if not path.is_file():
        raise FileNotFoundError(f"no configuration file at {path}")
    try:
        content = OmegaConf.load(path)
    except (yaml.YAMLError, UnicodeDecodeError, OSError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path}: cannot be read as YAML: {error}") from error
    if not isinstance(content, DictConfig):
        raise ConfigError(f"{path}: a mapping with model, datasets and run is expected")
    bases = content.pop("base", None) or []
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list | ListConfig) or not all(isinstance(b, str) for b in bases):
        raise ConfigError(f"{path}: base: a list of files is expected, found {bases}")
    if "format_version" in content:
        content = _of_folder(OmegaConf.to_container(content), path)
    for base in bases:
        beside = path.parent / base
        found = beside if beside.is_file() and not Path(base).is_file() else Path(base)
        yield from _with_bases(found, (*above, path.resolve()))
    yield str(path), content


def _of_folder(content: dict[str, Any], path: Path) -> DictConfig:
    """The configuration in a folder with a model, its "./name" being files of the folder.

    Raises:
        ConfigError: it is of a version that cannot be read here.
        FileNotFoundError: the folder lacks one of its ``weights``.
    """
    version = content.pop("format_version")
    if not isinstance(version, int) or version < 1:
        raise ConfigError(f"{path}: format_version: {version}; valid is 1 to {FORMAT_VERSION}")
    if version > FORMAT_VERSION:
        raise ConfigError(
            f"{path}: format_version: {version} was written by a newer DynRefer; this one reads "
            f"versions up to {FORMAT_VERSION}"
        )
    for name in content.pop("weights", []):
        if not (path.parent / name).is_file():
            raise FileNotFoundError(f"{path.parent / name} is missing; {path} names it")
    return OmegaConf.create(_in_folder(content, path.parent))


def _in_folder(value: Any, folder: Path) -> Any:
    """The value with every path that begins with "./" (or is ".") put into the folder."""
    if isinstance(value, dict):
        return {key: _in_folder(inner, folder) for key, inner in value.items()}
    if isinstance(value, list):
        return [_in_folder(inner, folder) for inner in value]
    is_inside = isinstance(value, str) and (value == "." or value.startswith("./"))
    return str(folder / value) if is_inside else value


def _overrides(options: Sequence[str]) -> DictConfig:
    pairs = list(options)
    if pairs and "=" not in pairs[0]:
        if len(pairs) % 2:
            raise ConfigError(f"--options: '{pairs[-1]}' has no value; write key=value")
        pairs = [f"{key}={value}" for key, value in zip(pairs[::2], pairs[1::2], strict=True)]
    for pair in pairs:
        if "=" not in pair:
            raise ConfigError(f"--options: '{pair}' is not of the form key=value")
    # A dataset's name may hold dots ("vg1.2"): brackets quote it, datasets[vg1.2].build_info...
    try:
        return OmegaConf.from_dotlist(pairs)
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        reason = _first_line(error)
        raise ConfigError(f"--options: {' '.join(pairs)}: cannot be read: {reason}") from error


def _from_release(content: DictConfig, source: str) -> DictConfig:
    """Moves the release's flat keys to where their values live here."""
    if not isinstance(content.get("model", {}), DictConfig | dict):
        raise ConfigError(f"{source}: model: a mapping is expected, found {content.model!r}")
    for old, allowed in RELEASE_FIXED.items():
        section, _, key = old.partition(".")
        if isinstance(content.get(section), DictConfig) and key in content[section]:
            value = content[section].pop(key)
            if allowed and value not in allowed:
                raise ConfigError(f"{source}: {old}: {value}; only {allowed[0]} is supported")
    for old, new in RELEASE_KEYS.items():
        key = old.removeprefix("model.")
        if key in content.get("model", {}):
            OmegaConf.update(content, new, content.model.pop(key), force_add=True)
    for key, names in RELEASE_VALUES.items():
        value = OmegaConf.select(content, key)
        if not isinstance(value, DictConfig | ListConfig) and value in names:
            OmegaConf.update(content, key, names[value])
    return content


def _check_values(config: DictConfig, source: str) -> None:
    """Resolves every reference between keys, and checks the counts."""
    try:
        OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{source}: {error.full_key}: {_first_line(error)}") from error
    for key, least in LEAST.items():
        value = OmegaConf.select(config, key)
        if value < least:
            raise ConfigError(f"{source}: {key}: {value}; valid is a whole number from {least} on")


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
