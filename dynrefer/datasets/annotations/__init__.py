"""Annotation files: COCO-style JSON, read through an index on disk."""

from dynrefer.datasets.annotations.index import POLICIES, AnnotationIndex, ImageRecord, RegionRecord

__all__ = ["POLICIES", "AnnotationIndex", "ImageRecord", "RegionRecord"]
