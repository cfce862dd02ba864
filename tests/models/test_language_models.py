"""Caption decoders of every kind of language model, from fields and from folders."""

import socket

import pytest
import torch
from omegaconf import OmegaConf

from dynrefer.checkpoints.tokenizers import load_tokenizer
from dynrefer.config import ConfigError
from dynrefer.models.builders import build_model
from dynrefer.models.decoders.caption_causal import build_causal
from dynrefer.models.decoders.caption_t5 import build_t5
from tests.tiny_model import tiny_batch

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
CAUSAL = {
    "llama": SIZES,
    "qwen2": {**SIZES, "tie_word_embeddings": True},
    "qwen3": {**SIZES, "head_dim": 8},
    "mistral": {**SIZES, "sliding_window": 16},
}


@pytest.fixture
def language_model(config, tmp_path):
    """Options for a tiny random language model of a type, by its fields or as a folder."""

    def of(model_type, as_folder=False):
        tokenizer = load_tokenizer(config.model.caption_decoder.tokenizer, "test")
        if model_type == "t5":
            fields = OmegaConf.to_container(config.model.caption_decoder.config)
            build, options = build_t5, []
        else:
            fields = {"model_type": model_type, **CAUSAL[model_type]}
            build, options = build_causal, ["arch=dynrefer_causal"]
        if as_folder:
            torch.manual_seed(0)
            fields["vocab_size"] = len(tokenizer)
            model = build(fields, tokenizer.pad_token_id, tokenizer.eos_token_id)
            folder = tmp_path / model_type
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            value = "caption_decoder.config=null", f"caption_decoder.language_model={folder}"
            return [*options, *value, "caption_decoder.tokenizer=null"]
        plain = OmegaConf.to_yaml(OmegaConf.create(fields), resolve=True).strip()
        flow = "{" + ", ".join(plain.splitlines()) + "}"
        return [*options, "caption_decoder.config=null", f"caption_decoder.config={flow}"]

    return of


@pytest.mark.parametrize(
    ("model_type", "as_folder"), [("llama", False), *((kind, True) for kind in CAUSAL)]
)
def test_any_causal_language_model_learns_and_writes(
    configured, language_model, model_type, as_folder
):
    torch.manual_seed(0)
    model = build_model(configured(*language_model(model_type, as_folder))).train()
    assert model.caption_decoder.language_model.config.model_type == model_type
    batch = tiny_batch(model, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(20):
        loss = model(batch).caption
        optimizer.zero_grad()
        loss.backward()
        losses.append(loss.item())
        trained = model.caption_decoder.language_model.named_parameters()
        assert not [name for name, parameter in trained if parameter.grad is None]
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
    predictions = model.eval().predict(batch, {"caption"})
    words = set(model.caption_decoder.tokenizer.get_vocab())
    assert all(0 < prediction.score <= 1 for prediction in predictions)
    assert all(set(prediction.caption.split()) <= words for prediction in predictions)


def test_a_frozen_one_takes_no_gradient_and_passes_it_on(configured, language_model):
    options = [*language_model("mistral"), "caption_decoder.freeze=true"]
    model = build_model(configured(*options)).train()
    model(tiny_batch(model, 2)).caption.backward()
    assert all(p.grad is None for p in model.caption_decoder.language_model.parameters())
    assert model.qformer.query_tokens.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("arch", "starts"), [("dynrefer_vicuna", "eos"), ("dynrefer_causal", "bos")]
)
def test_vicuna_starts_with_the_end_token_and_others_with_their_own(
    configured, config, language_model, tmp_path, arch, starts
):
    tokenizer = load_tokenizer(config.model.caption_decoder.tokenizer, "test")
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    tokenizer.save_pretrained(tmp_path / "with_start")
    options = [*language_model("llama"), f"arch={arch}"]
    options.append(f"caption_decoder.tokenizer={tmp_path / 'with_start'}")
    decoder = build_model(configured(*options)).caption_decoder
    expected = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id}
    assert len(set(expected.values())) == 2
    assert decoder.tokenize(["a star"])[0][0, 0] == expected[starts]


@pytest.mark.parametrize("name", ["google/flan-t5-xl", "some/model", "no/such/folder"])
def test_a_missing_language_model_names_the_command_that_fetches_it(
    configured, config, monkeypatch, tmp_path, name
):
    def refuse(*arguments):
        raise AssertionError("something asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    options = [
        "caption_decoder.config=null",
        f"caption_decoder.language_model={name}",
        f"caption_decoder.tokenizer={config.model.caption_decoder.tokenizer}",
    ]
    message = rf"language_model: no language model at '{name}'.*scripts/download_assets.py"
    with pytest.raises(FileNotFoundError, match=message):
        build_model(configured(*options))


@pytest.mark.parametrize(
    ("arch", "model_type", "decoder"),
    [("dynrefer_causal", "t5", "Causal"), ("dynrefer_t5", "llama", "T5")],
)
def test_a_language_model_of_another_kind(configured, language_model, arch, model_type, decoder):
    options = [*language_model(model_type, as_folder=True), f"arch={arch}"]
    message = f"caption_decoder.language_model: .*{model_type}' is no model for {decoder}Caption"
    with pytest.raises(ConfigError, match=message):
        build_model(configured(*options))
