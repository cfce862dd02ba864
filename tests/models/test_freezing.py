import pytest
import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from dynrefer.config import ConfigError
from dynrefer.models.builders import build_model
from dynrefer.models.parts import PARTS, freeze_parts, frozen_parts, is_frozen
from tests.tiny_model import tiny_batch


@pytest.fixture
def with_text_tower(configured, config):
    """The tiny model with dropout in the language model and a text tower of its own."""
    tokenizer = config.model.caption_decoder.tokenizer

    def of(*options):
        return configured(
            "text_encoder.name=word_transformer",
            f"text_encoder.options={{tokenizer: {tokenizer}, width: 32, heads: 2}}",
            "caption_decoder.config.dropout_rate=0.5",
            *options,
        )

    return of


def parameters_of(model, part):
    return dict(model.get_submodule(PARTS[part]).named_parameters(PARTS[part]))


@pytest.mark.parametrize("part", PARTS)
def test_a_frozen_part_neither_learns_nor_leaves_evaluation_mode(with_text_tower, part):
    model = build_model(with_text_tower(f"freeze=[{part}]")).train()
    frozen = parameters_of(model, part)
    assert frozen and is_frozen(model.get_submodule(PARTS[part]))
    assert not any(module.training for module in model.get_submodule(PARTS[part]).modules())
    others = {name: p for name, p in model.named_parameters() if name not in frozen}
    assert all(parameter.requires_grad for parameter in others.values())
    assert model.training and model.qformer.training is (part != "qformer")
    model(tiny_batch(model, 4)).total.backward()
    assert all(parameter.grad is None for parameter in frozen.values())
    assert all(parameter.grad is not None for parameter in others.values())
    model.eval().train()
    assert not model.get_submodule(PARTS[part]).training


@pytest.mark.parametrize("part", ["vision", "text_encoder"])
def test_a_frozen_part_that_comes_first_has_no_graph(with_text_tower, part):
    model = build_model(with_text_tower(f"freeze=[{part}]")).train()
    batch = tiny_batch(model, 2)
    inputs = batch.crops if part == "vision" else batch.captions
    assert not getattr(model, part)(inputs).requires_grad
    freeze_parts(model, set(PARTS) - {part})
    model.get_submodule(part).requires_grad_(True)
    assert getattr(model, part)(inputs).requires_grad


def test_features_of_frozen_parts_have_no_graph(with_text_tower):
    model = build_model(with_text_tower("freeze=[vision,fusion,qformer]")).train()
    queries = model.encode(tiny_batch(model, 2))
    assert not queries.requires_grad and torch.equal(queries, model.encode(tiny_batch(model, 2)))


def test_a_part_that_trains_has_dropout(with_text_tower):
    model = build_model(with_text_tower("freeze=[vision]")).train()
    batch = tiny_batch(model, 2)
    assert not torch.equal(model.encode(batch), model.encode(batch))
    losses = [
        model.caption_decoder.loss(torch.ones(2, 4, 32), batch.control_words, batch.captions)[0]
        for _ in range(2)
    ]
    assert not torch.equal(*losses)


def test_a_frozen_text_encoder_embeds_its_phrases_once(with_text_tower, monkeypatch):
    model = build_model(with_text_tower("freeze=[text_encoder]"))
    kept = model.phrase_embeddings("tags")
    assert model.phrase_embeddings("tags") is kept
    assert build_model(with_text_tower()).text_encoder.trainable


@pytest.mark.parametrize(
    ("switch", "part"),
    [("vision.freeze", "vision"), ("caption_decoder.freeze", "language_model")],
)
def test_switches_of_single_parts_are_the_same_thing(with_text_tower, switch, part):
    by_switch = build_model(with_text_tower(f"{switch}=true")).train()
    by_name = build_model(with_text_tower(f"freeze=[{part}]")).train()
    for one, other in zip(by_switch.named_modules(), by_name.named_modules(), strict=True):
        assert one[1].training == other[1].training, one[0]
    for one, other in zip(by_switch.named_parameters(), by_name.named_parameters(), strict=True):
        assert one[1].requires_grad == other[1].requires_grad, one[0]


def test_parts_add_up(with_text_tower):
    config = with_text_tower("vision.freeze=true", "freeze=[caption_decoder,fusion]")
    assert frozen_parts(config) == {"vision", "fusion", "caption_decoder", "language_model"}
    assert frozen_parts(with_text_tower()) == set()


def test_a_frozen_part_is_held_in_its_precision(with_text_tower):
    half = ("vision.precision=bf16", "caption_decoder.precision=bf16")
    model = build_model(with_text_tower("freeze=[vision,language_model]", *half))
    assert model.vision.precision == model.caption_decoder.language_model.dtype == torch.bfloat16
    model = build_model(with_text_tower(*half))
    assert model.vision.precision == model.caption_decoder.language_model.dtype == torch.float32


def test_unknown_part(with_text_tower):
    message = "model.freeze: 'visoin' is no part; did you mean 'vision'\\? valid: caption_decoder"
    with pytest.raises(ConfigError, match=message):
        build_model(with_text_tower("freeze=[visoin]"))


@pytest.mark.parametrize("freeze", ["[]", "[language_model]", "[caption_decoder]"])
def test_checkpointing_switches_with_the_mode_frozen_or_not(with_text_tower, freeze):
    model = build_model(
        with_text_tower(f"freeze={freeze}", "caption_decoder.gradient_checkpointing=true")
    )
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    language_model = set(model.caption_decoder.language_model.modules())
    layers = [layer for layer in layers if layer in language_model]
    for mode in (True, False, True):
        model.train(mode)
        assert len(layers) == 2 and all(layer.training is mode for layer in layers)
        inner = [m for layer in layers for m in layer.modules() if m is not layer]
        assert all(module.training is (mode and freeze == "[]") for module in inner)
