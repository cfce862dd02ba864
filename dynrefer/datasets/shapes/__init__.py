"""The shapes world: pictures of textured figures in relations, rendered from a seed."""

from dynrefer.datasets.shapes.world import make_shapes

__all__ = ["make_shapes"]
