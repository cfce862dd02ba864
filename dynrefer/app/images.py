"""Images that clients send, checked before they are decoded; nothing is fetched for a client."""

import base64
import binascii
import io
import re

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from dynrefer.app.limits import RequestError, ServiceLimits
from dynrefer.processors.images import ImageError, upright
from dynrefer.processors.masks import picture_mask

# Of what PIL can open, what needs no other program and holds one picture or a few.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF")
DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,", re.IGNORECASE)
RunLengths = dict[str, object]


def content_of(text: str, field: str) -> bytes:
    """An image file's content, of base64 or of a data URL.

    Args:
        text: as the client sent it.
        field: its name in messages.

    Raises:
        RequestError: 400 for another URL, 422 for what is no base64.
    """
    if re.match(r"\s*https?://", text, re.IGNORECASE):
        raise RequestError(
            400,
            f"{field} is an address, and nothing is fetched for a client; send the file itself, "
            "as data:image/png;base64,...",
            field,
        )
    header = DATA_URL.match(text)
    try:
        content = base64.b64decode(text[header.end() if header else 0 :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(
            422, f"{field} is neither base64 nor data:image/...;base64,...: {error}", field
        ) from error
    if not content:
        raise RequestError(422, f"{field} is empty; valid is an image file", field)
    return content


def checked(content: bytes, limits: ServiceLimits, field: str) -> Image.Image:
    """An image file as PIL opens it: kind and size are known, its pixels are not decoded yet.

    Raises:
        RequestError: 422 for what is no image of a known format, 413 for too many pixels.
    """
    try:
        image = Image.open(io.BytesIO(content))
    except Image.DecompressionBombError as error:
        raise RequestError(413, f"{field}: {error}", field) from error
    except Exception as error:  # decoders raise whatever they stumble over
        raise RequestError(
            422, f"{field}: {len(content)} bytes that are no image file; valid: {_known()}", field
        ) from error
    if image.format not in FORMATS:
        raise RequestError(422, f"{field} is {image.format}; valid: {_known()}", field)
    if image.width * image.height > limits.pixels:
        raise RequestError(
            413,
            f"{field} has {image.width} x {image.height} pixels; valid are {limits.pixels} at most",
            field,
        )
    return image


def mask_of_file(content: bytes, limits: ServiceLimits, field: str) -> RunLengths:
    """The region that a mask file shows, see :func:`dynrefer.processors.masks.open_mask`.

    Raises:
        RequestError: 422 or 413, for no image, a damaged or an empty one, or too many pixels.
    """
    image = checked(content, limits, field)
    _load(image, field)
    try:
        return run_lengths_of(picture_mask(image, field))
    except ImageError as error:
        raise RequestError(422, str(error), field) from error


def opacity_mask(content: bytes, limits: ServiceLimits, field: str) -> RunLengths | None:
    """The region that an image's alpha channel shows, what is not 0; None without a channel.

    Raises:
        RequestError: 422 or 413, as :func:`checked`; 422 where all of it is 0.
    """
    image = checked(content, limits, field)
    if image.mode == "P" and "transparency" in image.info:
        _load(image, field)
        image = image.convert("RGBA")
    if image.getbands()[-1] != "A":
        return None
    _load(image, field)
    inside = np.asarray(upright(image).getchannel("A")) > 0
    if not inside.any():
        raise RequestError(
            422, f"{field}: its alpha channel is 0 everywhere; valid is one with a region", field
        )
    return run_lengths_of(inside)


def run_lengths_of(mask: np.ndarray) -> RunLengths:
    """A mask, bool [H, W], as COCO's run lengths: what waits shall be small."""
    return coco.encode(np.asfortranarray(mask, dtype=np.uint8))


def _load(image: Image.Image, field: str) -> None:
    try:
        image.load()
    except Exception as error:  # decoders raise whatever they stumble over
        raise RequestError(422, f"{field} cannot be decoded: {error}", field) from error


def _known() -> str:
    return ", ".join(name for name in FORMATS if name != "MPO")
