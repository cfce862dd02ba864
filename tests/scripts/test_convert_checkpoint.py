"""Published <-> own: no bit changes, nothing is lost or made up silently."""

import re
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from dynrefer.checkpoints.configs import folder_config
from dynrefer.checkpoints.folders import write_tensors
from dynrefer.checkpoints.loading import split_trainable
from dynrefer.command_line import entry_point
from dynrefer.config import ConfigError
from dynrefer.config.schema import LoraConfig
from dynrefer.models.builders import build_model
from dynrefer.models.dynrefer import DynRefer
from scripts import convert_checkpoint
from scripts.convert_checkpoint import (
    conversion_parser,
    main,
    to_own,
    to_published,
    without_weights,
)
from tests.models.test_pretrained import VARIANTS
from tests.models.test_pretrained import make_config as make_tower_config
from tests.parity.official import CASES, load_case
from tests.parity.test_formats import assert_agrees, build, untrained
from tests.tiny_model import tiny_batch, tiny_config, tiny_model

LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
TOWER_VARIANT = VARIANTS["text tower"]
PUBLISHED_PREFIXES = (
    *("visual_encoder.", "ln_vision.", "query_tokens", "Qformer.bert.", "cvem_align.", "cvem_mlp."),
    *("tag_head.", "tag_vision_proj.", "tag_text_proj.", "tag_fc.", "attr_head.", "attr_t"),
    *("attr_vision_proj.", "attr_text_proj.", "attr_fc.", "attr_b", "cem_memory"),
)


def make_config(folder, arch, lora=False):
    """The tiny configuration as the published models train: frozen tower and language model."""
    config = tiny_config(folder)
    decoder = config.model.caption_decoder
    config.model.arch = arch
    config.model.vision.freeze = decoder.freeze = True
    decoder.precision = "bf16"
    if arch != "dynrefer_t5":
        decoder.config = LLAMA
    if lora:
        decoder.lora = LoraConfig(rank=4, alpha=8)
    return config


@pytest.fixture(params=["dynrefer_t5", "dynrefer_vicuna"])
def arch(request):
    return request.param


@pytest.fixture(params=[False, True], ids=["without LoRA", "LoRA"])
def case(request, arch, tmp_path):
    """A configuration, and its model with random weights, adapters too."""
    config = make_config(tmp_path / "source", arch, request.param)
    model = tiny_model(config)
    assert request.param == any("lora_" in name for name in model.state_dict())
    return config.model, model


