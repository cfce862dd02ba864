from math import ceil

import pytest
import torch
from torch import nn

from dynrefer.config.schema import LossConfig
from dynrefer.models import dynrefer
from dynrefer.models.dynrefer import DECODERS
from dynrefer.models.text_encoder.towers import BATCH, WordFeatureEncoder
from tests.tiny_model import tiny_batch


class Refuses(nn.Module):
    """Stands for a part that must not run."""

    def forward(self, *_):
        raise AssertionError("this part ran")

    decode = loss = generate = similarity = forward


PARTS_OF = {
    "caption": {"tag_decoder", "caption_decoder"},
    "tags": {"tag_decoder"},
    "attributes": {"region_text_decoder"},
    "classes": {"region_text_decoder"},
}
FIELDS_OF = {
    "caption": {"caption", "score", "tags"},
    "tags": {"tags"},
    "attributes": {"attributes"},
    "classes": {"class_logits", "class_name"},
}


@pytest.mark.parametrize("decoder", DECODERS)
def test_only_the_decoders_asked_for_run(model, decoder):
    for part in {"tag_decoder", "caption_decoder", "region_text_decoder"} - PARTS_OF[decoder]:
        setattr(model, part, Refuses())
    batch = tiny_batch(model, 3)
    predictions = model.predict(batch, {decoder})
    optional = set().union(*FIELDS_OF.values())
    for i, prediction in enumerate(predictions):
        filled = {name for name in optional if getattr(prediction, name) is not None}
        assert filled == FIELDS_OF[decoder]
        assert (prediction.id, prediction.image_id) == (batch.ids[i], batch.image_ids[i])
        assert prediction.ratios == batch.ratios[i].tolist()


def test_prediction_records_no_graph(model):
    """Nowhere on the way; training does, everywhere."""
    parts = ["vision", "fusion", "qformer", "tag_decoder.classifier"]
    parts += ["region_text_decoder.classifier", "caption_decoder.language_model"]
    seen = {}

    def note(name):
        def hook(*_):
            seen[name] = torch.is_grad_enabled()

        return hook

    for name in parts:
        model.get_submodule(name).register_forward_hook(note(name))
    model.predict(tiny_batch(model, 2))
    assert seen == dict.fromkeys(parts, False)
    seen.clear()
    assert model(tiny_batch(model, 2)).total.requires_grad
    assert seen == dict.fromkeys(parts, True)


def test_no_decoder_at_all(model):
    predictions = model.predict(tiny_batch(model, 2), ())
    assert [prediction.caption for prediction in predictions] == [None, None]


def test_unknown_decoder(model):
    with pytest.raises(ValueError, match=r"unknown decoders \['tag'\]; valid: caption, tags"):
        model.predict(tiny_batch(model, 1), {"tag", "caption"})


def same(one, other):
    assert (one.id, one.caption, one.tags, one.class_name) == (
        other.id,
        other.caption,
        other.tags,
        other.class_name,
    )
    assert one.score == pytest.approx(other.score, rel=1e-3)
    assert one.attributes == pytest.approx(other.attributes, abs=1e-5)
    assert one.class_logits == pytest.approx(other.class_logits, abs=1e-5)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_predictions_do_not_depend_on_the_batch(model, size):
    batch = tiny_batch(model, 5)
    parts = [prediction for chunk in batch.chunks(size) for prediction in model.predict(chunk)]
    for one, other in zip(model.predict(batch), parts, strict=True):
        same(one, other)


def test_predictions_follow_from_the_scores(model):
    model.tag_threshold = 0.6
    batch = tiny_batch(model, 4)
    predictions = model.predict(batch)
    with torch.no_grad():
        queries = model.encode(batch)
        tags = model.tag_logits(queries).sigmoid() > 0.6
        similarity = model.region_text_decoder(queries, model.phrase_embeddings("attributes"))
        classes = model.class_logits(queries)
    assert 0 < tags.sum() < tags.numel()
    vocabularies = model.vocabularies
    for i, prediction in enumerate(predictions):
        chosen = [name for name, on in zip(vocabularies.tags.names, tags[i], strict=True) if on]
        assert prediction.tags == chosen
        assert prediction.class_name == vocabularies.classes.names[classes[i].argmax()]
        first = 0
        for score, count in zip(
            prediction.attributes, vocabularies.attributes.phrase_counts, strict=True
        ):
            best = similarity[i, first : first + count].sigmoid().max().item()
            assert score == pytest.approx(best, abs=1e-5)
            first += count


