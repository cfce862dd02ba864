"""Tokenizers of language models and small text towers, as files."""

import copy
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from dynrefer.assets import fetch_hint, local_path


def load_tokenizer(name: str, key: str) -> PreTrainedTokenizerBase:
    """Loads a tokenizer from a directory or from the local Hugging Face cache.

    Args:
        name: directory, or model id such as "google/flan-t5-xl".
        key: the configuration key that gave it, for the error.

    Raises:
        FileNotFoundError: it is neither a directory nor in the cache.
    """
    try:
        return AutoTokenizer.from_pretrained(local_path(name), local_files_only=True)
    except (OSError, ValueError) as error:
        kind = "directory without a tokenizer" if Path(name).is_dir() else "missing directory"
        raise FileNotFoundError(
            f"{key}: no tokenizer at '{name}' ({kind}, and no such model in the Hugging Face "
            f"cache){fetch_hint(name)}: {error}"
        ) from error


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Saves a tokenizer without the padding and truncation of its last use, or its origin."""
    tokenizer = copy.deepcopy(tokenizer)
    for key in ("is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(key, None)
    if tokenizer.is_fast:
        tokenizer.backend_tokenizer.no_padding()
        tokenizer.backend_tokenizer.no_truncation()
    tokenizer.save_pretrained(folder)
