"""What the converters of COCO-style files share: images, categories and annotations by record."""

from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any

from dynrefer.datasets.annotations.records import BadRecord, Identity
from dynrefer.datasets.convert.source_records import (
    Image,
    identity_of,
    label_of,
    read_other_members,
    read_records,
    size_of,
    text_of,
    value_of,
)
from dynrefer.datasets.convert.writing import AnnotationWriter, ImageFolder

# Of an image that was left out, why.
ImageTable = dict[Identity, Image | BadRecord]
RegionOf = Callable[[Any, Image, int], tuple[dict[str, Any], str | None]]


def file_name_of(record: Any) -> tuple[str, ...]:
    """Where an image may lie under its folder, by its ``file_name``."""
    return (text_of(record, "file_name"),)


def read_images(
    source: Path,
    images: ImageFolder,
    writer: AnnotationWriter,
    names_of: Callable[[Any], tuple[str, ...]] = file_name_of,
    wanted: Container[Identity] | None = None,
) -> ImageTable:
    """The images of a COCO-style file by id; those that cannot be used are dropped and reported.

    ``wanted`` are the ids that matter, where not all do.

    Raises ValueError where the file is no COCO-style JSON.
    """
    table: ImageTable = {}
    for position, record in enumerate(read_records(source, "images")):
        label = label_of("image", record, position)
        try:
            identity = identity_of(record)
            if wanted is not None and identity not in wanted:
                continue
            if identity in table:
                raise BadRecord("duplicate id", "an earlier image has it")
        except BadRecord as error:
            writer.drop(label, error)
            continue
        try:
            width, height = size_of(record)
            name = images.find(*names_of(record))
            table[identity] = {"id": identity, "file_name": name, "width": width, "height": height}
        except BadRecord as error:
            table[identity] = error
            writer.drop(label, error)
    return table


def image_of(table: ImageTable, identity: Identity) -> Image:
    """The image of an id; BadRecord for an id without an image and for an image left out."""
    if identity not in table:
        raise BadRecord("unknown image id", f"{identity!r} is not among the images")
    image = table[identity]
    if isinstance(image, BadRecord):
        raise BadRecord("image left out", f"image {identity!r}: {image}")
    return image


def count_usable(table: ImageTable) -> int:
    """How many images were not left out."""
    return sum(isinstance(image, dict) for image in table.values())


def convert_regions(
    records: Iterator[Any],
    table: ImageTable,
    writer: AnnotationWriter,
    region_of: RegionOf,
) -> None:
    """Adds the region that ``region_of`` makes of each record, its image and its position.

    It gives the region and what was changed about it, if anything was.
    """
    for position, record in enumerate(records):
        label = label_of("annotation", record, position)
        try:
            image = image_of(table, identity_of(record, "image_id"))
            region, change = region_of(record, image, position)
        except BadRecord as error:
            writer.drop(label, error)
            continue
        if change:
            writer.change(label, change)
        writer.add(image, region)


def read_categories(source: Path) -> list[dict[str, Any]]:
    """The ``categories`` of a COCO-style file.

    Raises ValueError where it has none, or one without id or name, or an id twice.
    """
    return checked_categories(read_other_members(source), source)


def checked_categories(members: dict[str, Any], source: Path) -> list[dict[str, Any]]:
    """The ``categories`` among the members of a file; ValueError as in ``read_categories``."""
    categories = members.get("categories")
    if not isinstance(categories, list) or not categories:
        raise ValueError(f"{source}: needs 'categories'; other members: {sorted(members)}")
    ids = set()
    for position, category in enumerate(categories):
        try:
            identity = identity_of(category)
            text_of(category, "name")
            if identity in ids:
                raise BadRecord("duplicate id", "an earlier category has it")
        except BadRecord as error:
            label = label_of("category", category, position)
            raise ValueError(f"{source}: {label}: {error}") from error
        ids.add(identity)
    return categories


def category_of(record: Any, categories: dict[Identity, Any]) -> Any:
    """What ``categories`` has for a record's ``category_id``."""
    identity = value_of(record, "category_id", (int, str))
    if identity not in categories:
        raise BadRecord("unknown category id", f"{identity!r}")
    return categories[identity]
