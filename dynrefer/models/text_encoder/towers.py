"""Text embeddings of tags, attributes, classes and captions, behind one interface.

A text encoder maps P phrases to [P, width]. EVA-CLIP's tower serves the published models; where
there are no weights (the shapes world) a small tower is trained with the rest, or fixed features
of the words are used.
"""

import functools
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from open_clip.model import QuickGELU
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import TextTransformer
from torch import Tensor

from dynrefer.checkpoints.loading import open_source
from dynrefer.checkpoints.places import TEXT_ENCODER, without_memory
from dynrefer.checkpoints.tokenizers import load_tokenizer
from dynrefer.config import ConfigError
from dynrefer.models.parts import Part
from dynrefer.progress import Progress
from dynrefer.registry import registry

Tokenizer = Callable[[Sequence[str]], Tensor]

# Phrases of a vocabulary that are embedded at once; more batches than SILENT show their progress.
BATCH, SILENT = 64, 10


class TextEncoder(Part, ABC):
    """Phrases -> embeddings [P, width]."""

    width: int

    @property
    def trainable(self) -> bool:
        """Whether embeddings change in training, so that none may be kept."""
        return not self.frozen

    @abstractmethod
    def forward(self, phrases: Sequence[str]) -> Tensor:
        """Embeds phrases, [P, width]."""

    def embed_vocabulary(self, phrases: Sequence[str]) -> Tensor:
        """Embeddings [P, width] float32 of a vocabulary of the model's."""
        return self.embed(phrases)

    @torch.no_grad()
    def embed(self, phrases: Sequence[str]) -> Tensor:
        """Embeds many phrases in batches, [P, width] float32, whatever the precision of the run."""
        starts = range(0, len(phrases), BATCH)
        label = f"embedding {len(phrases)} phrases"
        bar = Progress(starts, label, unit="batch", disable=len(starts) <= SILENT)
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            return torch.cat([self(phrases[start : start + BATCH]).float() for start in bar])


class TransformerTextEncoder(TextEncoder):
    """CLIP's text transformer (open_clip's, whose parameter names EVA-CLIP shares)."""

    def __init__(self, transformer: TextTransformer, tokenize: Tokenizer, freeze: bool) -> None:
        super().__init__()
        self.transformer = transformer
        self.tokenize = tokenize
        projection = transformer.text_projection
        self.width = transformer.width if projection is None else projection.shape[1]
        self.requires_grad_(not freeze)

    def forward(self, phrases: Sequence[str]) -> Tensor:
        """Embeds phrases, [P, width]."""
        ids = self.tokenize(list(phrases)).to(self.transformer.positional_embedding.device)
        with self.graph():
            return self.transformer(ids)


@registry.register("text_encoder", "eva_clip")
def eva_clip_text_encoder(checkpoint: str | None = None) -> TextEncoder:
    """EVA-CLIP g/14's text tower: 12 layers, width 768, output 1024, frozen; CLIP's own BPE.

    Args:
        checkpoint: ``eva_clip_psz14.pt``, or open_clip's file of EVA01-g-14; None where a file of
            ``model.pretrained`` holds the tower.

    Raises:
        FileNotFoundError, ValueError: no such file, or one without this tower.
    """
    return _clip_text_encoder(checkpoint, output_dim=1024)


@registry.register("text_encoder", "clip_vit_l")
def clip_vit_l_text_encoder(checkpoint: str | None = None) -> TextEncoder:
    """CLIP ViT-L/14's text tower, pooled before its projection: 12 layers, width 768, frozen.

    Args:
        checkpoint: CLIP ViT-L/14 of transformers or of open_clip; None as in
            :func:`eva_clip_text_encoder`.

    Raises:
        FileNotFoundError, ValueError: no such file, or one without this tower.
    """
    return _clip_text_encoder(checkpoint, output_dim=None, act_layer=QuickGELU)


def _clip_text_encoder(checkpoint: str | None, **options: Any) -> TextEncoder:
    with without_memory():
        transformer = TextTransformer(
            context_length=77, vocab_size=49408, width=768, heads=12, layers=12, **options
        )
    tokenize = SimpleTokenizer(context_length=77)
    encoder = TransformerTextEncoder(transformer, tokenize, freeze=True)
    if checkpoint is not None:
        source = open_source(checkpoint, "model.text_encoder.options.checkpoint")
        source.load(encoder, prefix=TEXT_ENCODER)
    return encoder


@registry.register("text_encoder", "word_transformer")
def word_transformer(
    tokenizer: str,
    width: int = 64,
    heads: int = 4,
    layers: int = 1,
    output_width: int = 64,
    context_length: int = 40,
) -> TextEncoder:
    """A small tower over a word tokenizer, trained with the model.

    Args:
        tokenizer: directory of a tokenizer whose sequences end in its end token.
    """
    _check_sizes(width=width, heads=heads, layers=layers, output_width=output_width)
    _check_sizes(context_length=context_length)
    words = load_tokenizer(tokenizer, "model.text_encoder.options.tokenizer")

    def tokenize(phrases: Sequence[str]) -> Tensor:
        return words(
            list(phrases),
            padding="max_length",
            truncation=True,
            max_length=context_length,
            return_tensors="pt",
        ).input_ids

    transformer = TextTransformer(
        context_length=context_length,
        vocab_size=len(words),
        width=width,
        heads=heads,
        layers=layers,
        output_dim=output_width,
        pool_type="eos",
        eos_id=words.eos_token_id,
        pad_id=words.pad_token_id,
    )
    return TransformerTextEncoder(transformer, tokenize, freeze=False)


@registry.register("text_encoder", "word_features")
class WordFeatureEncoder(TextEncoder):
    """Fixed random features: the mean over a phrase's words and pairs of neighbouring words.

    A word's feature depends on the word alone, so embeddings are the same on every machine.
    """

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        _check_sizes(width=width)
        self.width = width
        self.register_buffer("device_marker", torch.zeros(()), persistent=False)

    def forward(self, phrases: Sequence[str]) -> Tensor:
        """Embeds phrases, [P, width]."""
        features = np.stack([self._phrase(phrase) for phrase in phrases])
        return torch.from_numpy(features).to(self.device_marker.device)

    def _phrase(self, phrase: str) -> np.ndarray:
        words = phrase.lower().split()
        parts = words + [" ".join(pair) for pair in zip(words, words[1:], strict=False)]
        return np.mean([_word_feature(part, self.width) for part in parts or [""]], axis=0)


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if type(size) is not int or size < 1:
            raise ConfigError(
                f"model.text_encoder.options.{name}: {size}; valid is a whole number from 1 on"
            )


@functools.lru_cache(maxsize=100_000)
def _word_feature(word: str, width: int) -> np.ndarray:
    seed = zlib.crc32(word.encode())
    return np.random.default_rng(seed).standard_normal(width).astype(np.float32)
