"""Words of captions by kind, on a tiny ground truth."""

import pytest

from dynrefer.tasks.caption_words import CaptionWords

FACTS = {
    10: {"figure": "star", "colour": "red", "place": "top left", "ground": "grass"},
    11: {"figure": "ring", "colour": "blue", "relation": "left", "neighbour": "red star"},
    12: {"figure": "ring", "colour": "red"},
}


@pytest.fixture
def truth(make_truth):
    def give(annotation):
        annotation["extra_info"] = {"facts": FACTS.get(annotation["id"])}

    return make_truth(give)


def predictions(*captions):
    return {id_: {"id": id_, "caption": text} for id_, text in zip(FACTS, captions, strict=False)}


def test_said_and_right_are_shares_of_what_is_known(truth):
    metrics = CaptionWords().evaluate(
        predictions(
            "a red star on the sand",
            "a blue circle left of a red ring at the top",  # its place is not known
            "a small green ring",
        ),
        truth,
    )
    expected = {
        "figure said": 100,
        "figure right": 200 / 3,
        "colour said": 100,
        "colour right": 200 / 3,
        "place said": 0,
        "place right": 0,
        "ground said": 100,
        "ground right": 0,
        "relation said": 100,
        "relation right": 100,
        "neighbour said": 100,
        "neighbour right": 0,
    }
    assert metrics.pop("right") == pytest.approx((200 / 3 + 200 / 3 + 100) / 6)
    assert metrics == pytest.approx(expected)


def test_a_region_alone(truth):
    task = CaptionWords()
    said = predictions("a red ring on the grass", "", "x")
    assert task.region_scores(said, truth) == {10: 0.5, 11: 0, 12: 0}
    first = next(truth.regions())
    shown = task.region_words(said, first, truth)
    assert shown.said == ["figure: ring", "colour: red", "ground: grass"]
    assert shown.true[:2] == ["figure: star", "colour: red"]


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ([], r"facts is \[\], must be an object"),
        ({"weight": "3 kg"}, "facts.weight is '3 kg'; valid are texts for figure, colour"),
        ({"figure": 3}, "facts.figure is 3; valid are texts"),
    ],
)
def test_wrong_facts_are_named(make_truth, facts, message):
    truth = make_truth(lambda annotation: annotation["extra_info"].update(facts=facts))
    with pytest.raises(ValueError, match=rf"region 10: extra_info\.{message}"):
        CaptionWords().check(truth)


def test_a_file_without_facts(make_truth):
    with pytest.raises(ValueError, match="no region has extra_info.facts"):
        CaptionWords().check(make_truth())
