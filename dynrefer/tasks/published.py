"""The numbers that the authors published, to be printed beside a result."""

SOURCE = "published: FLAN-T5-XL, 3 views, image prior (arXiv 2405.16071, callsys/DynRefer)"

# (dataset, split, task) of this project's configurations -> metric -> number, in percent. VG 1.0,
# VG-COCO and predicted boxes are in the paper's table alone, and so are not here.
_NUMBERS: dict[tuple[str, str, str], dict[str, float]] = {
    ("vg1.2", "test", "dense_captioning"): {"mAP": 47.6},
    ("vg_reg", "test", "region_captioning"): {"METEOR": 21.2, "CIDEr": 190.5},
    ("refcocog", "val", "region_captioning"): {"METEOR": 18.1, "CIDEr": 115.3},
    ("ovad", "val", "attribute_detection"): {"mAP all": 29.2},
    ("coco", "val", "region_recognition"): {"accuracy": 91.8},
}


def published_numbers(dataset: str, split: str, task: str) -> dict[str, float]:
    """Metrics of a task on a whole split of annotated boxes, by name; none where none is known."""
    return dict(_NUMBERS.get((dataset, split, task), {}))
