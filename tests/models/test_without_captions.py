"""Models that are built without their language model, for tasks that write no captions."""

import pytest
import torch

from dynrefer.checkpoints.formats import FORMATS
from dynrefer.checkpoints.loading import open_source
from dynrefer.checkpoints.translation import to_published
from dynrefer.models.builders import build_model
from dynrefer.registry import registry
from tests.tiny_model import tiny_batch, tiny_model

NOWHERE = ("caption_decoder.config=null", "caption_decoder.language_model=no/such/model")
WITHOUT = ("tags", "attributes", "classes")


def sources(model, folder):
    """The model's weights in files of every kind that holds a language model's."""
    alias = "caption_decoder.language_model."
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for part in ("encoder", "decoder"):
        state[f"{alias}{part}.embed_tokens.weight"] = state[f"{alias}shared.weight"]
    torch.save({"model": to_published(state, FORMATS["dynrefer_t5"])}, folder / "published.pth")
    model.save_pretrained(folder / "own")
    return folder / "published.pth", folder / "own"


@pytest.mark.parametrize("kind", [0, 1], ids=["published", "own folder"])
def test_the_other_decoders_say_the_same(configured, config, tmp_path, kind):
    whole = tiny_model(config, seed=3)
    path = sources(whole, tmp_path)[kind]
    model = build_model(configured(*NOWHERE, f"pretrained={path}"), captions=False).eval()
    names = {name for name, _ in model.named_parameters()}
    expected = {name for name, _ in whole.named_parameters()}
    assert expected - names == {name for name in expected if name.startswith("caption_decoder.")}
    assert len(expected - names) > 5
    batch = tiny_batch(whole, 4)
    for one, other in zip(
        model.predict(batch, WITHOUT), whole.predict(batch, WITHOUT), strict=True
    ):
        assert one == other


@pytest.mark.parametrize("key", ["pretrained", "later"])
def test_files_of_nothing_but_a_caption_decoder(configured, tmp_path, caplog, key):
    """Adapters beside the weights of the rest, as run.load_ckpt_path may list them."""
    adapted = build_model(
        configured("caption_decoder.freeze=true", "caption_decoder.lora={rank: 2}")
    )
    adapted.caption_decoder.save_adapters(tmp_path / "adapters")
    chosen = (f"pretrained={tmp_path}/adapters",) if key == "pretrained" else ()
    model = build_model(configured(*NOWHERE, *chosen), captions=False)
    report = open_source(tmp_path / "adapters").load(model)
    assert not report.loaded and len(report.dropped) > 1
    assert set(report.dropped.values()) == set(model.caption_decoder.left_out.values())


def test_files_that_hold_nothing_of_the_model_are_still_refused(configured, config, tmp_path):
    vision = {name: t for name, t in tiny_model(config).state_dict().items() if "vision" in name}
    torch.save({"model": {f"x.{name}": tensor for name, tensor in vision.items()}}, tmp_path / "x")
    with pytest.raises(ValueError):
        build_model(configured(f"pretrained={tmp_path}/x"), captions=False)


def test_frozen_parts_of_a_language_model_that_is_not_there(configured):
    model = build_model(configured("freeze=[language_model,fusion]"), captions=False)
    assert not any(p.requires_grad for p in model.fusion.parameters())
    assert any(p.requires_grad for p in model.qformer.parameters())


def test_what_such_a_model_cannot_do(configured, tmp_path):
    model = build_model(configured(), captions=False).eval()
    batch = tiny_batch(model, 2)
    with pytest.raises(RuntimeError, match="built without its caption decoder; it writes no capt"):
        model.predict(batch, {"caption"})
    with pytest.raises(RuntimeError, match="built without its caption decoder; it cannot train"):
        model(batch)
    with pytest.raises(ValueError, match="built without its caption decoder cannot be saved"):
        model.save_pretrained(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_models_of_others_need_not_know_of_it(configured, monkeypatch):
    """A registered model that takes a configuration alone still builds with its captions."""
    monkeypatch.setitem(registry._entries["model"], "theirs", lambda config: config.arch)
    assert build_model(configured("arch=theirs")) == "theirs"
