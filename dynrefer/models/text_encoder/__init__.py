"""Texts as vectors: the towers, and embeddings of vocabularies that are kept on disk."""

from dynrefer.models.text_encoder.towers import TextEncoder, TransformerTextEncoder

__all__ = ["TextEncoder", "TransformerTextEncoder"]
