import json

import pytest

from dynrefer.datasets.annotations import AnnotationIndex
from dynrefer.tasks.ground_truth import GroundTruth
from dynrefer.vocabulary import (
    Attribute,
    AttributeVocabulary,
    ClassVocabulary,
    TagVocabulary,
    Vocabularies,
)

VOCABULARIES = Vocabularies(
    TagVocabulary(("dog", "cat")),
    AttributeVocabulary(
        (
            Attribute(0, "color:red", "color", "appearance", "is", "head"),
            Attribute(1, "size:big/large", "size", "appearance", "is", "tail"),
        )
    ),
    ClassVocabulary(("dog", "cat", "Bird")),
)
# id, image, box xywh, caption, labels of the two attributes, class
REGIONS = [
    (10, 1, [0, 0, 20, 20], "a red dog", [1, 0], "dog"),
    (11, 1, [30, 30, 30, 20], "a big cat", [0, 1], "cat"),
    (12, 2, [5, 5, 40, 40], "a bird", [1, -1], "Bird"),
    (13, 2, [50, 0, 14, 30], "a dog", [0, 1], "dog"),
]


@pytest.fixture
def make_truth(tmp_path):
    """Ground truth of REGIONS; ``change`` alters each annotation before it is written."""

    def make(change=lambda annotation: None, **options):
        annotations = []
        for id_, image_id, box, caption, labels, category in REGIONS:
            extra = {
                "ovad_result": {"att_vec": list(labels)},
                "coco_result": {"category": category},
            }
            annotation = {
                "id": id_,
                "image_id": image_id,
                "bbox": list(box),
                "caption": caption,
                "extra_info": extra,
            }
            change(annotation)
            annotations.append(annotation)
        images = [{"id": i, "file_name": f"{i}.png", "width": 64, "height": 64} for i in (1, 2, 3)]
        path = tmp_path / f"truth{len(list(tmp_path.iterdir()))}.json"
        path.write_text(json.dumps({"images": images, "annotations": annotations}))
        return GroundTruth(AnnotationIndex.open(path), VOCABULARIES, **options)

    return make


@pytest.fixture
def perfect():
    """Predictions that say what the ground truth says."""
    names = VOCABULARIES.classes.names
    return {
        id_: {
            "id": id_,
            "caption": caption,
            "score": 1 - id_ / 100,
            "attributes": [0.9 if label == 1 else 0.1 for label in labels],
            "class_logits": [2.0 if name == category else 0.0 for name in names],
        }
        for id_, _, _, caption, labels, category in REGIONS
    }
