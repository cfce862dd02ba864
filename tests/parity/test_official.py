"""The whole model against the published code, number by number, at a tiny size."""

import numpy as np
import pytest
import torch

from dynrefer.checkpoints.translation import from_published, to_published, translate
from tests.parity.official import CASES, Case, load_case


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return load_case(request.param)


def test_forward_stages(case: Case) -> None:
    case.assert_forward_stages()


def test_captions(case: Case) -> None:
    case.assert_captions()


def test_predicted_tags(case: Case) -> None:
    predictions = case.model.eval().predict(case.batch, {"tags"})
    assert [prediction.tags for prediction in predictions] == case.description["pred_tags"]
    assert all(prediction.caption is None for prediction in predictions)


def test_losses_and_gradients(case: Case) -> None:
    model = case.model
    model.zero_grad()
    losses = case.assert_losses()
    losses.total.backward()
    gradients = {
        translate(name, case.format, to_published=True): parameter.grad
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
        translate(name, case.format, to_published=True)
        for name, parameter in case.model.named_parameters()
        if parameter.requires_grad
    }
    without_gradient = set(case.description["without_gradient"])
    assert own == set(case.description["trainable"]) - without_gradient


def test_every_published_name_is_read_or_dropped(case: Case) -> None:
    own, unknown, dropped = from_published(case.state, case.format)
    assert not unknown
    back = to_published(own, case.format)
    assert set(back) | set(dropped) == set(case.state)
    assert set(dropped.values()) <= {"the Q-Former's text branch is not used"}


def test_attribute_phrases(case: Case) -> None:
    attributes = case.model.vocabularies.attributes
    assert attributes.phrases == case.description["attribute_phrases"]
    assert attributes.phrase_counts == case.description["attribute_synonym_counts"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("name", CASES)
def test_cuda(name: str) -> None:
    case = load_case(name)
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
