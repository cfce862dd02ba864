"""What turns annotations into model inputs: views of regions, captions, control words, tags."""

from dynrefer.processors.caption import CaptionProcessor
from dynrefer.processors.control_words import (
    ControlWordSampler,
    caption_control_words,
    join_control_words,
)
from dynrefer.processors.region_image import (
    ImageError,
    RegionImageProcessor,
    RegionViews,
    check_boxes,
    open_image,
    to_rgb,
)
from dynrefer.processors.spacy_tag_parser import SpacyTagParser
from dynrefer.processors.tag_index import TagIndex
from dynrefer.processors.tag_parser import (
    ParsedTags,
    RuleTagParser,
    TagParser,
    build_tag_parser,
)

__all__ = [
    "CaptionProcessor",
    "ControlWordSampler",
    "ImageError",
    "ParsedTags",
    "RegionImageProcessor",
    "RegionViews",
    "RuleTagParser",
    "SpacyTagParser",
    "TagIndex",
    "TagParser",
    "build_tag_parser",
    "caption_control_words",
    "check_boxes",
    "join_control_words",
    "open_image",
    "to_rgb",
]
