"""Image files of any format: decoded whole or refused by name, upright, as 8-bit RGB."""

import warnings
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

import numpy as np
from PIL import Image, PngImagePlugin

# A long comment or colour profile is no reason to refuse the pixels; PIL allows 1 MiB of it.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 2**26
# Oddities that do not keep a file from being decoded; what does is raised.
warnings.filterwarnings("ignore", module=r"PIL\.")

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(ValueError):
    """An image file that is missing, damaged or of a kind that cannot be read as 8-bit RGB."""


@runtime_checkable
class ImageFile(Protocol):
    """What an image is read from: a path, or an image inside a shard."""

    def open(self, mode: str) -> BinaryIO:
        """The file's content; FileNotFoundError where it is missing."""


def open_image(path: str | ImageFile, turn: bool = False) -> Image.Image:
    """Decodes an image file to RGB; see :func:`to_rgb` for the other modes.

    The pixels stay as they are stored, because annotations refer to those, as published; ``turn``
    has them :func:`upright`, as viewers show them. Raises ImageError as :func:`decoded` does.
    """
    image = decoded(path)
    try:
        return to_rgb(upright(image) if turn else image)
    except ImageError as error:
        raise ImageError(f"image file {path} cannot be used: {error}") from error


def decoded(path: str | ImageFile, frames: int | None = None) -> Image.Image:
    """The first frame of an image file, in the mode in which it is stored.

    Raises ImageError for a file that is missing, truncated, no image, too large for PIL's
    decompression guard, or that has not so many ``frames`` (None for any number).
    """
    source = Path(path) if isinstance(path, str) else path
    try:
        if isinstance(source, Path) and source.exists() and not source.is_file():
            raise OSError("it is a folder or a device")
        with source.open("rb") as file, Image.open(file) as image:
            if frames is not None and (found := getattr(image, "n_frames", 1)) != frames:
                raise ValueError(f"it has {found} frames, must have {frames}")
            image.load()
            return image
    except FileNotFoundError as error:
        raise ImageError(f"image file {path} does not exist") from error
    except Exception as error:  # decoders raise whatever they stumble over
        raise ImageError(f"image file {path} cannot be decoded: {error}") from error


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) to 8; 1 where there is none that can be read."""
    try:
        value = image.getexif().get(0x0112)
    except Exception:  # a damaged note, of which viewers take no notice either
        return 1
    return value if isinstance(value, int) and value in _TURNS else 1


def upright(image: Image.Image) -> Image.Image:
    """The image as every viewer shows it: turned by its EXIF orientation, which it then lacks."""
    if orientation(image) == 1:
        return image
    turned = image.transpose(_TURNS[orientation(image)])
    for key in ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"):
        turned.info.pop(key, None)
    return turned


def to_rgb(image: Image.Image) -> Image.Image:
    """The image as 8-bit RGB (itself where it is that already).

    Grey and palette images are spread over three channels, transparency is dropped, CMYK is
    converted by PIL without a colour profile, and 16-bit grey keeps its high byte. Raises
    ImageError for no pixels, or a mode that has no defined white (32-bit integers, floats).
    """
    if 0 in image.size:
        raise ImageError(f"{image.width} x {image.height} pixels; valid is one or more a side")
    if image.mode.startswith("I;16"):
        # PIL's own conversion turns every value above 255 into white.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ImageError(f"pixels of mode '{image.mode}'; valid are 8-bit images and 16-bit grey")
    try:
        return image if image.mode == "RGB" else image.convert("RGB")
    except Exception as error:  # a file that was opened and not read yet, or a rare mode
        raise ImageError(f"pixels of mode '{image.mode}' cannot be read: {error}") from error
