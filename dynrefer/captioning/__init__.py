"""Captioning of image collections: regions from files, lines of results, resumable."""

from dynrefer.captioning.captioner import RegionCaptioner

__all__ = ["RegionCaptioner"]
