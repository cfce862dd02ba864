"""Which weights a checkpoint may leave to other files: those whose values are the files' own."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from torch import nn

from dynrefer.checkpoints.formats import FORMATS
from dynrefer.checkpoints.places import LANGUAGE_MODEL
from dynrefer.checkpoints.tokenizers import load_tokenizer
from dynrefer.checkpoints.translation import to_published
from dynrefer.config.schema import LoraConfig
from dynrefer.models import builders
from dynrefer.models.builders import build_model, load_model
from dynrefer.models.decoders.caption_t5 import build_t5
from dynrefer.models.dynrefer import DynRefer
from dynrefer.runners.checkpointing import Position, load_checkpoint, save_checkpoint
from tests.models.test_pretrained import assert_same_model
from tests.tiny_model import tiny_config, tiny_model


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A frozen vision tower with a file of its own, a frozen fusion from ``pretrained``."""
    monkeypatch.chdir(tmp_path)
    config = tiny_config(Path("source"))
    tiny_model(config, seed=7).save_pretrained("encoder")
    save_file(tiny_model(config, seed=4).vision.state_dict(), "vision.safetensors")
    config.model.vision.checkpoint, config.model.vision.freeze = "vision.safetensors", True
    config.model.pretrained, config.model.freeze = "encoder", ["fusion", "vision"]
    return config


def saved(model, config, name="run"):
    folder = save_checkpoint(Path(name) / "checkpoints", model, config, Position(), {})
    frozen = folder / "frozen.safetensors"
    return folder, set(load_file(frozen)) if frozen.exists() else set()


def names(model, *parts):
    return {name for name in model.state_dict() if name.startswith(parts)}


def test_what_files_of_the_configuration_hold_is_left_to_them(config):
    model = load_model(config)
    folder, frozen = saved(model, config)
    assert frozen == set()
    assert_same_model(DynRefer.from_pretrained(folder), model.eval())
    config.run.load_ckpt_path = str(folder)
    numbers = [len(names(model, part)) for part in ("fusion.", "vision.")]
    for key, count in (("pretrained", numbers[0]), ("vision.checkpoint", sum(numbers))):
        OmegaConf.update(config.model, key, None)
        lacking = rf"(?s)lacks {count} tensors .*\n  model: fusion.*began from: name them by"
        with pytest.raises(ValueError, match=lacking):
            load_model(config)


def test_frozen_weights_that_a_run_began_with_are_written(config):
    """Of run.load_ckpt_path, which the checkpoint's configuration no longer names."""
    start = tiny_model(config, seed=9)
    start.save_pretrained("start")
    config.run.load_ckpt_path = "start"
    model = load_model(config)
    assert torch.equal(model.fusion.mlp[0].weight, start.fusion.mlp[0].weight)
    folder, frozen = saved(model, config)
    assert frozen == names(model, "vision.", "fusion.")
    assert_same_model(DynRefer.from_pretrained(folder), model.eval())
    resumed = build_model(config.model)
    load_checkpoint(folder, resumed)
    again, frozen_again = saved(resumed, config, "resumed")
    assert frozen_again == frozen
    assert_same_model(DynRefer.from_pretrained(again), model)


def test_frozen_adapters_are_in_no_file_of_the_language_model(config):
    decoder = config.model.caption_decoder
    tokenizer = load_tokenizer(decoder.tokenizer, "test")
    fields = OmegaConf.to_container(decoder.config) | {"vocab_size": len(tokenizer)}
    build_t5(fields, tokenizer.pad_token_id, tokenizer.eos_token_id).save_pretrained("t5")
    tokenizer.save_pretrained("t5")
    decoder.config = decoder.tokenizer = config.model.pretrained = None
    decoder.language_model, decoder.freeze, decoder.lora = "t5", True, LoraConfig(rank=2)
    config.model.freeze = ["language_model"]
    model = load_model(config)
    assert model.held_elsewhere > {f"{LANGUAGE_MODEL}lm_head.weight"}
    assert not any(".lora_" in name for name in model.held_elsewhere)
    adapters = [p for name, p in model.named_parameters() if ".lora_" in name]
    for parameter in adapters:
        nn.init.normal_(parameter)
    folder, frozen = saved(model, config)
    assert len(frozen) == len(adapters) and all(".lora_" in name for name in frozen)
    assert_same_model(DynRefer.from_pretrained(folder), model.eval())


def test_what_no_file_holds_is_noise(config, monkeypatch):
    """Of a published file alone, whose tower, language model and query tokens are other files'."""
    said = []
    monkeypatch.setattr(builders.logger, "warning", lambda text, *more: said.append(text % more))
    model = tiny_model(config)
    elsewhere = names(model, "vision.", LANGUAGE_MODEL, "qformer.query_tokens")
    state = {name: t for name, t in model.state_dict().items() if name not in elsewhere}
    torch.save(to_published(state, FORMATS["dynrefer_t5"]), "a.pth")
    config.model.pretrained = "a.pth"
    noise = "caption_decoder.language_model, qformer.query_tokens"
    for checkpoint, more in (("vision.safetensors", ""), (None, ", vision")):
        config.model.vision.checkpoint = checkpoint
        builders.warn_of_noise(load_model(config), config)
        assert f"nothing has trained {noise}{more}, whose predictions are noise" in said.pop()
    config.model.pretrained = "encoder"
    builders.warn_of_noise(load_model(config), config)
    assert said == []
