"""Benchmarks: what runs, and what judges."""

from dynrefer.tasks import attributes, caption_words, captioning, dense_captioning, recognition

__all__ = ["attributes", "caption_words", "captioning", "dense_captioning", "recognition"]
