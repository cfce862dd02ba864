"""DynRefer: captions, tags, attributes and classes of image regions from several nested views."""

__version__ = "0.1.0"
