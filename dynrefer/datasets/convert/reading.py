"""What the converters of COCO-style files share: boxes, images, categories, regions by record."""

from collections.abc import Callable, Container, Iterable
from pathlib import Path
from typing import Any

from dynrefer.datasets.annotations.fields import (
    BadRecord,
    Identity,
    finite_numbers,
    identity_of,
    label_of,
    labelled,
    size_of,
    text_of,
    value_of,
)
from dynrefer.datasets.annotations.json_stream import iterate_items, read_members
from dynrefer.datasets.convert.writing import AnnotationWriter, Image, ImageFolder

Box = list[float]
PlacedBox = tuple[Box, str | None]  # a box in its image, and what that changed, if anything
NamesOf = Callable[[Any], tuple[str, ...]]  # where the image of a record may lie in its folder


def box_of(record: Any, image: Image, box_format: str = "xywh") -> PlacedBox:
    """The ``bbox`` of a record (xywh or xyxy) as xywh, clipped to its image.

    Raises BadRecord for a box without area or wholly outside.
    """
    box = x, y, width, height = finite_numbers(value_of(record, "bbox", list), "bbox", count=4)
    if box_format == "xyxy":
        box = x, y, width, height = [x, y, width - x, height - y]
    if width <= 0 or height <= 0:
        raise BadRecord("box has no area", f"{box} (x, y, width, height)")
    check_overlap(box, image)
    right, bottom = x + width, y + height
    if x >= 0 and y >= 0 and right <= image["width"] and bottom <= image["height"]:
        return box, None
    x, y = max(x, 0), max(y, 0)
    box = [x, y, min(right, image["width"]) - x, min(bottom, image["height"]) - y]
    return box, "box clipped to its image"


def check_overlap(box: Box, image: Image) -> None:
    """Raises BadRecord for a box xywh wholly outside its image."""
    x, y, width, height = box
    beyond = x >= image["width"] or y >= image["height"]
    if beyond or x + max(width, 0) <= 0 or y + max(height, 0) <= 0:
        size = f"{image['width']} x {image['height']} pixels"
        raise BadRecord("box outside its image", f"{box} (x, y, width, height) in {size}")


class ImageTable(dict[Identity, Image | BadRecord]):
    """Images by id; in the place of one that was left out, why."""

    def place(
        self, identity: Identity, record: Any, folder: ImageFolder, names_of: NamesOf
    ) -> None:
        """Adds an image of a size, found in a folder; BadRecord for one that cannot be used."""
        if identity in self:
            raise BadRecord("duplicate id", "an earlier image has it")
        try:
            width, height = size_of(record)
            name = folder.find(*names_of(record))
            self[identity] = {"id": identity, "file_name": name, "width": width, "height": height}
        except BadRecord as error:
            self[identity] = error
            raise

    def image(self, identity: Identity) -> Image:
        """The image of an id; BadRecord for an id without an image and for an image left out."""
        if identity not in self:
            raise BadRecord("unknown image id", f"{identity!r} is not among the images")
        image = self[identity]
        if isinstance(image, BadRecord):
            raise BadRecord("image left out", f"image {identity!r}: {image}")
        return image


def file_name_of(record: Any) -> tuple[str, ...]:
    """Where an image may lie under its folder, by its ``file_name``."""
    return (text_of(record, "file_name"),)


def read_images(
    source: Path,
    writer: AnnotationWriter,
    names_of: NamesOf = file_name_of,
    wanted: Container[Identity] | None = None,
) -> ImageTable:
    """The images of a COCO-style file; those that cannot be used are dropped and reported.

    ``wanted`` are the ids that matter, where not all do.
    """
    table = ImageTable()
    for label, record in labelled("image", iterate_items(source, "images")):
        with writer.dropping(label):
            identity = identity_of(record)
            if wanted is None or identity in wanted:
                table.place(identity, record, writer.images, names_of)
    return table


def convert_records(
    writer: AnnotationWriter,
    source: Path,
    labels_of: Callable[[Any], dict[str, Any]],
    box_of: Callable[[Any, Image], PlacedBox] = box_of,
    names_of: NamesOf = file_name_of,
    detections: Iterable[Any] | None = None,
) -> AnnotationWriter:
    """Writes a region for each annotation of a COCO-style file, and returns the finished writer.

    A region has its box in its image and what ``labels_of`` says of it. ``detections`` take the
    place of the annotations; they have no ids and are counted from 1, those dropped too.
    """
    records = iterate_items(source, "annotations") if detections is None else detections
    with writer:
        table = read_images(source, writer, names_of)
        for number, (label, record) in enumerate(labelled("annotation", records), start=1):
            with writer.dropping(label):
                image = table.image(identity_of(record, "image_id"))
                identity = identity_of(record) if detections is None else number
                box, change = box_of(record, image)
                region = {"id": identity, "image_id": image["id"], "bbox": box, **labels_of(record)}
                writer.change(label, change)
                writer.add(image, region)
        if detections is not None:
            usable = sum(isinstance(image, dict) for image in table.values())
            writer.counts["images without a box"] = usable - writer.counts["images"]
    return writer


def read_other_members(source: Path) -> dict[str, Any]:
    """Members of a COCO-style file but its images and annotations."""
    return read_members(source, without=("images", "annotations"))


def categories_of(members: dict[str, Any], source: Path) -> list[dict[str, Any]]:
    """The ``categories`` among the members of a file.

    Raises ValueError where it has none, or one without id or name, or an id twice.
    """
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
