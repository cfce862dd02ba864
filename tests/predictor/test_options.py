"""What can be asked for at call time: names, thresholds, beams, views; results as plain values."""

import json

import numpy as np
import pytest

from dynrefer.datasets.builders import build_view_selector
from dynrefer.models.text_encoder.kept import OTHERS_KEPT
from dynrefer.predictor import PredictionOptions, RegionPredictor
from dynrefer.views import TaskPriorSelector
from tests.predictor.conftest import BOXES, IMAGE, assert_same, noise
from tests.tiny_model import tiny_model

NAMES = {
    "tags": ["ring", " gate", "a very long name of a tag", "blue"],
    "attributes": ["striped/lined", "color:red/crimson"],
    "classes": ["Cat", "ring", "traffic_light"],
}


@pytest.fixture
def configured_with(config, tmp_path):
    """A predictor of the tiny model, some of its vocabularies being text files."""

    def of(kinds):
        own = config.copy()
        own.model.tag_threshold, own.model.generation.max_new_tokens = 0.3, 6
        for kind in kinds:
            path = tmp_path / f"{kind}.txt"
            path.write_text("\n".join(name.strip() for name in NAMES[kind]), encoding="utf-8")
            own.model.vocabulary[kind] = str(path)
        selector = build_view_selector(own.run.view_selector, own.model.num_views)
        return RegionPredictor(tiny_model(own), selector, own.model.image_size)

    return of


@pytest.mark.parametrize("kinds", [["classes"], ["attributes"], ["tags"], list(NAMES)])
def test_own_names_are_those_of_a_model_that_was_configured_so(configured_with, kinds):
    predictor = configured_with([])
    before = predictor.predict(IMAGE, BOXES)
    given = {kind: NAMES[kind] for kind in kinds}
    results = predictor.predict(IMAGE, BOXES, **given)
    expected = configured_with(kinds).predict(IMAGE, BOXES)
    assert_same(results, expected)
    for result, wanted in zip(results, expected, strict=True):
        assert result.vocabularies == wanted.vocabularies
        assert result.to_dict()["class"] == wanted.to_dict()["class"]
    assert_same(predictor.predict(IMAGE, BOXES), before)
    (many,) = predictor.predict_many([(IMAGE, BOXES)], **given)
    assert_same(many.regions, results)


def test_embeddings_of_names_are_kept_for_the_last_lists_alone(predictor, monkeypatch):
    embedded = []
    embed = predictor.model.text_encoder.embed
    monkeypatch.setattr(
        predictor.model.text_encoder, "embed", lambda names: embedded.append(names) or embed(names)
    )

    def ask(number):
        predictor.predict(IMAGE, BOXES[:1], decoders=["classes"], classes=[f"cat {number}"])

    for number in (0, 0, *range(1, OTHERS_KEPT + 1), 1, 0):
        ask(number)
    asked = [0, *range(1, OTHERS_KEPT + 1), 0]
    assert embedded == [[f"the cat {number}"] for number in asked]


def test_no_second_look_at_what_was_seen_of_the_set_image(predictor, looks):
    with pytest.raises(ValueError, match="no image is given; pass one, or call set_image before"):
        predictor.predict(boxes=BOXES)
    predictor.set_image(IMAGE)
    first = predictor.predict(boxes=BOXES[:2])
    again = predictor.predict(boxes=BOXES, num_beams=3, controls=[["red"], [], []])
    assert len(looks) == 2 and looks[1] <= 3
    assert_same(first, predictor.predict(IMAGE, BOXES[:2]))
    expected = predictor.predict(IMAGE, BOXES, num_beams=3, controls=[["red"], [], []])
    assert_same(again, expected)
    looks.clear()
    predictor.predict(boxes=BOXES, selector=TaskPriorSelector(3, [0.2, 1.0]))
    predictor.predict(boxes=BOXES, selector=TaskPriorSelector(3, [0.2, 1.0]), decoders=["classes"])
    assert len(looks) == 1
    other = noise(50, 60, 3, seed=5)
    predictor.set_image(other)
    assert_same(predictor.predict(boxes=BOXES), predictor.predict(other, BOXES))


