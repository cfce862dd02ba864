"""The published sizes, built without memory."""

from math import prod
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from dynrefer.config import ConfigError, load_config
from dynrefer.models.builders import build_model
from scripts.benchmark_full_size import FLAN_T5_XL, VICUNA_7B, full_config
from tests.config.test_release import RELEASE_MODEL

CONFIGS = Path(__file__).parents[2] / "configs" / "base" / "models"

# Millions of parameters, by part.
EVA = {"vision": 985.9, "fusion": 12.1, "qformer": 105.2}
CLIP_L = {"vision": 290.6, "fusion": 6.4, "qformer": 101.6}
HEADS = {"tag_decoder": 2.0, "region_text_decoder": 2.0}
T5 = {"caption_decoder.language_model": 2849.8, "caption_decoder.projection": 1.6}
VICUNA = {"caption_decoder.language_model": 6738.4, "caption_decoder.projection": 3.1}
PARTS = {
    "dynrefer_flant5xl": {**EVA, **HEADS, **T5},
    "dynrefer_flant5xl_clip_l": {**CLIP_L, **HEADS, **T5},
    "dynrefer_vicuna": {**EVA, **HEADS, **VICUNA},
    "dynrefer_causal": {**EVA, **HEADS, **VICUNA},
}


@pytest.fixture(scope="module", params=PARTS)
def built(request, tmp_path_factory):
    """A full-size model on the meta device: shapes without memory."""
    name = request.param
    language_model = FLAN_T5_XL if "t5" in name else VICUNA_7B
    config = full_config(name, language_model, tmp_path_factory.mktemp("full") / name)
    config.model.from_scratch = False
    with torch.device("meta"):
        return name, build_model(config.model)


def millions(module):
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


def test_parameters_of_each_part(built):
    name, model = built
    found = {part: round(millions(model.get_submodule(part)), 1) for part in PARTS[name]}
    assert found == PARTS[name]
    assert all(parameter.is_meta for parameter in model.parameters())


def test_what_trains_is_what_the_release_trains(built):
    name, model = built
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    roots = {n.split(".")[0] for n in trained}
    expected = {"fusion", "qformer", "tag_decoder", "region_text_decoder", "caption_decoder"}
    assert roots == expected
    assert not any("language_model" in n or "query_tokens" in n for n in trained)
    assert ("caption_decoder.control_memory" in trained) is ("t5" in name)
    assert {p.dtype for p in trained.values()} == {torch.float32}


def test_sizes_of_vision_and_language_model(built):
    name, model = built
    tower, language_model = model.vision.tower, model.caption_decoder.language_model.config
    is_clip = name.endswith("clip_l")
    assert (model.vision.width, len(tower.blocks)) == ((1024, 23) if is_clip else (1408, 39))
    assert (model.vision.grid, model.vision.patch, model.vision.image_size) == (16, 14, 224)
    assert model.fusion.mlp[0].in_features == 3 * model.vision.width
    assert model.qformer.query_tokens.shape == (1, 32, 768)
    if "t5" in name:
        assert language_model.dense_act_fn == "gelu" and not language_model.scale_decoder_outputs
    assert model.caption_decoder.language_model.dtype == torch.bfloat16


def test_shapes_go_through_the_whole_vision_side(built):
    """One forward pass of shapes alone."""
    _, model = built
    crops = torch.empty(3, 3, 224, 224, device="meta")
    with torch.no_grad():
        tokens = model.vision(crops)
    assert tokens.shape == (3, 257, model.vision.width)
    assert model.qformer(tokens[:1]).shape == (1, 32, 768)


def test_published_settings():
    """Ours say what the release's own file says."""
    release = OmegaConf.create(RELEASE_MODEL).model
    model = load_config(CONFIGS / "dynrefer_flant5xl.yaml").model
    for key in ("num_beams", "max_new_tokens", "min_length", "length_penalty", "top_p"):
        assert model.generation[key] == release[key]
    assert model.generation.repetition_penalty == release.repetition_penalty
    assert not model.generation.do_sample and model.generation.num_return_sequences == 1
    assert (model.tag_threshold, model.num_views) == (release.tag_thr, release.num_views)
    assert (model.vision.precision, model.vision.freeze) == (release.vit_precision, True)
    assert model.qformer.num_query_tokens == release.num_query_token
    assert model.caption_decoder.language_model == release.t5_model
    assert model.caption_decoder.max_text_length == release.max_txt_len
    assert model.image_size == release.img_size
    assert dict(model.loss) == {"caption": 1, "tag": 0.01, "region_text": 0.5, "reduction": "rank"}


@pytest.mark.parametrize("name", PARTS)
def test_files_that_are_not_there_are_named_with_the_command_that_fetches_them(
    name, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    config = load_config(CONFIGS / f"{name}.yaml")
    with pytest.raises(FileNotFoundError, match="weights/.*scripts/download_assets.py"):
        build_model(config.model)
    config.model.pretrained = config.model.vision.checkpoint = None
    message = "data/.*scripts/download_assets.py"
    with torch.device("meta"), pytest.raises(FileNotFoundError, match=message):
        build_model(config.model)


def test_the_language_model_of_dynrefer_causal_has_to_be_chosen(tmp_path):
    config = full_config("dynrefer_causal", {}, tmp_path / "files", tiny=True)
    config.model.caption_decoder.config = None
    with pytest.raises(ConfigError, match="set either language_model .* or config"):
        build_model(config.model)


def test_expected_counts_are_those_of_the_architectures():
    """The language models' counts follow from their published dimensions."""
    d, ff, inner = FLAN_T5_XL["d_model"], FLAN_T5_XL["d_ff"], 32 * 64
    attention, mlp = 4 * d * inner, 3 * d * ff
    layers = 24 * (attention + mlp + 2 * d) + 24 * (2 * attention + mlp + 3 * d)
    t5 = 2 * FLAN_T5_XL["vocab_size"] * d + layers + 2 * d + 2 * 32 * 32
    assert t5 / 1e6 == pytest.approx(T5["caption_decoder.language_model"], abs=0.05)
    d, ff = VICUNA_7B["hidden_size"], VICUNA_7B["intermediate_size"]
    layers = 32 * (4 * d * d + 3 * d * ff + 2 * d)
    vicuna = 2 * prod((VICUNA_7B["vocab_size"], d)) + layers + d
    assert vicuna / 1e6 == pytest.approx(VICUNA["caption_decoder.language_model"], abs=0.05)
