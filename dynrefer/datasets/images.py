"""Image files of annotated images: opened, and checked against their records."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import PIL.Image

from dynrefer.datasets.annotations.index import AnnotationIndex, ImageRecord
from dynrefer.processors.images import ImageError, open_image, orientation

LISTED_IMAGES = 5
_READERS = 16  # threads: opening files is waiting, above all over a network


def read_image(index: AnnotationIndex, record: ImageRecord) -> PIL.Image.Image:
    """Decodes an image to RGB.

    Raises ImageError for one that cannot be read, that is of another size than its record says, or
    that lies outside the folder of images.
    """
    _check_place(index, record)
    pixels = open_image(record.path)
    _check_size(pixels, record)
    return pixels


def unreadable_images(index: AnnotationIndex, positions: Iterable[int]) -> dict[int, str]:
    """Images whose header cannot be read or says another size than the record, and why.

    Whether an image can be decoded to its end shows only when it is.
    """

    def fault(position: int) -> str | None:
        record = index.image(position)
        try:
            _check_place(index, record)
            with record.path.open("rb") as file, PIL.Image.open(file) as image:
                _check_size(image, record)
        except Exception as error:  # PIL's readers raise of all kinds at broken files
            return str(error) if isinstance(error, ImageError) else f"{record.path}: {error}"
        return None

    positions = list(positions)
    with ThreadPoolExecutor(_READERS) as threads:
        found = dict(zip(positions, threads.map(fault, positions), strict=True))
    return {position: reason for position, reason in found.items() if reason}


def summary_of(faults: dict[int, str], total: int) -> str:
    """How many of so many images cannot be used, and why the first ones cannot."""
    first = "; ".join(list(faults.values())[:LISTED_IMAGES])
    more = " ..." if len(faults) > LISTED_IMAGES else ""
    return f"{len(faults):,} of {total:,} images cannot be used: {first}{more}"


def _check_size(image: PIL.Image.Image, record: ImageRecord) -> None:
    recorded = (record.width, record.height)
    if image.size == recorded:
        return
    found, said = "{} x {}".format(*image.size), "{} x {}".format(*recorded)
    message = f"{record.path} has {found} pixels, its record says {said}"
    if image.size == recorded[::-1] and orientation(image) > 4:
        turn = f"the turn that its EXIF orientation ({orientation(image)}) asks of viewers"
        need = "boxes must be those of the stored pixels, or the file must be saved upright"
        message += f"; that is its size after {turn}: {need}"
    raise ImageError(message)


def _check_place(index: AnnotationIndex, record: ImageRecord) -> None:
    """A folder that the user names is trusted; of one that a file names, no link may lead out."""
    if not isinstance(record.path, Path):
        return
    try:
        root, path = (os.path.realpath(place) for place in (index.image_root, record.path))
        if os.path.exists(path) and not os.path.isfile(path):
            raise OSError("is a folder or a device")
    except (OSError, ValueError) as error:  # a name too long, or with a zero byte
        raise ImageError(f"{record.path}: {error}") from error
    if not index.root_is_given and os.path.commonpath([root, path]) != root:
        where = f"{record.path} is a link out of {index.image_root}, to {path}"
        raise ImageError(f"{where}; set build_info.image_root to admit links")