def contents(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def assert_same_bits(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype and torch.equal(tensor, other[name]), name


@pytest.mark.parametrize("limit", [50_000, 2**31])
def test_own_to_published_to_own(case, tmp_path, limit):
    """File by file, byte by byte, in shards and in one file."""
    config, model = case
    model.save_pretrained(tmp_path / "own", max_shard_bytes=limit)
    assert to_published(tmp_path / "own", tmp_path / "a.pth") == {}
    assert to_own(tmp_path / "a.pth", config, tmp_path / "again", limit) == {}
    assert contents(tmp_path / "again") == contents(tmp_path / "own")
    # The configuration of the folder does as well as the one that it was made from.
    own_config = folder_config(tmp_path / "own").model
    to_own(tmp_path / "a.pth", own_config, tmp_path / "third", limit)
    assert contents(tmp_path / "third") == contents(tmp_path / "own")


def test_published_to_own_to_published(case, tmp_path):
    """What training saved, in a precision of its own, beside other things."""
    config, model = case
    names = [*split_trainable(model)[0], "caption_decoder.control_memory"]
    tensors = model.state_dict()
    write_tensors(tmp_path, "trainable", ((name, tensors[name].half()) for name in names))
    OmegaConf.save({"model": config}, tmp_path / "config.yaml")
    to_published(tmp_path, tmp_path / "a.pth")
    content = torch.load(tmp_path / "a.pth")
    dropped = {
        "clip_embeds": torch.zeros(3),
        "Qformer.bert.encoder.layer.0.output.dense.weight": torch.zeros(2, 2),
    }
    content["model"] |= dropped
    torch.save({**content, "epoch": 4, "optimizer": {"state": {}}}, tmp_path / "release.pth")

    told = to_own(tmp_path / "release.pth", config, tmp_path / "own")
    assert told.keys() == dropped.keys() and all(told.values())
    to_published(tmp_path / "own", tmp_path / "back.pth")
    state = torch.load(tmp_path / "release.pth")["model"]
    kept = {name: tensor for name, tensor in state.items() if name not in dropped}
    assert_same_bits(torch.load(tmp_path / "back.pth")["model"], kept)


def test_published_names(case, tmp_path):
    """Those of the published code, LoRA's as its peft wrote them."""
    config, model = case
    model.save_pretrained(tmp_path / "own")
    to_published(tmp_path / "own", tmp_path / "a.pth")
    names = set(torch.load(tmp_path / "a.pth", weights_only=True)["model"])
    language = "t5" if config.arch == "dynrefer_t5" else "llm"
    prefixes = (*PUBLISHED_PREFIXES, f"{language}_model.", f"{language}_proj.")
    assert all(any(name.startswith(prefix) for name in names) for prefix in prefixes)
    assert all(name.startswith(prefixes) for name in names)
    layer = {
        "t5": "t5_model.base_model.model.decoder.block.0.layer.0.SelfAttention.q",
        "llm": "llm_model.base_model.model.model.layers.0.self_attn.q_proj",
    }[language]
    if config.caption_decoder.lora is None:
        assert f"{layer.replace('base_model.model.', '', 1)}.weight" in names
    else:
        parts = ("weight", "lora_A.default.weight", "lora_B.default.weight")
        assert {f"{layer}.{part}" for part in parts} <= names


@pytest.mark.parametrize("name", CASES)
def test_the_reference_cases(name, tmp_path):
    """Published -> own -> published; the folder gives what the published code gives."""
    case = load_case(name)
    torch.save({"model": case.state}, tmp_path / "a.pth")
    config = build(case, {**untrained(case), "pretrained": str(tmp_path / "a.pth")}).config
    to_own(tmp_path / "a.pth", config, tmp_path / "own")
    assert folder_config(tmp_path / "own").model.pretrained == [str(tmp_path / "own")]
    assert_agrees(case, DynRefer.from_pretrained(tmp_path / "own"))
    to_published(tmp_path / "own", tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth")["model"]
    assert_same_bits(back, {name: case.state[name] for name in back})
    # What is not there is the unused text branch of the Q-Former, or a second name of a tensor.
    rest = case.state.keys() - back.keys()
    unread = (
        r"Qformer\.(bert\.embeddings\.(word|pos).*|bert\..*\d\.(intermediate|output)\..*|cls.*)"
    )
    assert all(re.fullmatch(rf"{unread}|t5_model\..*embed_tokens.weight", key) for key in rest)


def test_the_converted_model_predicts_as_the_first(case, tmp_path):
    config, model = case
    model.save_pretrained(tmp_path / "own")
    to_published(tmp_path / "own", tmp_path / "a.pth")
    to_own(tmp_path / "a.pth", config, tmp_path / "again")
    batch = tiny_batch(model, 3)
    assert DynRefer.from_pretrained(tmp_path / "again").predict(batch) == model.predict(batch)


@pytest.fixture
def sources(tmp_path):
    """A model whose frozen parts have files of their own, and its configuration."""
    config = make_config(tmp_path / "source", "dynrefer_vicuna")
    decoder = config.model.caption_decoder
    torch.manual_seed(1)
    language_model = LlamaForCausalLM(LlamaConfig(**LLAMA, vocab_size=100, eos_token_id=1))
    language_model.save_pretrained(tmp_path / "llama")
    decoder.config, decoder.language_model = None, str(tmp_path / "llama")
    vision = tiny_model(make_config(tmp_path / "source", "dynrefer_t5")).vision
    write_tensors(tmp_path, "vision", vision.state_dict().items())
    config.model.vision.checkpoint = str(tmp_path / "vision.safetensors")
    return config.model


def published_file(config, tmp_path):
    """A published file that fits the configuration, with random weights."""
    tensors = dict(split_trainable(without_weights(config))[0])
    tensors["caption_decoder.control_memory"] = torch.zeros(32)  # published for both variants
    torch.manual_seed(0)
    (tmp_path / "trained").mkdir()
    named = ((name, torch.randn(tensor.shape)) for name, tensor in tensors.items())
    write_tensors(tmp_path / "trained", "trainable", named)
    OmegaConf.save({"model": config}, tmp_path / "trained" / "config.yaml")
    to_published(tmp_path / "trained", tmp_path / "a.pth")
    return tmp_path / "a.pth"


def test_frozen_weights_stay_with_their_files(sources, tmp_path):
    file = published_file(sources, tmp_path)
    to_own(file, sources, tmp_path / "own")
    stored = load_file(tmp_path / "own" / "frozen.safetensors")  # of the variant's, unused there
    assert list(stored) == ["caption_decoder.control_memory"]
    own = folder_config(tmp_path / "own").model
    assert own.vision.checkpoint == sources.vision.checkpoint
    assert own.caption_decoder.language_model == sources.caption_decoder.language_model
    loaded = DynRefer.from_pretrained(tmp_path / "own")
    expected = LlamaForCausalLM.from_pretrained(tmp_path / "llama").lm_head.weight
    assert torch.equal(loaded.caption_decoder.language_model.lm_head.weight, expected.bfloat16())


def test_the_whole_model_in_one_folder(sources, tmp_path):
    file = published_file(sources, tmp_path)
    OmegaConf.save({"model": sources}, tmp_path / "config.yaml")
    command = ["--from", "published", "--to", "own", "--cfg-path", str(tmp_path / "config.yaml")]
    arguments = [*command, "--input", str(file), "--output", str(tmp_path / "own"), "--whole"]
    main(conversion_parser().parse_args(arguments))
    own = folder_config(tmp_path / "own").model
    assert own.vision.checkpoint is None and own.caption_decoder.language_model is None
    to_own(file, sources, tmp_path / "thin")
    one, other = (DynRefer.from_pretrained(tmp_path / name) for name in ("own", "thin"))
    assert_same_bits(one.state_dict(), other.state_dict())


def test_nothing_is_read_for_a_skeleton(sources, monkeypatch):
    Path(sources.vision.checkpoint).unlink()
    for file in Path(sources.caption_decoder.language_model).glob("*.safetensors"):
        file.unlink()
    model = without_weights(sources)
    assert all(p.is_meta for name, p in model.named_parameters() if not name.startswith("vision.n"))
    assert model.config == sources


def test_a_language_model_with_fewer_words_than_its_tokenizer(sources, tmp_path):
    """As Vicuna, whose padding token is added: its embedding grows when it is loaded."""
    language_model = LlamaForCausalLM(LlamaConfig(**LLAMA, vocab_size=40))
    language_model.save_pretrained(tmp_path / "small")
    sources.caption_decoder.language_model = str(tmp_path / "small")
    decoder = without_weights(sources).caption_decoder
    assert len(decoder.language_model.get_input_embeddings().weight) == len(decoder.tokenizer) > 40


@pytest.mark.parametrize("has_file", [True, False])
def test_the_text_tower_is_no_part_of_a_published_file(tmp_path, monkeypatch, has_file):
    config = make_tower_config(tmp_path / "source", TOWER_VARIANT)
    if not has_file:
        config.model.text_encoder.options.checkpoint = None
    model = build_model(config.model)
    model.save_pretrained(tmp_path / "own")
    if not has_file:
        with pytest.raises(ValueError, match="have no place in .*: text_encoder"):
            to_published(tmp_path / "own", tmp_path / "a.pth")
        monkeypatch.setattr(convert_checkpoint, "TEXT_TOWERS", ("clip_for_folders",))
    told = to_published(tmp_path / "own", tmp_path / "a.pth")
    towers = {name for name in model.state_dict() if name.startswith("text_encoder.")}
    assert told.keys() == (set() if has_file else towers)
    published = torch.load(tmp_path / "a.pth")["model"]
    assert not any(name.startswith("text") for name in published)
    if has_file:
        to_own(tmp_path / "a.pth", config.model, tmp_path / "again")
        again = DynRefer.from_pretrained(tmp_path / "again")
        assert_same_bits(again.state_dict(), model.state_dict())


def test_the_command_line(tmp_path, monkeypatch, capsys):
    def run(*arguments):
        entry_point(main, conversion_parser().parse_args(arguments))
        return capsys.readouterr().out

    monkeypatch.chdir(tmp_path)
    config = make_config(tmp_path / "source", "dynrefer_t5")
    tiny_model(config).save_pretrained(tmp_path / "own")
    back = ("--from", "own", "--to", "published", "--input", "own", "--output", "a.pth")
    assert "own -> a.pth" in run(*back)
    forth = ("--from", "published", "--to", "own", "--input", "a.pth")
    options = ("--cfg-path", "own/config.yaml", "--output", "again")
    assert "a.pth -> again" in run(*forth, *options)
    assert contents(tmp_path / "again") == contents(tmp_path / "own")
    with pytest.raises(SystemExit, match="2"):
        run(*forth, "--output", "b")
    message = "error: --to own needs the model's configuration; give --cfg-path\n"
    assert capsys.readouterr().err == message


@pytest.fixture
def file(tmp_path):
    """A published file of the tiny T5 model, and the configuration."""
    config = make_config(tmp_path / "source", "dynrefer_t5").model
    return published_file(config, tmp_path), config


def changed(path, change):
    content = torch.load(path)
    change(content["model"])
    torch.save(content, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("cvem_mlp.0.weight"), r"lacks 1 .*fusion.mlp.0.weight"),
        (lambda state: state.update(cvem_other=torch.zeros(1)), r"has 1 .*cvem_other"),
        (lambda state: state.update(cem_memory=torch.zeros(7)), r"control_memory: file \(7,\)"),
    ],
)
def test_files_that_do_not_fit(file, tmp_path, change, message):
    path, config = file
    changed(path, change)
    with pytest.raises(ValueError, match=rf"(?s)a.pth belongs to another architecture.*{message}"):
        to_own(path, config, tmp_path / "own")
    assert not (tmp_path / "own").exists()


def test_a_file_of_the_other_variant(file, tmp_path):
    path, _ = file
    config = make_config(tmp_path / "source", "dynrefer_vicuna").model
    with pytest.raises(ValueError, match=r"(?s)a.pth belongs to another.*t5_proj.weight"):
        to_own(path, config, tmp_path / "own")


def test_truncated_files(file, tmp_path):
    path, config = file
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match="a.pth is not a readable PyTorch checkpoint"):
        to_own(path, config, tmp_path / "own")


