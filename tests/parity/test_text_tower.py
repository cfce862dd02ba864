"""EVA-CLIP's text tower: open_clip's transformer takes the published names and agrees."""

import json
from pathlib import Path

import numpy as np
import torch
from open_clip.transformer import TextTransformer

from dynrefer.models.text_encoder import TransformerTextEncoder
from tests.parity.official import SeededValues

FOLDER = Path(__file__).parents[1] / "data" / "parity" / "official_text_tower"


def test_embeddings() -> None:
    case = json.loads((FOLDER / "case.json").read_text())
    config = case["config"]
    values = SeededValues(config["seed"])
    transformer = TextTransformer(
        context_length=config["context_length"],
        vocab_size=config["vocab_size"],
        width=config["width"],
        heads=config["heads"],
        layers=config["layers"],
        output_dim=config["embed_dim"],
    )
    state = {name: values.weight(name, shape) for name, shape in case["keys"].items()}
    state.pop("logit_scale", None)
    transformer.load_state_dict(state, strict=True)
    expected = np.load(FOLDER / "expected.npz")
    ids = torch.from_numpy(expected["token_ids"])
    encoder = TransformerTextEncoder(transformer, lambda phrases: ids, freeze=True)
    embeddings = encoder(["any"] * len(ids))
    assert encoder.width == config["embed_dim"] and not embeddings.requires_grad
    np.testing.assert_allclose(embeddings.numpy(), expected["embeddings"], rtol=0, atol=1e-4)
