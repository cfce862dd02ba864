"""Embeddings of vocabularies: made once, kept in a folder, so that no text tower need be built.

Only encoders that read a checkpoint of their own (``model.text_encoder.options.checkpoint``) are
kept: nothing else says by its configuration what its weights are.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dynrefer.assets import local_path
from dynrefer.files import whole_file
from dynrefer.models.text_encoder import TextEncoder
from dynrefer.vocabulary import Vocabularies

logger = logging.getLogger(__name__)

KINDS = ("tags", "attributes", "classes")
# Part of the key; another number makes all embeddings anew.
_VERSION = 1


class EmbeddingCache:
    """Embeddings of lists of phrases, a safetensors file each.

    A file's name is a checksum of the encoder's name, its options and the phrases. Of paths the
    last part counts alone, so that the checkpoint may lie anywhere, or nowhere; where it is there,
    its size has to be that of the one which the embeddings are from.

    Args:
        folder: made when something is kept; several processes may use it at once.
        encoder: registered name of the text encoder.
        options: its arguments.
    """

    def __init__(self, folder: Path, encoder: str, options: Mapping[str, Any]) -> None:
        self.folder = folder
        self._encoder = {
            "name": encoder,
            "options": {
                key: Path(value).name if isinstance(value, str) else value
                for key, value in sorted(options.items())
            },
            "version": _VERSION,
        }
        self._checkpoint = Path(local_path(str(options.get("checkpoint"))))

    def path(self, phrases: Sequence[str]) -> Path:
        """The file of a list of phrases."""
        key = json.dumps([self._encoder, list(phrases)], sort_keys=True)
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()}.safetensors"

    def load(self, phrases: Sequence[str]) -> Tensor | None:
        """Embeddings [P, width] float32, or None where the folder has none that can be used."""
        path = self.path(phrases)
        try:
            if not path.is_file():
                return None
            with safe_open(path, framework="pt") as file:
                embeddings = file.get_tensor("embeddings")
                notes = json.loads((file.metadata() or {}).get("notes", "{}"))
        except (SafetensorError, OSError, ValueError) as error:
            return _unusable(path, str(error))
        if embeddings.dtype != torch.float32 or embeddings.shape[:1] != (len(phrases),):
            return _unusable(path, f"holds {embeddings.dtype} {tuple(embeddings.shape)}")
        if notes.get("sha256") != _checksum(embeddings):
            return _unusable(path, "its content and its checksum differ")
        size = _size(self._checkpoint)
        if size is not None and notes.get("checkpoint_size") != size:
            return _unusable(path, f"{self._checkpoint} is not the file that it was made with")
        return embeddings

    def save(self, phrases: Sequence[str], embeddings: Tensor) -> bool:
        """Keeps embeddings; False, with a warning, where the folder cannot be written."""
        embeddings = embeddings.detach().float().cpu().contiguous()
        notes = {
            "encoder": self._encoder,
            "checkpoint_size": _size(self._checkpoint),
            "sha256": _checksum(embeddings),
        }
        path = self.path(phrases)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as part, part.open("wb") as file:
                # One note, as safetensors writes several in any order.
                file.write(save({"embeddings": embeddings}, {"notes": json.dumps(notes)}))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            logger.warning("text embeddings cannot be kept in %s: %s", self.folder, error)
            return False
        return True


class CachedTextEncoder(TextEncoder):
    """A frozen text encoder that is built when something has to be embedded that is not kept.

    Its tower is no part of the model's parameters and of its state: these are then the same in all
    processes of a run, whether they found embeddings or not.

    Args:
        width: of the embeddings.
        build: makes the encoder.
        cache: of embeddings.
        vocabularies: lists of phrases; with the embeddings of one those of all are kept.
        encoder: what ``build`` made, where it is built already.
    """

    # Of no use to this encoder in the files of a model (dynrefer.checkpoints.loading).
    left_out = {".*": "phrases are embedded by a tower of its own file, where one is needed"}

    def __init__(
        self,
        width: int,
        build: Callable[[], TextEncoder],
        cache: EmbeddingCache,
        vocabularies: Sequence[Sequence[str]],
        encoder: TextEncoder | None = None,
    ) -> None:
        super().__init__()
        self.width, self.cache, self.vocabularies = width, cache, vocabularies
        self._build = build
        self._built = [encoder] if encoder is not None else []  # in a list, nn.Module lets it be
        self.register_buffer("device_marker", torch.zeros(()), persistent=False)

    @property
    def is_built(self) -> bool:
        """Whether there is a tower."""
        return bool(self._built)

    def tower(self) -> TextEncoder:
        """The encoder itself, built if it is not yet."""
        if not self._built:
            encoder = _without_drawing(self._build)
            if encoder.width != self.width:
                raise ValueError(
                    f"model.text_encoder gives embeddings of width {encoder.width}, those in "
                    f"{self.cache.folder} have {self.width}; delete that folder"
                )
            self._built.append(encoder)
        return self._built[0].to(self.device_marker.device)

    def forward(self, phrases: Sequence[str]) -> Tensor:
        """Embeds phrases, [P, width]."""
        return self.tower()(phrases)

    def embed_vocabulary(self, phrases: Sequence[str]) -> Tensor:
        """Embeddings of a vocabulary [P, width] float32, from the folder or for it."""
        embeddings = self.cache.load(phrases)
        if embeddings is None:
            embeddings = super().embed_vocabulary(phrases)
            if self.cache.save(phrases, embeddings):
                self.keep(self.cache)
        return embeddings.to(self.device_marker.device)

    def keep(self, cache: EmbeddingCache) -> None:
        """Keeps the embeddings of all vocabularies: the next start then needs no tower."""
        for phrases in self.vocabularies:
            if cache.load(phrases) is None:
                kept = None if cache is self.cache else self.cache.load(phrases)
                cache.save(phrases, super().embed_vocabulary(phrases) if kept is None else kept)


def cached_text_encoder(
    build: Callable[[], TextEncoder],
    name: str,
    options: Mapping[str, Any],
    folder: Path,
    vocabularies: Vocabularies,
) -> TextEncoder:
    """What ``build`` makes of a registered text encoder, with its embeddings kept in a folder.

    It is not built where the folder has the embeddings of all vocabularies. An encoder that trains
    is given back as it is.
    """
    cache = EmbeddingCache(folder, name, options)
    lists = [getattr(vocabularies, kind).phrases for kind in KINDS]
    kept = [cache.load(phrases) for phrases in lists]
    widths = {None if embeddings is None else embeddings.shape[1] for embeddings in kept}
    if len(widths) == 1 and None not in widths:
        return CachedTextEncoder(widths.pop(), build, cache, lists)
    encoder = _without_drawing(build)
    if encoder.trainable:
        return encoder
    return CachedTextEncoder(encoder.width, build, cache, lists, encoder)


def _without_drawing(build: Callable[[], TextEncoder]) -> TextEncoder:
    """Builds without a change to torch's random numbers: a run is the same with a full folder."""
    with torch.random.fork_rng(devices=[]):
        return build().eval()


def _unusable(path: Path, reason: str) -> None:
    logger.warning("text embeddings in %s are made anew: %s", path, reason)


def _checksum(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()


def _size(path: Path) -> int | None:
    """Bytes of a checkpoint file or folder; None where there is none."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size if path.is_file() else None