def test_threshold_beams_and_views_of_a_call(predictor, monkeypatch):
    beams = []
    generate = predictor.model.caption_decoder.generate

    def spy(queries, words, generation):
        beams.append((generation.num_beams, generation.max_new_tokens))
        return generate(queries, words, generation)

    monkeypatch.setattr(predictor.model.caption_decoder, "generate", spy)
    selector = TaskPriorSelector(3, [0.5, 1.0])
    options = {"tag_threshold": 0, "num_beams": 4, "selector": selector}
    (result,) = predictor.predict(IMAGE, BOXES[:1], **options)
    assert result.prediction.tags == list(predictor.model.vocabularies.tags.names)
    assert result.prediction.ratios == [0, 0.5, 1] and beams == [(4, 6)]
    assert predictor.predict(IMAGE, BOXES[:1])[0].prediction.ratios != [0, 0.5, 1]
    assert beams[1:] == [(2, 6)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoders": "caption"}, "decoders is 'caption'; valid is a list of"),
        ({"decoders": 3}, "decoders is 3; valid is a list of"),
        ({"decoders": ["tag"]}, r"unknown decoders \['tag'\]; valid: caption, tags"),
        ({"tag_threshold": 2}, "tag_threshold is 2; valid is 0 to 1"),
        ({"num_beams": True}, "num_beams is True; valid is a whole number from 1 on"),
        ({"box_format": "yxyx"}, "box_format is 'yxyx'; valid is xyxy or xywh"),
        ({"classes": "cat"}, "classes is 'cat'; valid is a list of names"),
        ({"classes": {"cat": 1}}, "classes is {'cat': 1}; valid is a list of names"),
        ({"classes": 3}, "classes is 3; valid is a list of names"),
        ({"classes": []}, "classes: is empty, must hold at least one name"),
        ({"tags": ["cat", " "]}, "tags: name 1 is '', must be a name"),
        ({"tags": ["cat", 3]}, "tags: name 1 is 3, must be a name"),
        ({"classes": ["cat", "Cat"]}, "classes: name 1 repeats name 0, 'Cat'"),
        ({"classes": ["a\nb"]}, "classes: name 0 is 'a.nb', must be printable text"),
        ({"attributes": ["red//blue"]}, "attributes: name 0 is 'red//blue', must be 'synonym"),
    ],
)
def test_bad_options_come_before_the_image(predictor, options, message):
    with pytest.raises(ValueError, match=message):
        predictor.predict("no.png", BOXES, **options)
    with pytest.raises(ValueError, match=message):
        predictor.predict_many([], **options)


def test_equal_options_are_equal():
    """What a service puts into one batch."""
    one = PredictionOptions(["caption", "tags"], classes=["cat", "dog"])
    two = PredictionOptions(("tags", "caption"), classes=("cat", "dog"))
    assert one == two and hash(one) == hash(two)
    assert one != PredictionOptions(["caption", "tags"], classes=["dog", "cat"])


def test_results_are_plain_values(predictor):
    (one, bad) = next(predictor.predict_many([(IMAGE, [BOXES[0], [5, 5, 5, 9]])])).regions
    told = json.loads(json.dumps(one.to_dict()))
    prediction, known = one.prediction, predictor.model.vocabularies
    assert told["box"] == BOXES[0] and told["caption"] == prediction.caption
    assert (told["id"], told["score"], told["tags"]) == (0, prediction.score, prediction.tags)
    assert told["class"] == told["classes"][0]["name"] == prediction.class_name
    assert told["class_score"] == told["classes"][0]["score"] == max(prediction.class_logits)
    assert [len(told[name]) for name in ("classes", "attributes", "views")] == [5, 5, 3]
    assert [view["box"] for view in told["views"]] == [list(box) for box in one.view_boxes]
    best = int(np.argmax(prediction.attributes))
    kind, _, synonyms = known.attributes.names[best].partition(":")
    expected = {"name": f"{kind}: {synonyms.split('/')[0]}", "score": max(prediction.attributes)}
    assert told["attributes"][0] == expected
    assert len(one.to_dict(top=None)["classes"]) == len(known.classes)
    assert bad.to_dict() == {"box": None, "error": bad.error}
    (part,) = predictor.predict(IMAGE, BOXES[:1], decoders=["tags"])
    told = part.to_dict()
    assert told["tags"] == part.prediction.tags
    for name in ("caption", "score", "class", "class_score", "classes", "attributes"):
        assert told[name] is None
    (whole,) = predictor.predict_many([(IMAGE, BOXES[:1])], ["tags"])
    assert whole.to_dict() == {"id": 0, "error": None, "regions": [told]}
