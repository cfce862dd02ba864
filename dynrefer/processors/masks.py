"""Masks of regions from files, arrays, COCO's run lengths and polygons: bool [H, W]."""

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from dynrefer.processors.images import ImageError, decoded, to_rgb, upright
from dynrefer.run_lengths import run_lengths

Mask = np.ndarray | Mapping[str, Any] | Sequence
_LOSSY = ("JPEG", "MPO", "JPEG2000", "WEBP", "AVIF")
# Photographs have more: distinct colours, and a share of values far from black and full ones.
_MOST_COLOURS, _MOST_SHADES = 1000, 0.25


def open_mask(path: str | Path, label: int | None = None) -> np.ndarray:
    """Reads a mask file as it is shown upright, bool [H, W].

    Where the opacity (alpha) varies, the region is what can be seen; else it is what is not black,
    in a file that loses detail (JPEG, WebP, AVIF) what is brighter than half. With a ``label``, or
    a path "masks.png:3", it is the pixels of that value, or of that index in the palette.

    Raises ImageError for a file that is missing or damaged, of several frames, a photograph, or
    without a pixel that counts, and for a label of a file that has colours or loses detail.
    """
    path = Path(path)
    name, _, value = path.name.rpartition(":")
    if label is None and name and value.isdecimal() and not path.exists():
        path, label = path.with_name(name), int(value)
    return picture_mask(decoded(path, frames=1), f"mask file {path}", label)


def picture_mask(image: Image.Image, what: str, label: int | None = None) -> np.ndarray:
    """As :func:`open_mask`, of a picture that is decoded already.

    Args:
        image: of one frame, in the mode in which it is stored.
        what: name of the picture in messages.
        label: see :func:`open_mask`.
    """
    lossy, image = image.format in _LOSSY, upright(image)
    if label is not None:
        values = np.asarray(image)[..., None] if image.mode == "P" else _values(image)
        if lossy or (values != values[..., :1]).any():
            has = "loses detail" if lossy else "has colours"
            raise ImageError(f"{what} {has}; label {label} needs whole numbers, as in PNG")
        mask, wanted = values[..., 0] == label, f"of label {label}"
    elif (alpha := _alpha(image)) is not None:
        mask, wanted = alpha > 0, "that can be seen"
    else:
        values = _values(image)
        if _is_photograph(values, lossy):
            raise ImageError(
                f"{what} is a photograph; a mask is black, or of no opacity, but in the region, or "
                "holds a few whole numbers as labels"
            )
        least, wanted = (127, "brighter than half") if lossy else (0, "that is not black")
        mask = (values > least).any(axis=2)
    if not mask.any():
        raise ImageError(f"{what} has no pixel {wanted}")
    return mask


def as_mask(mask: Mask, size: tuple[int, int], what: str = "mask") -> np.ndarray:
    """A mask of an image of a size (width, height) as bool [H, W].

    It is given as bool or whole numbers [H, W], not 0 in the region; as COCO's run lengths, an
    object with ``size`` [H, W] and ``counts`` (numbers, or its text); or as polygons, a list of
    lists of x, y, x, y, ... in pixels. Raises ValueError, which begins with ``what``, for none of
    these, for an empty mask and one of another size than the image.
    """
    width, height = size
    if isinstance(mask, Mapping):
        inside = _from_runs(mask, size, what)
    elif isinstance(mask, list | tuple):
        inside = _from_polygons(mask, size, what)
    else:
        inside = np.asarray(mask)
        if inside.shape != (height, width) or inside.dtype.kind not in "bui":
            raise ValueError(
                f"{what} is {inside.dtype} {list(inside.shape)}; valid is bool or whole numbers "
                f"[{height}, {width}] for the image of {width} x {height} pixels, COCO's run "
                "lengths, or a list of polygons"
            )
        inside = inside != 0
    if not inside.any():
        raise ValueError(f"{what} is empty; valid is a mask with one pixel or more")
    return inside


def mask_box(mask: np.ndarray) -> tuple[float, float, float, float]:
    """The tight box of a mask that is not empty, xyxy, end exclusive."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def _values(image: Image.Image) -> np.ndarray:
    """Grey values or colours without their opacity, [H, W, 1 or 3]."""
    if image.mode in ("LA", "La"):
        image = image.getchannel("L")
    if image.mode in ("1", "L", "I", "F") or image.mode.startswith("I;16"):
        return np.nan_to_num(np.asarray(image))[..., None]
    return np.asarray(to_rgb(image))


def _is_photograph(values: np.ndarray, lossy: bool) -> bool:
    """Whether a picture [H, W, 1 or 3] has too many colours for a mask."""
    if values.shape[2] == 1:  # a soft mask, or labels
        return False
    # A mask's colours spread where detail is lost, but stay near black and full ones.
    if lossy and ((values > 31) & (values < 224)).mean() <= _MOST_SHADES:
        return False
    numbers = values.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)
    return len(np.unique(numbers)) > _MOST_COLOURS


def _alpha(image: Image.Image) -> np.ndarray | None:
    """The opacity [H, W] where an image has one that varies."""
    if "transparency" in image.info and image.mode in ("1", "L", "P", "RGB"):
        image = image.convert("RGBA")
    if image.getbands()[-1] not in ("A", "a"):
        return None
    alpha = np.asarray(image.getchannel(image.getbands()[-1]))
    return alpha if alpha.min() < alpha.max() else None


def _from_runs(runs: Mapping[str, Any], size: tuple[int, int], what: str) -> np.ndarray:
    width, height = size
    counts = runs.get("counts")
    if not np.array_equal(runs.get("size"), [height, width]):
        raise ValueError(f"{what}: 'size' is {runs.get('size')}; valid is [{height}, {width}]")
    try:
        counts = run_lengths(counts) if isinstance(counts, str | bytes) else counts
    except ValueError as error:
        raise ValueError(f"{what}: 'counts' are no run lengths: {error}") from error
    whole = isinstance(counts, Sequence) and all(isinstance(n, Integral) and n >= 0 for n in counts)
    if not whole or sum(counts) != width * height:
        raise ValueError(f"{what}: 'counts' are no run lengths of {width * height} pixels in all")
    # Runs go down the columns, without and with the region in turn.
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T


def _from_polygons(polygons: Sequence, size: tuple[int, int], what: str) -> np.ndarray:
    width, height = size
    parts = []
    for part in [polygons] if polygons and isinstance(polygons[0], Real) else polygons:
        try:
            points = np.asarray(part, dtype=np.float64).reshape(-1, 2)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{what}: {part!r:.60} is no polygon x, y, x, y, ...") from error
        if len(points) < 3 or not (abs(points - np.divide(size, 2)) <= np.multiply(size, 2)).all():
            raise ValueError(
                f"{what}: {part!r:.60} is no polygon of three points or more in or near the image "
                f"of {width} x {height} pixels"
            )
        parts.append(points.ravel().tolist())
    if not parts:
        return np.zeros((height, width), dtype=bool)
    return coco.decode(coco.merge(coco.frPyObjects(parts, height, width))) != 0
