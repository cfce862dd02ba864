"""Tokenizers of language models and small text towers, as files."""

import copy
import importlib.util
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from dynrefer.assets import fetch_hint, local_path
from dynrefer.checkpoints.gguf_files import find_gguf, is_gguf

# What reads the files of SentencePiece, and the modules that tell whether it is installed.
_LIBRARIES = {"sentencepiece": "sentencepiece", "protobuf": "google.protobuf"}


def load_tokenizer(name: str, key: str) -> PreTrainedTokenizerBase:
    """Loads a tokenizer from a directory, the local Hugging Face cache or a GGUF file.

    Args:
        name: directory, model id such as "google/flan-t5-xl", or what
            :func:`dynrefer.checkpoints.gguf_files.find_gguf` takes.
        key: the configuration key that gave it, for the error.

    Raises:
        FileNotFoundError: it is neither a directory nor in the cache.
        ImportError: it is published as SentencePiece's file alone (Vicuna's is) or as GGUF, and
            the libraries that read it are not installed.
    """
    if is_gguf(name):
        return _of_gguf(find_gguf(name, key), key)
    missing = [library for library, module in _LIBRARIES.items() if not _is_installed(module)]
    if missing and _is_sentencepiece(name):
        raise ImportError(
            f"{key}: '{name}' has its tokenizer as SentencePiece's file alone; reading that needs "
            f"{' and '.join(missing)}: pip install {' '.join(missing)}, or the extra [vicuna] of "
            "this package"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(local_path(name), local_files_only=True)
        if len(tokenizer) <= len(tokenizer.all_special_tokens):
            raise ValueError("its vocabulary is empty")
        return tokenizer
    except Exception as error:  # a damaged file can make the libraries raise anything
        kind = "directory without a tokenizer" if Path(name).is_dir() else "missing directory"
        raise FileNotFoundError(
            f"{key}: no tokenizer at '{name}' ({kind}, and no such model in the Hugging Face "
            f"cache){fetch_hint(name)}: {error}"
        ) from error


def _of_gguf(path: Path, key: str) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(
            path.parent, gguf_file=path.name, local_files_only=True
        )
    except Exception as error:  # a damaged file can make the libraries raise anything
        raise ValueError(f"{key}: no tokenizer of GGUF in {path}: {error}") from error


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that the module would be in
        return False


def _is_sentencepiece(name: str) -> bool:
    """Whether a tokenizer on this disk is one file of SentencePiece, without tokenizer.json."""
    folder = Path(local_path(name))

    def has(file: str) -> bool:
        if folder.is_dir():
            return (folder / file).is_file()
        try:
            return isinstance(try_to_load_from_cache(name, file), str)
        except HFValidationError:  # no name of the hub
            return False

    return not has("tokenizer.json") and (has("tokenizer.model") or has("spiece.model"))


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Saves a tokenizer without the padding and truncation of its last use, or its origin."""
    tokenizer = copy.deepcopy(tokenizer)
    for key in ("gguf_file", "is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(key, None)
    if tokenizer.is_fast:
        tokenizer.backend_tokenizer.no_padding()
        tokenizer.backend_tokenizer.no_truncation()
    tokenizer.save_pretrained(folder)
