"""Rebuilds the reference cases of the published code at a tiny size, weights and inputs from names.

The rules stand in ../shared/spec/checkpoints.md ("The parity cases").
"""

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dynrefer.checkpoints.formats import FORMATS, Format
from dynrefer.checkpoints.loading import Source
from dynrefer.checkpoints.tokenizers import load_tokenizer
from dynrefer.datasets.batch import RegionBatch
from dynrefer.models.decoders.caption import Generation
from dynrefer.models.decoders.caption_causal import CausalCaptionDecoder, build_causal
from dynrefer.models.decoders.caption_t5 import T5CaptionDecoder, build_t5
from dynrefer.models.decoders.region_text import RegionTextDecoder
from dynrefer.models.decoders.tag import TagDecoder
from dynrefer.models.dynrefer import DynRefer, Losses
from dynrefer.models.fusion import ViewFusion
from dynrefer.models.qformer import QFormer
from dynrefer.models.text_encoder import TextEncoder
from dynrefer.models.vision import VisionEncoder
from dynrefer.vocabulary import Vocabularies, load_attributes, load_classes, load_tags

FOLDER = Path(__file__).parents[1] / "data" / "parity"
# Cases of the whole model, and the format whose names their weights have.
CASES = {"official_tiny": "dynrefer_t5", "official_tiny_vicuna": "dynrefer_vicuna"}
TOLERANCE = 1e-4


