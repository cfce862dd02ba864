"""EVA-CLIP's text tower: open_clip's transformer takes the published names and agrees."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip.model import CustomTextCLIP
from open_clip.transformer import TextTransformer
from safetensors.torch import save_file
from torch import Tensor

from dynrefer.checkpoints.loading import load_weights
from dynrefer.checkpoints.places import without_memory
from dynrefer.models.text_encoder import TransformerTextEncoder
from tests.parity.official import FOLDER, SeededValues

CASE = json.loads((FOLDER / "official_text_tower" / "case.json").read_text())
SIZES = CASE["config"]


def published() -> dict[str, Tensor]:
    """The tower's tensors as ``eva_clip_psz14.pt`` holds them."""
    values = SeededValues(SIZES["seed"])
    return {f"text.{name}": values.weight(name, shape) for name, shape in CASE["keys"].items()}


def eva_clip(folder: Path) -> Path:
    state = published() | {
        "visual.blocks.0.attn.q_bias": torch.zeros(3),
        "visual.head.weight": torch.zeros(2),
    }
    torch.save(state, folder / "eva_clip_psz14.pt")
    return folder / "eva_clip_psz14.pt"


def open_clip(folder: Path) -> Path:
    """A folder that open_clip's own model fills, its vision tower smaller than EVA's."""
    text = {key: SIZES[key] for key in ("context_length", "vocab_size", "width", "heads", "layers")}
    vision = {"timm_model_name": "eva02_tiny_patch14_224", "timm_pool": "token", "image_size": 28}
    model = CustomTextCLIP(SIZES["embed_dim"], {**vision, "timm_proj": None}, text)
    state = published()
    model.logit_scale.data = state.pop("text.logit_scale")
    assert not model.load_state_dict(state, strict=False).unexpected_keys
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "open_clip_model.safetensors")
    return folder


@pytest.mark.parametrize("write", [eva_clip, open_clip])
def test_embeddings(write, tmp_path: Path) -> None:
    expected = np.load(FOLDER / "official_text_tower" / "expected.npz")
    with without_memory():
        transformer = TextTransformer(
            context_length=SIZES["context_length"],
            vocab_size=SIZES["vocab_size"],
            width=SIZES["width"],
            heads=SIZES["heads"],
            layers=SIZES["layers"],
            output_dim=SIZES["embed_dim"],
        )
    ids = torch.from_numpy(expected["token_ids"])
    encoder = TransformerTextEncoder(transformer, lambda phrases: ids, freeze=True)
    report = load_weights(encoder, write(tmp_path), "text_encoder.")
    assert len(report.loaded) == len(CASE["keys"]) - 1  # CLIP's temperature
    embeddings = encoder(["any"] * len(ids))
    assert encoder.width == SIZES["embed_dim"] and not embeddings.requires_grad
    np.testing.assert_allclose(embeddings.numpy(), expected["embeddings"], rtol=0, atol=1e-4)