def test_a_tag_is_predicted_above_the_threshold_not_at_it(model, monkeypatch):
    logits = torch.zeros(2, len(model.vocabularies.tags))
    logits[1, 3] = 1e-3
    monkeypatch.setattr(model.tag_decoder, "forward", lambda *_: logits)
    model.tag_threshold = 0.5
    predictions = model.predict(tiny_batch(model, 2), {"tags"})
    assert [p.tags for p in predictions] == [[], [model.vocabularies.tags.names[3]]]


def test_control_words_come_before_the_tags(model, monkeypatch):
    batch, seen = tiny_batch(model, 2), []
    generate = model.caption_decoder.generate
    monkeypatch.setattr(
        model.caption_decoder,
        "generate",
        lambda queries, words, settings: seen.extend(words) or generate(queries, words, settings),
    )
    model.tag_threshold = 0.5
    tags = [prediction.tags for prediction in model.predict(batch, {"tags"})]
    assert tags[0]
    model.predict(batch, {"caption"}, [["blue moon", tags[0][0]], []])
    expected = ["blue moon", tags[0][0], *tags[0][1:]], tags[1]
    assert seen == [",".join(words) + "|" for words in expected]


@pytest.mark.parametrize("controls", [[], [["a"]], [["a"]] * 3])
def test_control_words_of_another_number_of_regions(model, controls):
    message = f"control words of {len(controls)} regions for 2 regions"
    with pytest.raises(ValueError, match=message):
        model.predict(tiny_batch(model, 2), {"caption"}, controls)


class CountingEncoder(WordFeatureEncoder):
    calls = 0

    def forward(self, phrases):
        self.calls += 1
        return super().forward(phrases)


def test_phrases_are_embedded_once(model):
    model.text_encoder = CountingEncoder(32)
    batch = tiny_batch(model, 2)
    for _ in range(3):
        model.predict(batch)
    lists = [
        getattr(model.vocabularies, kind).phrases for kind in ("tags", "attributes", "classes")
    ]
    batches = sum(ceil(len(phrases) / BATCH) for phrases in lists)
    assert model.text_encoder.calls == batches > 3
    for _ in range(2):
        model(batch)
    assert model.text_encoder.calls == batches + 2  # the captions of each batch


def test_phrases_of_a_trained_encoder_are_embedded_anew(model):
    model.text_encoder = CountingEncoder(32)
    model.text_encoder.weight = nn.Parameter(torch.zeros(1))
    for _ in range(3):
        model.predict(tiny_batch(model, 1), {"tags"})
    assert model.text_encoder.calls == 3


def test_kept_phrases_do_not_depend_on_the_precision_of_the_first_call(model):
    class Projected(WordFeatureEncoder):
        def __init__(self):
            super().__init__(32)
            self.projection = nn.Linear(32, 32).requires_grad_(False)

        def forward(self, phrases):
            return self.projection(super().forward(phrases))

    model.text_encoder = Projected()
    with torch.autocast("cpu", torch.bfloat16):
        kept = model.phrase_embeddings("tags")
    assert torch.equal(kept, model.text_encoder(model.vocabularies.tags.phrases))


def test_the_total_is_the_weighted_sum(model):
    batch = tiny_batch(model, 3)
    losses = model(batch)
    torch.testing.assert_close(losses.total, losses.caption + losses.tag + losses.region_text)
    model.loss_weights = LossConfig(caption=2.0, tag=0.03, region_text=0.0)
    weighted = model(batch)
    torch.testing.assert_close(weighted.caption, 2 * losses.caption)
    torch.testing.assert_close(weighted.tag, 3 * losses.tag)
    assert weighted.region_text == 0


