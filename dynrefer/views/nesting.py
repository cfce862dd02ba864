"""The boxes of nested views and the region's box inside each of them.

A view of ratio t lies between the region's box (t = 0) and the whole image (t = 1). All boxes are
xyxy in pixels; every step rounds exactly as the published code does, because the released weights
were trained on boxes rounded that way.
"""

import numpy as np


def nested_boxes(boxes: np.ndarray, ratios: np.ndarray, width: int, height: int) -> np.ndarray:
    """Boxes of the views, ``box + (image - box) * ratio``: float32 [N, V, 4].

    ``boxes`` is [N, 4] in an image of ``width`` by ``height`` pixels, ``ratios`` [N, V] in [0, 1].
    Nothing is clipped or truncated yet. At ratio 1 float32 rounding may end a hair short of the
    image's edge, so truncation then loses one pixel, as published.
    """
    boxes = np.asarray(boxes, dtype=np.float32)[:, None]
    ratios = np.asarray(ratios, dtype=np.float32)[:, :, None]
    image = np.array([0, 0, width, height], dtype=np.float32)
    return boxes + (image - boxes) * ratios


def pixel_boxes(boxes: np.ndarray, width: int, height: int) -> np.ndarray:
    """Boxes clipped to the image and truncated to whole pixels, each at least one pixel wide.

    A box that truncation leaves empty, such as x from 10.2 to 10.9, keeps the one pixel it starts
    in (10 to 11; at the far edge the last pixel of the image). The published code cannot process
    such a box; all others are exactly as published. Takes float [..., 4] and returns int64
    [..., 4], end exclusive, with 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height.
    """
    size = np.array([width, height])
    boxes = np.clip(boxes, 0, np.tile(size, 2)).astype(np.int64)
    starts = np.minimum(boxes[..., :2], size - 1)
    ends = np.maximum(boxes[..., 2:], starts + 1)
    return np.concatenate([starts, ends], axis=-1)


def region_boxes_in_views(view_boxes: np.ndarray, size: int) -> np.ndarray:
    """Box of the region in pixels of every view's crop, resized to a square of side ``size``.

    ``view_boxes`` is int64 [N, V, 4] in pixels of the image, view 0 being the region itself; the
    result float32 [N, V, 4], whole numbers within [0, size]. The scale and the product are float32
    and the product is truncated, so the box of a region that fills its view ends at ``size`` or
    ``size - 1``, depending on rounding.
    """
    origin = np.tile(view_boxes[..., :2], 2)
    extent = view_boxes[..., 2:] - view_boxes[..., :2]
    scale = np.tile((size / extent).astype(np.float32), 2)
    inside = (view_boxes[:, :1] - origin).astype(np.float32)
    return (inside * scale).astype(np.int64).astype(np.float32)
