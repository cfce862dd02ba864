"""What turns annotations into model inputs: views of regions, captions, control words."""

from dynrefer.processors.caption import CaptionProcessor
from dynrefer.processors.control_words import (
    ControlWordSampler,
    caption_control_words,
    join_control_words,
)
from dynrefer.processors.images import ImageError, open_image, to_rgb
from dynrefer.processors.region_image import RegionImageProcessor, RegionViews, check_boxes

__all__ = [
    "CaptionProcessor",
    "ControlWordSampler",
    "ImageError",
    "RegionImageProcessor",
    "RegionViews",
    "caption_control_words",
    "check_boxes",
    "join_control_words",
    "open_image",
    "to_rgb",
]
