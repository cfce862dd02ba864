"""Which nested boxes of an image to look at: geometry, perceptual hash, view selectors."""

from dynrefer.views.nesting import nested_boxes, pixel_boxes, region_boxes_in_views
from dynrefer.views.phash import perceptual_hashes
from dynrefer.views.selectors import (
    CANDIDATE_RATIOS,
    ImagePriorSelector,
    StochasticSelector,
    TaskPriorSelector,
    ViewSelector,
)

__all__ = [
    "CANDIDATE_RATIOS",
    "ImagePriorSelector",
    "StochasticSelector",
    "TaskPriorSelector",
    "ViewSelector",
    "nested_boxes",
    "perceptual_hashes",
    "pixel_boxes",
    "region_boxes_in_views",
]
