"""Images in tar files, read by place."""

from dynrefer.datasets.shards.reading import open_shards
from dynrefer.datasets.shards.writing import IMAGES_PER_SHARD, write_shards

__all__ = ["IMAGES_PER_SHARD", "open_shards", "write_shards"]