def test_the_caption_loss_is_a_mean_over_tokens(model):
    batch = tiny_batch(model, 3)
    total, count = model.caption_decoder.loss(
        model.encode(batch), batch.control_words, batch.captions
    )
    torch.testing.assert_close(model(batch).caption, total / count)


def test_reductions_agree_in_one_process(model):
    batch = tiny_batch(model, 3)
    shared = model(batch)
    model.loss_weights = LossConfig(reduction="rank")
    for one, other in zip(vars(shared).values(), vars(model(batch)).values(), strict=True):
        torch.testing.assert_close(one, other)


def test_global_reduction_counts_the_tokens_of_all_processes(model, monkeypatch):
    """Of two processes, the other with three times the caption tokens."""
    batch = tiny_batch(model, 3)
    alone = model(batch)
    monkeypatch.setattr(dynrefer, "world_size", lambda: 2)
    monkeypatch.setattr(dynrefer, "mean_over_processes", lambda count: 2 * count)
    shared = model(batch)
    torch.testing.assert_close(shared.caption, alone.caption / 2)
    torch.testing.assert_close(shared.tag, alone.tag * 2)
    torch.testing.assert_close(shared.region_text, alone.region_text)
    model.loss_weights = LossConfig(reduction="rank")
    ranked = model(batch)
    torch.testing.assert_close(ranked.total, alone.total)


@pytest.mark.parametrize(
    ("part", "name"), [("tag_decoder", "tag"), ("region_text_decoder", "region_text")]
)
def test_a_loss_that_is_not_finite_names_itself_and_the_regions(model, part, name):
    batch = tiny_batch(model, 3)
    nn.init.constant_(getattr(model, part).classifier.weight, float("nan"))
    message = rf"^losses \(total, {name}\) of region\(s\) \[100, 101, 102\] are not finite$"
    with pytest.raises(FloatingPointError, match=message):
        model(batch)


def poison_third_region(model, part):
    """Makes what a part says of the third region infinite."""

    def hook(module, inputs, output):
        output[2] = float("inf")

    model.get_submodule(part).register_forward_hook(hook)


@pytest.mark.parametrize(
    ("part", "name"), [("fusion", "region tokens"), ("qformer", "queries"), ("vision", "vision")]
)
@pytest.mark.parametrize("method", ["forward", "predict"])
def test_features_that_are_not_finite_are_named_with_their_regions(model, part, name, method):
    poison_third_region(model, part)
    batch = tiny_batch(model, 4)
    batch.view_index = torch.tensor([[0, 1, 3], [1, 0, 3], [2, 0, 1], [3, 1, 2]])
    regions = r"\[102, 103\]" if part == "vision" else r"\[102\]"
    with torch.no_grad(), pytest.raises(FloatingPointError, match=f"^{name}.* {regions} are not"):
        getattr(model, method)(batch)


@pytest.mark.parametrize(
    ("decoder", "part", "name"),
    [
        ("tags", "tag_decoder", "tag logits"),
        ("attributes", "region_text_decoder", "attribute similarities"),
        ("classes", "region_text_decoder", "class similarities"),
        ("caption", "caption_decoder.projection", "caption logits"),
    ],
)
def test_predictions_that_are_not_finite_are_named_with_their_regions(model, decoder, part, name):
    poison_third_region(model, part)
    with pytest.raises(FloatingPointError, match=rf"^{name} of region\(s\) \[102\] are not"):
        model.predict(tiny_batch(model, 4), {decoder})


def test_shared_crops_are_as_good_as_copies(model):
    batch = tiny_batch(model, 4)
    copies = tiny_batch(model, 4)
    copies.crops = batch.crops[batch.view_index].flatten(0, 1)
    copies.view_index = torch.arange(12).view(4, 3)
    assert len(batch.crops) < 12
    with torch.no_grad():
        torch.testing.assert_close(model.encode(batch), model.encode(copies), rtol=1e-4, atol=1e-4)


def test_every_trainable_parameter_gets_a_gradient(model):
    model.train()(tiny_batch(model, 4)).total.backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not without
