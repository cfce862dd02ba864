"""ImageNet-S: one masked object an image, of one of 919 ImageNet classes.

The source is AlphaCLIP's ``imagenet_919.json``, which the release uses: a list of {image_pth,
category_word, mask}. Classes are numbered in the order of their first image; an empty mask stands
for the whole image. Class names come from a list with ImageNet's ids, such as ImageNet's own
``LOC_synset_mapping.txt``: the first of the names in a line is taken.
"""

import json
from pathlib import Path
from typing import Any

from dynrefer.datasets.annotations.fields import BadRecord, size_of, text_of, value_of
from dynrefer.datasets.annotations.json_stream import iterate_items
from dynrefer.datasets.annotations.records import region_row
from dynrefer.datasets.convert.writing import AnnotationWriter, ImageFolder
from dynrefer.files import write_text
from dynrefer.vocabulary import read_text

EXPECTED = {"images": 12_419, "regions": 12_419, "classes": 919}


def convert_imagenet_s(
    source: str | Path, class_names: str | Path, out: str | Path, images: ImageFolder
) -> AnnotationWriter:
    """Converts the annotations, and writes ``<out stem>_class.json``, the class names in order.

    Ids of images and regions are their places in the file, from 0. Raises ValueError for a class
    without a name.
    """
    source, out = Path(source), Path(out)
    names = read_class_names(class_names)
    classes: dict[str, int] = {}
    with AnnotationWriter(out, images, [source], EXPECTED) as writer:
        for position, record in enumerate(iterate_items(source)):
            with writer.dropping(f"image {position}"):
                word = text_of(record, "category_word")
                if word not in names:
                    raise ValueError(f"{class_names}: has no name for class '{word}' of {source}")
                result = {"category_word": word}
                result["category_id"] = classes.setdefault(word, len(classes))
                image = _image(record, position, images)
                region, change = _region(record, image)
                labels = {"caption": names[word], "extra_info": {"imagenet_s_result": result}}
                writer.change(f"image {position}", change)
                writer.add(image, {**region, **labels})
        writer.counts["classes"] = len(classes)
    text = json.dumps([names[word] for word in classes], indent=0, ensure_ascii=False)
    write_text(out.with_name(f"{out.stem}_class.json"), f"{text}\n")
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


def _image(record: Any, position: int, images: ImageFolder) -> dict[str, Any]:
    size = value_of(value_of(record, "mask", dict), "size", list)
    if len(size) != 2:
        raise BadRecord("wrong type", f"mask 'size' is {size}, must be [height, width]")
    width, height = size_of({"height": size[0], "width": size[1]})
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
