"""Files that other programs wrote: what they put before names, and beside weights."""

import argparse
import collections
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from dynrefer.checkpoints.files import open_checkpoint
from dynrefer.checkpoints.formats import FORMATS
from dynrefer.checkpoints.loading import open_source
from dynrefer.checkpoints.translation import to_published


@pytest.fixture
def before(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def randomised(model):
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)


def assert_loads(path, model, before, table, prefix=""):
    """A file's weights are those of the model, which had others in between."""
    source = open_source(path)
    assert source.format is FORMATS[table]
    randomised(model)
    source.load(model.get_submodule(prefix.strip(".")), prefix=prefix)
    for name, tensor in model.state_dict().items():
        if name.startswith(prefix):
            assert torch.equal(tensor, before[name]), name


WRAPPERS = [
    *("module.", "_orig_mod.", "model.", "_fsdp_wrapped_module."),
    *("module._orig_mod.", "_orig_mod.module.", "model.module.", "model._orig_mod."),
    *("_orig_mod.model.", "model.model."),
]


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_what_wrappers_put_before_names(model, before, tmp_path, wrapper):
    """DistributedDataParallel, torch.compile, FSDP, Lightning; in files of both kinds."""
    published = to_published(before, FORMATS["dynrefer_t5"])
    wrapped = {wrapper + name: tensor for name, tensor in published.items()}
    for content in ({"model": wrapped}, {"state_dict": wrapped, "epoch": 3}, wrapped):
        torch.save(content, tmp_path / "a.pth")
        assert_loads(tmp_path / "a.pth", model, before, "dynrefer_t5")
    own = {wrapper + name: tensor for name, tensor in before.items()}
    save_file(own, tmp_path / "own.safetensors")
    assert_loads(tmp_path / "own.safetensors", model, before, "dynrefer")
    tower = {wrapper + n: t for n, t in model.vision.tower.state_dict().items()}
    kept = {f"vision.tower.{n.removeprefix(wrapper)}": t.clone() for n, t in tower.items()}
    torch.save(tower, tmp_path / "tower.pth")
    assert_loads(tmp_path / "tower.pth", model, kept | before, "eva_vit_g", "vision.tower.")


def test_levels_inside_of_names(model, before, tmp_path):
    """Where a part was wrapped, or where one state dict lies in another."""
    published = to_published(before, FORMATS["dynrefer_t5"])
    inner = {
        name.replace("blocks.0", "_orig_mod.blocks.0.module"): t for name, t in published.items()
    }
    torch.save({"module": {"state_dict": inner}}, tmp_path / "a.pth")
    assert_loads(tmp_path / "a.pth", model, before, "dynrefer_t5")


def test_names_of_language_models_stay(tmp_path):
    """They begin with "model." themselves."""
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1}
    llama = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, vocab_size=20))
    llama.save_pretrained(tmp_path)
    source = open_source(tmp_path)
    assert source.format is FORMATS["language_model"]
    assert set(source.tensors) == set(llama.state_dict())


def test_what_is_left_over_beside_lightnings_names(model, before, tmp_path):
    state = {f"model.{n}": t for n, t in to_published(before, FORMATS["dynrefer_t5"]).items()}
    torch.save({"state_dict": {**state, "criterion.weight": torch.zeros(1)}}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="has 1 that the model has no place for:\n  file: crit"):
        open_source(tmp_path / "a.ckpt").load(model)


def test_one_tensor_under_two_names(tmp_path):
    state = {"module.tag_fc.bias": torch.zeros(1), "tag_fc.bias": torch.ones(1)}
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="a.pth holds tensors under several names"):
        open_checkpoint(tmp_path / "a.pth")


BESIDE = {
    "best": np.float64(0.3),
    "step": np.int64(7),
    "half": np.float16(1),
    "flag": np.bool_(True),
    "name": np.str_("x"),
    "curve": np.arange(6).reshape(2, 3),
    "config": argparse.Namespace(lr=1e-4, out=Path("output")),
}


@pytest.mark.parametrize("new", [True, False])
def test_data_beside_weights(tmp_path, new):
    content = {"model": {"tag_fc.bias": torch.ones(2)}, **BESIDE}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=new)
    assert open_checkpoint(tmp_path / "a.pth")["tag_fc.bias"].tolist() == [1, 1]


def test_scalars_by_the_name_that_numpy_had_for_them_before(tmp_path):
    torch.save({"model": {"tag_fc.bias": torch.ones(2)}, **BESIDE}, tmp_path / "new.pth")
    with (
        zipfile.ZipFile(tmp_path / "new.pth") as new,
        zipfile.ZipFile(tmp_path / "old.pth", "w") as old,
    ):
        for entry in new.infolist():
            content = new.read(entry)
            if entry.filename.endswith("data.pkl"):
                assert content.count(b"cnumpy._core.multiarray\n") == 2
                content = content.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
            old.writestr(entry.filename, content)
    assert open_checkpoint(tmp_path / "old.pth")["tag_fc.bias"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (collections.deque(), "collections.deque"),
        (LlamaConfig(), "transformers.models.llama.configuration_llama.LlamaConfig"),
        (torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
        (len, "len"),
    ],
)
def test_other_objects_beside_weights_are_named(tmp_path, value, name):
    torch.save({"model": {"tag_fc.bias": torch.ones(2)}, "extra": value}, tmp_path / "a.pth")
    message = f"a.pth is not a readable PyTorch checkpoint: it holds a {name}, and objects"
    with pytest.raises(ValueError, match=message):
        open_checkpoint(tmp_path / "a.pth")
