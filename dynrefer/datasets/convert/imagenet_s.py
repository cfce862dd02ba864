"""ImageNet-S: one masked object an image, of one of 919 ImageNet classes.

The source is AlphaCLIP's ``imagenet_919.json``, which the release uses: a list of {image_pth,
category_word, mask}. Classes are numbered in the order of their first image; an empty mask stands
for the whole image. Class names come from a list with ImageNet's ids, such as ImageNet's own
``LOC_synset_mapping.txt``: the first of the names in a line is taken.
"""

import json
from pathlib import Path
from typing import Any

from dynrefer.datasets.annotations.records import BadRecord, region_row
from dynrefer.datasets.convert.source_records import (
    finite_numbers,
    read_records,
    text_of,
    value_of,
)
from dynrefer.datasets.convert.writing import AnnotationWriter, ImageFolder
from dynrefer.files import write_text
from dynrefer.vocabulary import read_text

EXPECTED = {"images": 12_419, "regions": 12_419, "classes": 919}


def convert_imagenet_s(
    source: str | Path, class_names: str | Path, out: str | Path, images: ImageFolder
) -> AnnotationWriter:
    """Converts the annotations, and writes ``<out stem>_class.json``, the class names in order.

    Ids of images and regions are their places in the file, from 0. Returns the finished writer.

    Raises FileNotFoundError and ValueError, naming file and place, for files that are not there or
    of another kind, and for a class without a name.
    """
    source, out = Path(source), Path(out)
    names = read_class_names(class_names)
    classes: dict[str, int] = {}
    with AnnotationWriter(out, images, EXPECTED) as writer:
        for position, record in enumerate(read_records(source)):
            label = f"image {position}"
            try:
                word = text_of(record, "category_word")
                if word not in names:
                    raise ValueError(f"{class_names}: has no name for class '{word}' of {source}")
                number = classes.setdefault(word, len(classes))
                image = _image(record, position, images)
                region, change = _region(record, image)
            except BadRecord as error:
                writer.drop(label, error)
                continue
            if change:
                writer.change(label, change)
            result = {"category_word": word, "category_id": number}
            extra_info = {"imagenet_s_result": result}
            writer.add(image, {**region, "caption": names[word], "extra_info": extra_info})
        writer.counts["classes"] = len(classes)
    write_class_names(out.with_name(f"{out.stem}_class.json"), [names[word] for word in classes])
    return writer


def read_class_names(path: str | Path) -> dict[str, str]:
    """Names by ImageNet id from lines "n01440764 tench, Tinca tinca"; ValueError for others."""
    names = {}
    for number, line in enumerate(read_text(path, "--class-names").splitlines(), start=1):
        word, _, synonyms = line.strip().replace("\t", " ").partition(" ")
        name = synonyms.split(",")[0].strip()
        if line.strip() and not name:
            raise ValueError(f"{path}: line {number} is {line!r}, must be an id and its names")
        if name:
            names[word] = name
    return names


def write_class_names(path: Path, names: list[str]) -> None:
    """Writes a class vocabulary, a JSON list, in one step."""
    text = json.dumps(names, indent=0, ensure_ascii=False) + "\n"
    write_text(path, text)


def _image(record: Any, position: int, images: ImageFolder) -> dict[str, Any]:
    size = value_of(value_of(record, "mask", dict), "size", list)
    height, width = map(int, finite_numbers(size, "size", 2))
    if width < 1 or height < 1:
        raise BadRecord("image has no area", f"{width} x {height} pixels")
    name = images.find(text_of(record, "image_pth"))
    return {"id": position, "file_name": name, "width": width, "height": height}


def _region(record: Any, image: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    identity, size = image["id"], (image["width"], image["height"])
    region = {"id": identity, "image_id": identity, "bbox": [0, 0, *size]}
    masked = {**region, "segmentation": record["mask"]}
    try:
        box = region_row(masked, [identity, image["file_name"], *size], False)[2]
    except BadRecord as error:
        if error.reason != "box has no area":
            raise
        return region, "empty mask, the whole image instead"
    return {**masked, "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]]}, None