def test_architectures_that_were_not_published(tmp_path):
    config = make_config(tmp_path / "source", "dynrefer_causal")
    tiny_model(config).save_pretrained(tmp_path / "own")
    message = "'dynrefer_causal' has no published format; valid: dynrefer_t5, dynrefer_vicuna"
    with pytest.raises(ConfigError, match=message):
        to_published(tmp_path / "own", tmp_path / "a.pth")


def test_weights_that_the_published_model_has_no_place_for(tmp_path):
    config = make_config(tmp_path / "source", "dynrefer_t5")
    tokenizer = config.model.caption_decoder.tokenizer
    options = {"width": 16, "heads": 2, "output_width": 32, "tokenizer": tokenizer}
    config.model.text_encoder.name = "word_transformer"
    config.model.text_encoder.options = options
    tiny_model(config).save_pretrained(tmp_path / "own")
    with pytest.raises(ValueError, match=r"own: \d+ tensors have no place .*: text_enc"):
        to_published(tmp_path / "own", tmp_path / "a.pth")
    assert not (tmp_path / "a.pth").exists()


def test_nothing_is_overwritten(file, tmp_path):
    path, config = file
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="a.pth exists; choose another name"):
        to_published(tmp_path / "trained", path)
    assert path.read_bytes() == before
    with pytest.raises(FileExistsError, match="source exists and is not an empty folder"):
        to_own(path, config, tmp_path / "source")


def test_where_a_file_goes(file, tmp_path):
    to_published(tmp_path / "trained", tmp_path / "new" / "b.pth")
    assert torch.load(tmp_path / "new" / "b.pth")["model"].keys()
    with pytest.raises(OSError, match="Not a directory|File exists"):
        to_published(tmp_path / "trained", file[0] / "b.pth")


def test_an_interrupted_write_leaves_no_file(file, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", stop)
    names = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(KeyboardInterrupt):
        to_published(tmp_path / "trained", tmp_path / "b.pth")
    assert {path.name for path in tmp_path.iterdir()} == names
