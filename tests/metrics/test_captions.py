import pytest

from dynrefer.metrics import captions
from dynrefer.metrics.captions import caption_metrics


def test_captions_agree_with_the_published_code(reference, meteor):
    case = reference("captions.json")
    expected = case["expected"]
    metrics = caption_metrics(case["references"], case["hypotheses"], meteor)
    assert [metrics[f"BLEU_{n}"] for n in (1, 2, 3, 4)] == pytest.approx(expected["Bleu"], abs=1e-6)
    for name in ("METEOR", "ROUGE_L", "CIDEr"):
        assert metrics[name] == pytest.approx(expected[name], abs=1e-6)


def test_order_and_kind_of_ids_do_not_matter(meteor):
    references = {7: ["a red dog", "the dog"], "b": ["two cats"], 3: ["a man with a hat"]}
    predictions = {3: "a man", "b": "two cats", 7: "a dog"}
    shuffled = {key: references[key] for key in (3, 7, "b")}
    first = caption_metrics(references, predictions, meteor)
    assert caption_metrics(shuffled, predictions, meteor) == pytest.approx(first)


def test_nothing_is_printed(meteor, capfd):
    caption_metrics({1: ["a dog"], 2: ["a cat"]}, {1: "a dog", 2: ""}, meteor)
    assert capfd.readouterr() == ("", "")


def test_caption_metrics_starts_and_ends_its_own_meteor(meteor, monkeypatch):
    events = []

    class Recorded:
        def __enter__(self):
            events.append("start")
            return meteor

        def __exit__(self, *error):
            events.append("end")

    monkeypatch.setattr(captions, "Meteor", Recorded)
    assert caption_metrics({1: ["a red dog"]}, {1: "a red dog"})["METEOR"] == 1.0
    assert events == ["start", "end"]


@pytest.mark.parametrize(
    ("references", "predictions", "message"),
    [
        ({}, {}, "empty"),
        ({1: ["a"], 2: ["b"]}, {1: "a"}, r"1 of 2 references have no prediction \(e.g. \[2\]\)"),
        ({1: ["a"]}, {1: "a", "x": "b"}, r"1 of 2 predictions have no reference \(e.g. \['x'\]\)"),
        ({1: []}, {1: "a"}, r"references\[1\] is \[\]"),
        ({1: "a dog"}, {1: "a"}, r"references\[1\] is 'a dog', not a list"),
        ({1: ["..."]}, {1: "a dog"}, "no reference caption holds a word"),
    ],
)
def test_captions_that_cannot_be_scored_are_named(references, predictions, message):
    with pytest.raises(ValueError, match=message):
        caption_metrics(references, predictions)