class SeededValues:
    """Arrays that follow from a name and the case's seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def rng(self, name: str) -> np.random.Generator:
        return np.random.default_rng(zlib.crc32(f"{self.seed}:{name}".encode()))

    def weight(self, name: str, shape: Sequence[int]) -> Tensor:
        x = self.rng(name).standard_normal(tuple(shape)).astype(np.float32)
        if len(shape) <= 1:
            x = 1 + 0.1 * x if name.endswith("weight") else 0.1 * x
        else:
            x = x / np.sqrt(prod(shape[1:]))
        return torch.from_numpy(np.asarray(x, dtype=np.float32))


class SeededTextEncoder(TextEncoder):
    """Stands for the text tower: the embedding of a phrase follows from the phrase."""

    def __init__(self, values: SeededValues, width: int) -> None:
        super().__init__()
        self.values, self.width = values, width

    def forward(self, phrases: Sequence[str]) -> Tensor:
        rows = [self.values.rng("text:" + p).standard_normal(self.width) for p in phrases]
        return torch.from_numpy(np.stack(rows).astype(np.float32))


@dataclass
class Case:
    """One reference case: the model with its weights, its inputs, and what must come out."""

    model: DynRefer
    format: Format
    batch: RegionBatch
    expected: dict[str, np.ndarray]
    description: dict[str, Any]
    state: dict[str, Tensor]
    folder: Path

    def assert_forward_stages(self) -> None:
        """Tokens, queries and what the tag and the region-text decoder make of them."""
        model, batch = self.model.eval(), self.batch
        with torch.no_grad():
            vision_tokens = model.vision(batch.crops)
            region_tokens = model.fusion(vision_tokens, batch.view_index, batch.region_boxes)
            queries = model.qformer(region_tokens)
            for name, value in (
                ("vision_tokens", vision_tokens),
                ("region_tokens", region_tokens),
                ("queries", queries),
                ("tag_logits", model.tag_logits(queries)),
                ("attribute_scores", model.attribute_scores(queries)),
                ("class_logits", model.class_logits(queries)),
            ):
                np.testing.assert_allclose(
                    value.numpy(), self.expected[name], rtol=0, atol=TOLERANCE, err_msg=name
                )

    def assert_captions(self) -> None:
        """Token ids, texts and scores of beam search."""
        model, batch = self.model.eval(), self.batch
        with torch.no_grad():
            captions = model.caption_decoder.generate(
                model.encode(batch), batch.control_words, model.generation
            )
        np.testing.assert_array_equal(captions.token_ids.numpy(), self.expected["caption_ids"])
        assert captions.texts == self.description["captions"]
        np.testing.assert_allclose(captions.scores, self.expected["caption_scores"], rtol=1e-4)

    def assert_losses(self) -> Losses:
        """Losses in training mode; returns them, with their graph."""
        losses = self.model.train()(self.batch)
        for name, key in (
            ("total", "loss_total"),
            ("caption", "loss_llm"),
            ("tag", "loss_tag"),
            ("region_text", "loss_att"),
        ):
            expected = pytest.approx(float(self.expected[key]), abs=TOLERANCE)
            assert getattr(losses, name).item() == expected, name
        return losses


def published_state(name: str) -> dict[str, Tensor]:
    """Every tensor of a case under its published name."""
    description = json.loads((FOLDER / name / "case.json").read_text())
    values = SeededValues(description["config"]["seed"])
    state = {key: values.weight(key, shape) for key, shape in description["keys"].items()}
    if "t5_model.shared.weight" in state:
        for part in ("encoder", "decoder"):
            state[f"t5_model.{part}.embed_tokens.weight"] = state["t5_model.shared.weight"]
    return state


def load_case(name: str) -> Case:
    """Builds the model of a case, loads its weights by published names, and makes its inputs."""
    folder = FOLDER / name
    description = json.loads((folder / "case.json").read_text())
    config = description["config"]
    values = SeededValues(config["seed"])
    model = _build(config, folder, values)
    state, table = published_state(name), FORMATS[CASES[name]]
    report = Source(state, table, "state dict").load(model)
    assert set(report.loaded) == set(model.state_dict()), report
    with np.load(folder / "expected.npz") as arrays:
        expected = dict(arrays)
    batch = _batch(config, values, expected)
    return Case(model, table, batch, expected, description, state, folder)


def _build(config: dict[str, Any], folder: Path, values: SeededValues) -> DynRefer:
    vit = dict(config["vit"])
    vision = VisionEncoder(
        "eva_giant_patch14_clip_224",
        vit.pop("img_size"),
        options={**vit, "global_pool": "token"},
    )
    qformer = QFormer(vision.width, config["num_query_token"], **config["qformer"], dropout=0.0)
    tokenizer = load_tokenizer(str(folder / "tokenizer"), "test")
    ids = {"pad_token": tokenizer.pad_token_id, "end_token": tokenizer.eos_token_id}
    if "t5" in config:
        sizes = {**config["t5"], "vocab_size": len(tokenizer), "dropout_rate": 0.0}
        decoder_class, language_model = T5CaptionDecoder, build_t5(sizes, **ids)
    else:
        sizes = {**config["llama"], "vocab_size": len(tokenizer)}
        decoder_class, language_model = CausalCaptionDecoder, build_causal(sizes, **ids)
    heads = {"query_width": qformer.width, "text_width": config["text_dim"], "dropout": 0.0}
    known = Generation.__dataclass_fields__
    return DynRefer(
        vision,
        ViewFusion(vision.width, config["num_views"], vision.grid, vision.patch),
        qformer,
        TagDecoder(**heads),
        RegionTextDecoder(**heads),
        decoder_class(language_model, tokenizer, qformer.width, config["max_txt_len"]),
        SeededTextEncoder(values, config["text_dim"]),
        Vocabularies(
            load_tags(folder / "tags.txt"),
            load_attributes(folder / "attributes.json"),
            load_classes(folder / "classes.json"),
        ),
        generation=Generation(**{k: v for k, v in config["generate"].items() if k in known}),
        tag_threshold=config["tag_thr"],
    )


def _batch(
    config: dict[str, Any], values: SeededValues, expected: dict[str, np.ndarray]
) -> RegionBatch:
    regions, views = config["num_regions"], config["num_views"]
    side, tags = config["vit"]["img_size"], len(config["tags"])
    images = values.rng("input:images").standard_normal((regions, views, 3, side, side))
    chosen = values.rng("input:tags").uniform(size=(regions, 2 * tags)) < 0.1
    return RegionBatch(
        crops=torch.from_numpy(images.astype(np.float32)).flatten(0, 1),
        view_index=torch.arange(regions * views).view(regions, views),
        region_boxes=torch.from_numpy(expected["input_boxes"]),
        ratios=torch.zeros(regions, views),
        captions=list(config["captions"]),
        ids=list(range(regions)),
        image_ids=[0] * regions,
        tags=torch.from_numpy(chosen[:, :tags] | chosen[:, tags:]),
        control_words=list(config["control_words"]),
    )
