"""The whole model against the published code, number by number, at a tiny size."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dynrefer.models import checkpoints
from tests.parity.official import Case, load_case

FOLDER = Path(__file__).parents[1] / "data" / "parity"
TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=["official_tiny", "official_tiny_vicuna"])
def case(request: pytest.FixtureRequest) -> Case:
    return load_case(FOLDER / request.param)


def assert_close(actual: torch.Tensor, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=0, atol=TOLERANCE)


def test_forward_stages(case: Case) -> None:
    model, batch = case.model.eval(), case.batch
    vision_tokens = model.vision(batch.crops)
    region_tokens = model.fusion(vision_tokens, batch.view_index, batch.region_boxes)
    queries = model.qformer(region_tokens)
    assert_close(vision_tokens, case.expected["vision_tokens"])
    assert_close(region_tokens, case.expected["region_tokens"])
    assert_close(queries, case.expected["queries"])
    assert_close(model.tag_logits(queries), case.expected["tag_logits"])
    assert_close(model.attribute_scores(queries), case.expected["attribute_scores"])
    assert_close(model.class_logits(queries), case.expected["class_logits"])


def test_captions(case: Case) -> None:
    model, batch = case.model.eval(), case.batch
    with torch.no_grad():
        captions = model.caption_decoder.generate(
            model.encode(batch), batch.control_words, model.generation
        )
    np.testing.assert_array_equal(captions.token_ids.numpy(), case.expected["caption_ids"])
    assert captions.texts == case.description["captions"]
    np.testing.assert_allclose(captions.scores, case.expected["caption_scores"], rtol=1e-4)


def test_predicted_tags(case: Case) -> None:
    predictions = case.model.eval().predict(case.batch, {"tags"})
    assert [prediction.tags for prediction in predictions] == case.description["pred_tags"]
    assert all(prediction.caption is None for prediction in predictions)


def test_losses_and_gradients(case: Case) -> None:
    model = case.model.train()
    model.zero_grad()
    losses = model(case.batch)
    for name, key in (
        ("total", "loss_total"),
        ("caption", "loss_llm"),
        ("tag", "loss_tag"),
        ("region_text", "loss_att"),
    ):
        assert getattr(losses, name).item() == pytest.approx(float(case.expected[key]), abs=1e-4)
    losses.total.backward()
    gradients = {
        checkpoints.translate(name, case.rules, to_published=True): parameter.grad
        for name, parameter in model.named_parameters()
    }
    assert len(case.description["gradients"]) > 150
    for name, (norm, total) in case.description["gradients"].items():
        gradient = gradients[name]
        tolerance = max(1e-3 * norm, 1e-6)
        assert gradient.norm().item() == pytest.approx(norm, abs=tolerance), name
        assert gradient.sum().item() == pytest.approx(total, abs=max(10 * tolerance, 1e-5)), name


def test_trainable_parameters(case: Case) -> None:
    own = {
        checkpoints.translate(name, case.rules, to_published=True)
        for name, parameter in case.model.named_parameters()
        if parameter.requires_grad
    }
    without_gradient = set(case.description["without_gradient"])
    assert own == set(case.description["trainable"]) - without_gradient


def test_every_published_name_is_read_or_dropped(case: Case) -> None:
    own, unknown, dropped = checkpoints.from_published(case.state, case.rules)
    assert not unknown
    back = checkpoints.to_published(own, case.rules)
    assert set(back) | set(dropped) == set(case.state)
    assert set(dropped.values()) <= {"Q-Former text branch"}


def test_attribute_phrases(case: Case) -> None:
    attributes = case.model.vocabularies.attributes
    assert attributes.phrases == case.description["attribute_phrases"]
    assert attributes.phrase_counts == case.description["attribute_synonym_counts"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("name", ["official_tiny", "official_tiny_vicuna"])
def test_cuda(name: str) -> None:
    case = load_case(FOLDER / name)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    model, batch = case.model.eval().cuda(), case.batch.to("cuda")
    with torch.no_grad():
        queries = model.encode(batch)
        exact = model.tag_logits(queries)
        np.testing.assert_allclose(queries.cpu().numpy(), case.expected["queries"], atol=1e-3)
        np.testing.assert_allclose(exact.cpu().numpy(), case.expected["tag_logits"], atol=1e-3)
        for dtype, tolerance in ((torch.bfloat16, 0.15), (torch.float16, 0.03)):
            with torch.autocast("cuda", dtype):
                logits = model.tag_logits(model.encode(batch)).float()
                captions = model.caption_decoder.generate(
                    model.encode(batch), batch.control_words, model.generation
                )
            assert torch.isfinite(logits).all() and np.isfinite(captions.scores).all()
            assert (logits - exact).abs().max() < tolerance
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
            losses = model.train()(batch)
        expected = float(case.expected["loss_total"])
        tolerance = 1e-3 if dtype == torch.float32 else 0.05 * expected
        assert losses.total.item() == pytest.approx(expected, abs=tolerance)
