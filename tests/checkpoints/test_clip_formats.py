"""CLIP ViT-L/14's formats at a tiny size: the libraries' own models, their files, their outputs."""

from pathlib import Path

import pytest
import torch
from open_clip.model import CLIP, QuickGELU
from open_clip.transformer import TextTransformer
from torch import nn
from transformers import CLIPConfig, CLIPModel

from dynrefer.checkpoints.formats import FORMATS, detect_format
from dynrefer.checkpoints.loading import load_weights
from dynrefer.checkpoints.places import without_memory
from dynrefer.checkpoints.translation import from_published, to_published
from dynrefer.models.text_encoder import TransformerTextEncoder
from dynrefer.models.vision import VisionEncoder

WIDTH, HEADS, LAYERS, SIDE, WORDS, LENGTH = 16, 2, 3, 28, 40, 7
PIXELS = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
# The end token has the largest id, as in CLIP's vocabulary.
IDS = torch.tensor([[30, 4, 5, 39, 0, 0, 0], [30, 8, 9, 10, 11, 12, 39]])


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(1)


def vision_encoder() -> VisionEncoder:
    options = {"embed_dim": WIDTH, "depth": LAYERS, "num_heads": HEADS}
    with without_memory():
        vision = VisionEncoder(
            "vit_large_patch14_clip_quickgelu_224", SIDE, drop_last_blocks=1, options=options
        )
    vision.norm = nn.Identity()  # BLIP-2's, which CLIP does not have
    vision.norm.weight = torch.zeros(1)
    return vision.eval()


def text_encoder() -> TransformerTextEncoder:
    with without_memory():
        transformer = TextTransformer(
            context_length=LENGTH,
            vocab_size=WORDS,
            width=WIDTH,
            heads=HEADS,
            layers=LAYERS,
            output_dim=None,
            act_layer=QuickGELU,
        )
    return TransformerTextEncoder(transformer, lambda phrases: IDS, freeze=True)


def transformers_clip() -> CLIPModel:
    sizes = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
    }
    text = {"vocab_size": WORDS, "max_position_embeddings": LENGTH, "eos_token_id": 39}
    vision = {"image_size": SIDE, "patch_size": 14}
    config = CLIPConfig(
        text_config={**sizes, **text}, vision_config={**sizes, **vision}, projection_dim=8
    )
    return randomised(CLIPModel(config)).eval()


def open_clip_clip() -> CLIP:
    vision = {"image_size": SIDE, "layers": LAYERS, "width": WIDTH, "head_width": 8}
    text = {"context_length": LENGTH, "vocab_size": WORDS, "width": WIDTH, "heads": HEADS}
    text["layers"] = LAYERS
    model = CLIP(8, {**vision, "patch_size": 14}, text, quick_gelu=True)
    return randomised(model).eval()


def randomised(model: nn.Module) -> nn.Module:
    """Every tensor drawn anew: fresh biases are zero and norms are one."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def test_penultimate_features_of_transformers(tmp_path: Path) -> None:
    clip = transformers_clip()
    clip.save_pretrained(tmp_path, max_shard_size="10KB")
    vision = vision_encoder()
    report = load_weights(vision, tmp_path, "vision.")
    states = clip.vision_model(PIXELS, output_hidden_states=True).hidden_states
    torch.testing.assert_close(vision(PIXELS), states[-2])
    assert not report.missing and not report.unexpected
    kinds = {name.split(".")[0] for name in report.dropped}
    assert kinds == {
        "vision_model",
        "visual_projection",
        "text_model",
        "text_projection",
        "logit_scale",
    }


def test_pooled_text_of_transformers(tmp_path: Path) -> None:
    clip = transformers_clip()
    clip.save_pretrained(tmp_path)
    encoder = text_encoder()
    load_weights(encoder, tmp_path, "text_encoder.")
    assert encoder.width == WIDTH
    torch.testing.assert_close(encoder(["a", "b"]), clip.text_model(IDS).pooler_output)


@pytest.mark.parametrize("alone", [False, True])
def test_penultimate_features_of_open_clip(tmp_path: Path, alone: bool) -> None:
    """``alone``: the tower by itself in half precision, as LAVIS's clip_vit_L.pth holds it."""
    clip = open_clip_clip()
    state = clip.state_dict()
    if alone:
        state = {name.removeprefix("visual."): t for name, t in state.items() if "visual." in name}
        clip.half().float()
        state = {name: tensor.half() for name, tensor in state.items()}
    torch.save(state, tmp_path / "clip.pt")
    vision = vision_encoder()
    load_weights(vision, tmp_path / "clip.pt", "vision.")
    del clip.visual.transformer.resblocks[-1]
    clip.visual.ln_post = nn.Identity()
    clip.visual.output_tokens, clip.visual.proj = True, None
    pooled, patches = clip.visual(PIXELS)
    tokens = torch.cat([pooled.unsqueeze(1), patches], dim=1)
    torch.testing.assert_close(vision(PIXELS), tokens)


def test_pooled_text_of_open_clip(tmp_path: Path) -> None:
    clip = open_clip_clip()
    torch.save(clip.state_dict(), tmp_path / "clip.pt")
    encoder = text_encoder()
    load_weights(encoder, tmp_path / "clip.pt", "text_encoder.")
    clip.text_projection = None
    torch.testing.assert_close(encoder(["a", "b"]), clip.encode_text(IDS))


@pytest.mark.parametrize(
    ("make", "name"), [(transformers_clip, "transformers_clip"), (open_clip_clip, "open_clip_vit")]
)
def test_names_and_layouts_both_ways(make, name: str) -> None:
    state = make().state_dict()
    table = detect_format(state)
    assert table is FORMATS[name]
    own, unknown, dropped = from_published(state, table)
    assert not unknown
    back = to_published(own, table)
    assert set(back) == set(state) - set(dropped)
    for key, tensor in back.items():
        assert torch.equal(tensor, state[key]), key
