import pytest
import torch

from dynrefer.models.builders import build_model
from dynrefer.models.parts import NonFiniteError, check_finite, naming_regions
from dynrefer.models.vision import VisionEncoder
from tests.tiny_model import tiny_batch


def bf16():
    return torch.autocast("cpu", torch.bfloat16)


def test_tag_and_region_text_decoder_stay_in_float32(model):
    batch = tiny_batch(model, 4)
    queries = model.encode(batch).detach()
    texts = model.text_encoder(batch.captions)
    tags = model.phrase_embeddings("tags")
    work = {
        "tag logits": lambda dtype: model.tag_decoder(queries.to(dtype), tags),
        "tag loss": lambda dtype: model.tag_decoder.loss(queries.to(dtype), tags, batch.tags),
        "similarities": lambda dtype: model.region_text_decoder(queries.to(dtype), texts),
        "pair loss": lambda dtype: model.region_text_decoder.loss(queries.to(dtype), texts),
    }
    for name, compute in work.items():
        exact = compute(torch.float32)
        with bf16():
            assert torch.equal(compute(torch.float32), exact), name
            from_half = compute(torch.bfloat16)
        assert from_half.dtype == torch.float32, name
        assert (from_half - exact).norm() / exact.norm() < 0.05, name


def test_losses_and_gradients_are_float32_in_mixed_precision(model):
    with bf16():
        assert model.encode(tiny_batch(model, 4)).isfinite().all()
        losses = model.train()(tiny_batch(model, 4))
    assert {loss.dtype for loss in vars(losses).values()} == {torch.float32}
    losses.total.backward()
    assert {parameter.grad.dtype for parameter in model.parameters()} == {torch.float32}


def test_a_tower_in_half_precision_keeps_its_own_in_mixed_precision():
    options = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    torch.manual_seed(0)
    vision = VisionEncoder("vit_tiny_patch16_224", 32, options=options)
    crops = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    exact = vision(crops)
    with bf16():
        assert not torch.equal(vision(crops), exact)
    vision.tower.to(torch.bfloat16)
    own = vision(crops)
    with torch.autocast("cpu", torch.float16):
        assert torch.equal(vision(crops), own)


def test_predictions_of_bf16_weights_are_close(configured):
    options = ["vision.freeze=true", "caption_decoder.freeze=true"]
    models = []
    for name in ("fp32", "bf16"):
        torch.manual_seed(0)
        half = [f"vision.precision={name}", f"caption_decoder.precision={name}"]
        models.append(build_model(configured(*options, *half, "from_scratch=true")).eval())
    assert models[1].vision.precision == models[1].caption_decoder.language_model.dtype
    assert models[1].vision.precision == torch.bfloat16
    batch = tiny_batch(models[0], 4)
    with torch.no_grad():
        exact, half = (model.encode(batch) for model in models)
    assert 0 < (half - exact).norm() / exact.norm() < 0.02
    for one, other in zip(*(model.predict(batch) for model in models), strict=True):
        assert one.attributes == pytest.approx(other.attributes, abs=0.02)
        assert one.class_logits == pytest.approx(other.class_logits, abs=0.02)
        assert other.score == pytest.approx(one.score, rel=0.5)


def test_rows_that_are_not_finite():
    values = torch.zeros(4, 2, 3)
    check_finite("numbers", values)
    values[1, 0, 2], values[3, 1, 0] = float("nan"), float("-inf")
    with pytest.raises(NonFiniteError, match=r"^numbers of region\(s\) \[1, 3\] are not finite$"):
        check_finite("numbers", values)
    with pytest.raises(FloatingPointError, match=r"\[1, 3\] are not finite; stop$"):
        check_finite("numbers", torch.isfinite(values), "stop")
    with pytest.raises(NonFiniteError, match=r"scores of region\(s\) \[0\]"):
        check_finite("scores", torch.tensor([float("nan"), 1.0]))


def test_positions_become_ids():
    message = r"^logits of region\(s\) \['b', 'c'\] are not finite; hint$"
    with pytest.raises(NonFiniteError, match=message), naming_regions(["a", "b", "c"]):
        raise NonFiniteError("logits", [1, 2], "hint")
    with naming_regions(["a"]):
        pass


@pytest.mark.parametrize("kind", ["t5", "llama"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_published_precisions_in_mixed_precision(configured, kind, dtype):
    """Vision in fp16 and language model in bf16, as on a GPU, whatever the run's precision."""
    sizes = "hidden_size: 32, intermediate_size: 64, num_hidden_layers: 1, num_attention_heads: 2"
    options = ["vision.freeze=true", "caption_decoder.freeze=true", "from_scratch=true"]
    if kind == "llama":
        options += ["arch=dynrefer_vicuna", "caption_decoder.config=null"]
        options += [f"caption_decoder.config={{{sizes}}}"]
    torch.manual_seed(0)
    model = build_model(configured(*options))
    batch = tiny_batch(model, 3)
    exact = model.eval()(batch)
    model.vision.tower.to(torch.float16)
    model.caption_decoder.language_model.to(torch.bfloat16)
    with torch.autocast("cpu", dtype):
        losses = model(batch)
        losses.total.backward()
        predictions = model.predict(batch)
    for name, loss in vars(losses).items():
        assert loss.item() == pytest.approx(getattr(exact, name).item(), rel=0.02), name
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(torch.isfinite(p.grad).all() for p in trained)
    assert all(0 <= prediction.score <= 1 for prediction in predictions)
