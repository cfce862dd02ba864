"""Benchmarks: what runs, and what judges."""

from dynrefer.tasks import attributes, captioning, dense_captioning, recognition

__all__ = ["attributes", "captioning", "dense_captioning", "recognition"]
