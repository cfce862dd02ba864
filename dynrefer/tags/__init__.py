"""What a caption names: the tags of its subject, and those of other things in it."""

from dynrefer.tags.index import TagIndex
from dynrefer.tags.parser import ParsedTags, RuleTagParser, TagParser, build_tag_parser
from dynrefer.tags.spacy_parser import SpacyTagParser

__all__ = [
    "ParsedTags",
    "RuleTagParser",
    "SpacyTagParser",
    "TagIndex",
    "TagParser",
    "build_tag_parser",
]
