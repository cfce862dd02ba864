"""Small annotation files and images in the release's format, for the tests of this folder."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 64, 48


def image_record(identity, **changes):
    return {
        "id": identity,
        "file_name": f"{identity}.png",
        "width": WIDTH,
        "height": HEIGHT,
        **changes,
    }


def region_record(identity, image_id, bbox=(8, 6, 20, 16), **changes):
    caption = f"A red dog no. {identity}"
    record = {"id": identity, "image_id": image_id, "bbox": list(bbox), "caption": caption}
    return {**record, "extra_info": {}, **changes}


def write_annotations(
    folder: Path, images: list, annotations: list, name: str = "train.json", **sections
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    content = {"images": images, "annotations": annotations, **sections}
    path.write_text(json.dumps({"dataset": {"image_root": "images"}, **content}))
    return path


def write_images(folder: Path, identities: list) -> None:
    """Noise, a different one for each image, in ``folder``/images."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for seed, identity in enumerate(identities):
        pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{identity}.png")
