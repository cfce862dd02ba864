"""Names and shapes of the libraries' full-size models fit ours; nothing takes memory."""

import open_clip
import pytest
import torch
from open_clip.model import CLIP, CustomTextCLIP
from torch import Tensor, nn
from transformers import Blip2Config, Blip2ForConditionalGeneration, CLIPConfig, CLIPModel

from dynrefer.checkpoints.formats import detect_format
from dynrefer.checkpoints.loading import Source
from dynrefer.checkpoints.places import without_memory
from dynrefer.models.decoders.caption_t5 import untie_output
from dynrefer.models.qformer import QFormer
from dynrefer.models.text_encoder.towers import clip_vit_l_text_encoder, eva_clip_text_encoder
from dynrefer.models.vision import VisionEncoder

EVA, CLIP_L = "eva_giant_patch14_clip_224", "vit_large_patch14_clip_quickgelu_224"
FLAN_T5_XL = {
    **{"model_type": "t5", "d_model": 2048, "d_kv": 64, "d_ff": 5120, "num_layers": 24},
    **{"num_heads": 32, "vocab_size": 32128, "feed_forward_proj": "gated-gelu"},
    "tie_word_embeddings": False,
}
LARGE = {"intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}


@pytest.fixture(autouse=True)
def nothing_takes_memory():
    with without_memory():
        yield


def load(module: nn.Module, state: dict[str, Tensor], prefix: str = "") -> tuple[str, set[str]]:
    """Loads tensors without values; returns the format and why tensors were dropped."""
    table = detect_format(state)
    report = Source(state, table, "state dict").load(module, prefix=prefix)
    assert len(report.loaded) == len(module.state_dict())
    return table.name, set(report.dropped.values())


def open_clip_eva() -> CustomTextCLIP:
    sizes = open_clip.get_model_config("EVA01-g-14")
    del sizes["custom_text"]
    return CustomTextCLIP(**sizes)


def test_eva_clip() -> None:
    state = open_clip_eva().state_dict()
    vision = VisionEncoder(EVA, drop_last_blocks=1)
    vision.norm = nn.Identity()  # not CLIP's
    name, reasons = load(vision, state, "vision.")
    assert name == "open_clip" and any("drop_last_blocks" in reason for reason in reasons)
    assert load(eva_clip_text_encoder(), state, "text_encoder.")[0] == "open_clip"
    # EVA's own file: the tower is not called trunk, the temperature is the text tower's.
    original = {key.replace("visual.trunk.", "visual."): tensor for key, tensor in state.items()}
    original["text.logit_scale"] = original.pop("logit_scale")
    assert load(vision, original, "vision.")[0] == "eva_clip"
    assert load(eva_clip_text_encoder(), original, "text_encoder.")[0] == "eva_clip"
    tower = {key[7:]: tensor for key, tensor in original.items() if key.startswith("visual.")}
    assert load(vision, tower, "vision.")[0] == "eva_vit_g"


def test_blip2_of_transformers() -> None:
    config = Blip2Config(text_config=FLAN_T5_XL, qformer_config={"vocab_size": 30523})
    blip2 = Blip2ForConditionalGeneration(config)
    untie_output(blip2.language_model)
    language_model = type(blip2.language_model)(blip2.language_model.config)
    untie_output(language_model)
    decoder = {"language_model": language_model, "projection": nn.Linear(768, 2048)}
    parts = {
        "vision": VisionEncoder(EVA, drop_last_blocks=1),
        "qformer": QFormer(1408),
        "caption_decoder": nn.ModuleDict(decoder),
    }
    name, reasons = load(nn.ModuleDict(parts), blip2.state_dict())
    assert name == "transformers_blip2" and not reasons
    assert sum(p.numel() for p in blip2.parameters()) > 3.9e9


def transformers_clip() -> CLIPModel:
    text = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
    vision = {"hidden_size": 1024, "patch_size": 14, **LARGE}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=768))


def open_clip_vit() -> CLIP:
    return CLIP(**open_clip.get_model_config("ViT-L-14-quickgelu"))


@pytest.mark.parametrize("make", [transformers_clip, open_clip_vit])
def test_clip_vit_l(make) -> None:
    state = make().state_dict()
    vision = VisionEncoder(CLIP_L, drop_last_blocks=1)
    vision.norm = nn.Identity()
    assert load(vision, state, "vision.")[0] == make.__name__
    assert load(clip_vit_l_text_encoder(), state, "text_encoder.")[0] == make.__name__
    tower = {key[7:]: tensor for key, tensor in state.items() if key.startswith("visual.")}
    if tower:
        assert load(vision, tower, "vision.")[0] == "clip_vit"


def test_another_size_is_refused() -> None:
    vision = VisionEncoder(CLIP_L, drop_last_blocks=1)
    state = {"visual.trunk." + key: torch.empty(1) for key in vision.tower.state_dict()}
    with pytest.raises(ValueError, match="differ in shape"):
        load(vision, state, "vision.")
