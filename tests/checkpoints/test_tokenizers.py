"""Vicuna's tokenizer as it is published: SentencePiece's file and nothing else."""

import json
import logging

import pytest
import sentencepiece
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from dynrefer.checkpoints import tokenizers
from dynrefer.checkpoints.tokenizers import load_tokenizer, save_tokenizer
from dynrefer.models.builders import build_model
from dynrefer.models.dynrefer import DynRefer
from tests.tiny_model import tiny_batch

CORPUS = ["a red dog and the black ball near the tree", "a small striped star left of a blue ring"]
# As published, the rest of the file being of no matter here.
CONFIG = {
    **{"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False},
    **{"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": None},
    "legacy": False,
}


@pytest.fixture(scope="module")
def vicuna(tmp_path_factory):
    """A tiny language model in the layout of lmsys/vicuna-7b-v1.5."""
    folder = tmp_path_factory.mktemp("vicuna")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 20),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=340,
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "tokenizer.vocab").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps(CONFIG))
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    torch.manual_seed(0)
    config = LlamaConfig(**sizes, num_attention_heads=2, vocab_size=340)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def without_libraries(monkeypatch):
    monkeypatch.setattr(tokenizers, "_is_installed", lambda module: False)


def test_words_are_those_of_sentencepiece(vicuna, tmp_path):
    tokenizer = load_tokenizer(str(vicuna), "a.key")
    own = sentencepiece.SentencePieceProcessor(model_file=str(vicuna / "tokenizer.model"))
    for text in (*CORPUS, "red,ring|", "tree"):
        assert tokenizer(text).input_ids == [1, *own.encode(text)]
        assert tokenizer.decode(own.encode(text)) == text
    assert [tokenizer.convert_tokens_to_ids(t) for t in ("<unk>", "<s>", "</s>")] == [0, 1, 2]
    save_tokenizer(tokenizer, tmp_path / "saved")
    assert (
        load_tokenizer(str(tmp_path / "saved"), "key")(CORPUS).input_ids
        == tokenizer(CORPUS).input_ids
    )


def test_a_model_of_that_layout(vicuna, configured, tmp_path, without_libraries, monkeypatch):
    """It adds the padding token and begins with the end token; saved, it needs no libraries."""
    options = ["arch=dynrefer_vicuna", "caption_decoder.config=null", "caption_decoder.freeze=true"]
    options += [f"caption_decoder.language_model={vicuna}", "caption_decoder.tokenizer=null"]
    with pytest.raises(ImportError, match="sentencepiece and protobuf"):
        build_model(configured(*options))
    with monkeypatch.context() as patch:
        patch.setattr(tokenizers, "_is_installed", lambda module: True)
        model = build_model(configured(*options)).eval()
    decoder = model.caption_decoder
    assert decoder.tokenizer.pad_token == "[PAD]" and decoder.start_token == 2
    assert decoder.language_model.get_input_embeddings().num_embeddings == len(decoder.tokenizer)
    batch = tiny_batch(model, 2)
    loaded = DynRefer.from_pretrained(model.save_pretrained(tmp_path / "saved"))
    assert loaded.predict(batch) == model.predict(batch)


@pytest.mark.parametrize("file", ["tokenizer.model", "spiece.model"])
def test_what_is_missing_is_named(tmp_path, without_libraries, file, caplog):
    (tmp_path / file).write_bytes(b"")
    message = (
        f"^a.key: '{tmp_path}' has its tokenizer as SentencePiece's file alone; reading that needs "
        r"sentencepiece and protobuf: pip install sentencepiece protobuf, or .*\[vicuna\]"
    )
    with caplog.at_level(logging.WARNING), pytest.raises(ImportError, match=message):
        load_tokenizer(str(tmp_path), "a.key")
    assert not caplog.records
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="a.key: no tokenizer at"):
        load_tokenizer(str(tmp_path), "a.key")


def test_which_libraries_are_there():
    assert tokenizers._is_installed("google.protobuf")
    assert not tokenizers._is_installed("no_such_package.module")


def test_a_name_that_is_only_in_the_cache(without_libraries, monkeypatch, tmp_path):
    """Of a repository on the hub, looked up where transformers would find it."""
    calls = []

    def look_up(name, file):
        calls.append((name, file))
        return None if file == "tokenizer.json" else str(tmp_path / file)

    monkeypatch.setattr(tokenizers, "try_to_load_from_cache", look_up)
    with pytest.raises(ImportError, match="'some/vicuna' has its tokenizer"):
        load_tokenizer("some/vicuna", "a.key")
    assert ("some/vicuna", "tokenizer.json") in calls
    monkeypatch.undo()
    with pytest.raises(FileNotFoundError, match="no tokenizer at 'no/such/name/at/all'"):
        load_tokenizer("no/such/name/at/all", "a.key")


@pytest.mark.parametrize("content", [b"", b"\x0a\x05wrong", b"no model" * 30])
def test_a_damaged_file(vicuna, tmp_path, content):
    (tmp_path / "tokenizer.model").write_bytes(content)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(FileNotFoundError, match="a.key: no tokenizer at .*without a tokenizer"):
        load_tokenizer(str(tmp_path), "a.key")
