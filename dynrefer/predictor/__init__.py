"""An image and regions of it -> captions, tags, attributes, classes; one image or a stream."""

from dynrefer.predictor.inputs import ImageLike, Segmenter, as_image, regions_of
from dynrefer.predictor.options import PredictionOptions
from dynrefer.predictor.region_predictor import RegionPredictor
from dynrefer.predictor.requests import RegionRequest
from dynrefer.predictor.results import ImageResult, RegionResult

__all__ = [
    "ImageLike",
    "ImageResult",
    "PredictionOptions",
    "RegionPredictor",
    "RegionRequest",
    "RegionResult",
    "Segmenter",
    "as_image",
    "regions_of",
]
