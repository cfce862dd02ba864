"""Embeddings of vocabularies: made once, kept in a folder, so that no text tower need be built.

Only encoders that read a checkpoint of their own (``model.text_encoder.options.checkpoint``) are
kept: nothing else says by its configuration what its weights are.
"""

import functools
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dynrefer.assets import local_path
from dynrefer.files import whole_file
from dynrefer.models.text_encoder.towers import TextEncoder
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
        names = {k: Path(v).name if isinstance(v, str) else v for k, v in options.items()}
        self._encoder = {"name": encoder, "options": names, "version": _VERSION}
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
            size = _size(self._checkpoint)
        except (SafetensorError, OSError, ValueError) as error:
            reason = str(error)
        else:
            if embeddings.dtype != torch.float32 or embeddings.shape[:1] != (len(phrases),):
                reason = f"holds {embeddings.dtype} {tuple(embeddings.shape)}"
            elif notes.get("sha256") != _checksum(embeddings):
                reason = "its content and its checksum differ"
            elif size not in (None, notes.get("checkpoint_size")):
                reason = f"{self._checkpoint} is not the file that it was made with"
            else:
                return embeddings
        logger.warning("text embeddings in %s are made anew: %s", path, reason)
        return None

    def save(self, phrases: Sequence[str], embeddings: Tensor) -> bool:
        """Keeps embeddings; False, with a warning, where the folder cannot be written."""
        embeddings = embeddings.detach().float().cpu().contiguous()
        size = _size(self._checkpoint)
        notes = {"checkpoint_size": size, "sha256": _checksum(embeddings), **self._encoder}
        # One note, as safetensors writes several in any order.
        content = save({"embeddings": embeddings}, {"notes": json.dumps(notes, sort_keys=True)})
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with whole_file(self.path(phrases)) as part:
                part.write_bytes(content)
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
    """

    # Of no use to this encoder in the files of a model (dynrefer.checkpoints.loading).
    left_out = {".*": "phrases are embedded by a tower of its own file, where one is needed"}

    def __init__(
        self,
        width: int,
        build: Callable[[], TextEncoder],
        cache: EmbeddingCache,
        vocabularies: Sequence[Sequence[str]],
    ) -> None:
        super().__init__()
        self.width, self.cache, self.vocabularies = width, cache, vocabularies
        self._build = functools.cache(build)  # not an attribute: nn.Module would register it
        self.register_buffer("device_marker", torch.zeros(()), persistent=False)

    def tower(self) -> TextEncoder:
        """The encoder itself, built if it is not yet."""
        encoder = self._build()
        if encoder.width != self.width:
            raise ValueError(
                f"model.text_encoder gives embeddings of width {encoder.width}, those in "
                f"{self.cache.folder} have {self.width}; delete that folder"
            )
        return encoder.to(self.device_marker.device)

    def forward(self, phrases: Sequence[str]) -> Tensor:
        """Embeds phrases, [P, width]."""
        return self.tower()(phrases)

    def embed_vocabulary(self, phrases: Sequence[str]) -> Tensor:
        """Embeddings of a vocabulary [P, width] float32, from the folder or for it."""
        embeddings = self.cache.load(phrases)
        if embeddings is None:
            embeddings = self.embed(phrases)
            if self.cache.save(phrases, embeddings):
                self.keep(self.cache)
        return embeddings.to(self.device_marker.device)

    def keep(self, cache: EmbeddingCache) -> None:
        """Keeps the embeddings of all vocabularies: the next start then needs no tower."""
        for phrases in self.vocabularies:
            embeddings = self.embed_vocabulary(phrases)  # and keeps them in its own folder
            if cache is not self.cache and cache.load(phrases) is None:
                cache.save(phrases, embeddings)


def cached_text_encoder(
    build: Callable[[], TextEncoder], cache: EmbeddingCache, vocabularies: Vocabularies
) -> TextEncoder:
    """What ``build`` makes of a registered text encoder, with its embeddings kept in a folder.

    It is not built where the folder has the embeddings of all vocabularies. An encoder that trains
    is given back as it is.
    """
    lists = [getattr(vocabularies, kind).phrases for kind in KINDS]
    kept = [cache.load(phrases) for phrases in lists]
    build = functools.partial(_without_drawing, build)
    widths = {None if embeddings is None else embeddings.shape[1] for embeddings in kept}
    if len(widths) == 1 and None not in widths:
        return CachedTextEncoder(widths.pop(), build, cache, lists)
    encoder = build()
    if encoder.trainable:
        return encoder
    return CachedTextEncoder(encoder.width, lambda: encoder, cache, lists)


def _without_drawing(build: Callable[[], TextEncoder]) -> TextEncoder:
    """Builds without a change to torch's random numbers: a run is the same with a full folder."""
    with torch.random.fork_rng(devices=[]):
        return build().eval()


def _checksum(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()


def _size(path: Path) -> int | None:
    """Bytes of a checkpoint file or folder; None where there is none."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size if path.is_file() else None
