"""The regions to describe: from JSON lines, rows of a table, or annotation files, one by one."""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dynrefer.datasets.annotations import AnnotationIndex
from dynrefer.datasets.shards.reading import MANIFEST, ShardedImages
from dynrefer.predictor import ImageLike

MOST_OF_AN_IMAGE = 64  # regions that are asked for at once
KINDS = ("box", "boxes", "mask")


@dataclass(frozen=True)
class WantedRegion:
    """A region to describe, or a line that is none.

    Attributes:
        key: what its line of results is known by: the id, "id/0", "id/1", ... of several boxes.
        image: the name of the image; ``source`` is what is opened.
        box, mask: the region, one of them; see ``dynrefer.predictor.regions_of``.
        controls: words that steer the caption.
        turn: whether an EXIF orientation counts.
        line, error: which line cannot be used, and why.
    """

    key: int | str | None
    image: str = ""
    source: ImageLike | None = None
    box: Any = None
    mask: Any = None
    controls: tuple[str, ...] = ()
    turn: bool = True
    line: int | None = None
    error: str | None = None

    @property
    def name(self) -> Any:
        """What no two regions of a file share."""
        return ("line", self.line) if self.key is None else self.key


def images_at(path: Path) -> Path | ShardedImages:
    """A folder of images, or of shards with images.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"no folder of images or shards at {path}")
    return ShardedImages(path) if (path / MANIFEST).is_file() else path


def read_regions(path: Path, images: Path | ShardedImages) -> Iterator[WantedRegion]:
    """The regions of JSON lines (.jsonl) or of an annotation file (.json), in their order.

    A line that cannot be used has its error; bad records of an annotation file are left out and
    reported. Boxes of annotation files refer to the pixels as they are stored.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file of regions at {path}")
    return _annotated(path, images) if path.suffix == ".json" else _of_lines(path, images)


def regions_of_row(
    row: Mapping[str, Any], images: Path | ShardedImages, masks: Path
) -> list[WantedRegion]:
    """The regions of a line or row: ``id``, ``image``, and ``box``, ``boxes`` or ``mask``.

    Args:
        images: where the image lies; ``masks`` is the folder of masks that are given by a path.

    Raises:
        ValueError: a key is missing, or its value is not valid.
    """
    id_, image, controls = row.get("id"), row.get("image"), row.get("controls")
    if isinstance(id_, bool) or not isinstance(id_, int | str):
        raise ValueError(f"'id' is {id_!r:.60}; valid is a whole number or a text")
    if not image or not isinstance(image, str | bytes):
        raise ValueError(f"'image' is {image!r:.60}; valid is a file's name")
    given = [kind for kind in KINDS if row.get(kind) is not None]
    if len(given) != 1:
        raise ValueError(
            f"has {' and '.join(given) or 'no region'}; give one of {', '.join(KINDS)}"
        )
    if controls is not None and not (
        isinstance(controls, list) and all(isinstance(word, str) for word in controls)
    ):
        raise ValueError(f"'controls' is {controls!r:.60}; valid is a list of words")
    mask = row.get("mask")
    rest = {
        "image": image if isinstance(image, str) else "",
        "source": image if isinstance(image, bytes) else images / image,
        "controls": tuple(controls or ()),
    }
    if given == ["boxes"]:
        if not isinstance(row["boxes"], list):
            raise ValueError(f"'boxes' is {row['boxes']!r:.60}; valid is a list of boxes")
        return [
            WantedRegion(f"{id_}/{number}", box=box, **rest)
            for number, box in enumerate(row["boxes"])
        ]
    mask = masks / mask if isinstance(mask, str) else mask
    return [WantedRegion(id_, box=row.get("box"), mask=mask, **rest)]


def of_one_image(regions: Iterable[WantedRegion]) -> Iterator[list[WantedRegion]]:
    """Neighbouring regions of the same image together, ``MOST_OF_AN_IMAGE`` at most."""
    for _, same in itertools.groupby(regions, key=lambda region: (region.image, region.source)):
        while part := list(itertools.islice(same, MOST_OF_AN_IMAGE)):
            yield part


def _of_lines(path: Path, images: Path | ShardedImages) -> Iterator[WantedRegion]:
    seen: dict[Any, int] = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
                if not isinstance(row, dict):
                    raise ValueError("is no object")
                found = regions_of_row(row, images, path.parent)
                for region in found:
                    if region.key in seen:
                        earlier = seen[region.key]
                        raise ValueError(f"repeats the id {region.key!r} of line {earlier}")
                seen |= dict.fromkeys((region.key for region in found), number)
            except (ValueError, RecursionError) as error:
                reason = f"{path}: line {number}: {error}"
                found = [WantedRegion(None, line=number, error=reason)]
            yield from found


def _annotated(path: Path, images: Path | ShardedImages) -> Iterator[WantedRegion]:
    index = AnnotationIndex.open(path, image_root=images, bad_records="skip", require_caption=False)
    for number in range(index.num_images):
        record = index.image(number)
        for place in index.regions_of_image(number):
            region = index.region(place)
            box = np.asarray(region.box).tolist()
            yield WantedRegion(region.id, record.file_name, record.path, box, turn=False)
