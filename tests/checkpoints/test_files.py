import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dynrefer.checkpoints import tensor_files
from dynrefer.checkpoints.files import open_checkpoint
from dynrefer.checkpoints.tensor_files import read_checkpoint

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2), "b": torch.tensor(3)}


def single_safetensors(folder):
    save_file(STATE, folder / "any.safetensors")
    return folder / "any.safetensors"


def single_torch(folder):
    torch.save(STATE, folder / "any.pth")
    return folder / "any.pth"


def legacy_torch(folder):
    """As torch before 1.6 wrote it, which cannot be mapped."""
    torch.save({"model": STATE}, folder / "a.pt", _use_new_zipfile_serialization=False)
    return folder / "a.pt"


def under(key):
    def write(folder):
        torch.save({"epoch": 3, key: STATE, "scaler": None}, folder / "a.bin")
        return folder / "a.bin"

    return write


def named(file):
    def write(folder):
        save = save_file if file.endswith("safetensors") else torch.save
        save(STATE, folder / file)
        return folder

    return write


def shards(stem, suffix, with_index=True):
    """A file for each tensor, and an index."""

    def write(folder):
        save = save_file if suffix == "safetensors" else torch.save
        places = {}
        for number, (name, tensor) in enumerate(STATE.items(), 1):
            places[name] = f"{stem}-{number:05d}-of-00003.{suffix}"
            save({name: tensor}, folder / places[name])
        if with_index:
            index = {"metadata": {"total_size": 40}, "weight_map": places}
            (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))
        return folder

    return write


def own(folder):
    save_file(
        {name: STATE[name] for name in ("a.weight", "a.bias")}, folder / "trainable.safetensors"
    )
    save_file({"b": STATE["b"]}, folder / "frozen.safetensors")
    return folder


@pytest.mark.parametrize(
    "write",
    [
        single_safetensors,
        single_torch,
        legacy_torch,
        *map(under, ("model", "state_dict", "module")),
        *map(named, ("model.safetensors", "pytorch_model.bin", "trainable.safetensors")),
        *map(named, ("open_clip_model.safetensors", "adapter_model.safetensors")),
        shards("model", "safetensors"),
        shards("pytorch_model", "bin"),
        shards("trainable", "safetensors"),
        shards("trainable", "safetensors", with_index=False),
        own,
    ],
)
def test_every_way_of_storing_tensors(tmp_path, write):
    checkpoint = open_checkpoint(write(tmp_path))
    assert set(checkpoint) == set(STATE) and len(checkpoint) == 3
    for name, tensor in STATE.items():
        held = checkpoint.described(name)
        assert held.is_meta and held.shape == tensor.shape
        assert held.is_floating_point() == tensor.is_floating_point()
        assert torch.equal(checkpoint[name], tensor) and checkpoint[name].dtype == tensor.dtype
    with pytest.raises(KeyError):
        checkpoint["c"]


def test_an_index_file_names_its_folder(tmp_path):
    folder = shards("model", "safetensors")(tmp_path)
    assert set(open_checkpoint(folder / "model.safetensors.index.json")) == set(STATE)


@pytest.mark.parametrize("write", [single_safetensors, single_torch, own])
def test_a_tensor_has_memory_of_its_own(tmp_path, write):
    """So that a file may be deleted, and no tensor keeps the others of its file in memory."""
    checkpoint = open_checkpoint(write(tmp_path))
    first = checkpoint["a.weight"]
    assert first.untyped_storage().nbytes() == first.nbytes
    first.zero_()
    assert torch.equal(checkpoint["a.weight"], STATE["a.weight"])


def test_mapped_files_are_mapped_anew_after_some_bytes(tmp_path, monkeypatch):
    path = single_torch(tmp_path)
    checkpoint = open_checkpoint(path)
    maps = []
    read = tensor_files.read_checkpoint
    monkeypatch.setattr(tensor_files, "read_checkpoint", lambda p: maps.append(p) or read(p))
    monkeypatch.setattr(tensor_files, "_WINDOW", 30)
    for _ in range(2):
        assert all(torch.equal(checkpoint[name], tensor) for name, tensor in STATE.items())
    assert maps == [path, path]


def test_views_of_one_storage(tmp_path):
    """A file of torch may hold slices that are not contiguous."""
    whole = torch.arange(12.0).view(3, 4)
    torch.save({"whole": whole, "column": whole[:, 1]}, tmp_path / "a.pth")
    column = open_checkpoint(tmp_path / "a.pth")["column"]
    assert torch.equal(column, whole[:, 1]) and column.is_contiguous()


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint at .*none.pth"):
        open_checkpoint(tmp_path / "none.pth")
    with pytest.raises(FileNotFoundError, match="no checkpoint at .*trainable.safetensors is miss"):
        open_checkpoint(tmp_path)
    with pytest.raises(FileNotFoundError, match="no checkpoint at .*none.pth"):
        read_checkpoint(tmp_path / "none.pth")


@pytest.mark.parametrize(
    ("write", "shard"),
    [
        (shards("model", "safetensors"), "model-00002-of-00003.safetensors"),
        (shards("pytorch_model", "bin"), "pytorch_model-00002-of-00003.bin"),
        (
            shards("trainable", "safetensors", with_index=False),
            "trainable-00002-of-00003.safetensors",
        ),
    ],
)
def test_a_missing_shard(tmp_path, write, shard):
    folder = write(tmp_path)
    (folder / shard).unlink()
    with pytest.raises(FileNotFoundError, match=f"{shard} is missing; .* names it as a shard"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("index", "match"),
    [
        (
            {"a.weight": "model-00002-of-00003.safetensors"},
            "'a.weight' is said to be in model-00002",
        ),
        (
            {"a.weight": "../model.safetensors"},
            "'../model.safetensors' is no file beside the index",
        ),
        ({"a.weight": 3}, "model.safetensors.index.json"),
        (["a.weight"], "is no index of shards: a 'weight_map' is expected"),
    ],
)
def test_wrong_indices(tmp_path, index, match):
    folder = shards("model", "safetensors")(tmp_path)
    content = json.dumps({"weight_map": index})
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=match):
        open_checkpoint(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"metadata": {}}', "null", "[" * 100_000])
def test_broken_indices(tmp_path, content):
    folder = shards("model", "safetensors")(tmp_path)
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ValueError, match="is no index of shards"):
        open_checkpoint(folder)


def test_shards_of_another_name(tmp_path):
    save_file(STATE, tmp_path / "trainable-all.safetensors")
    with pytest.raises(ValueError, match="trainable-all.safetensors: a name like 'trainable-00001"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("write", [single_safetensors, single_torch, legacy_torch])
@pytest.mark.parametrize("keep", [0.3, 0.99])
def test_truncated_files(tmp_path, write, keep):
    path = write(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(ValueError, match=rf"{path.name} is (broken|not a readable PyTorch check)"):
        open_checkpoint(path)


def test_a_file_that_is_cut_while_it_is_read(tmp_path):
    path = single_safetensors(tmp_path)
    checkpoint = open_checkpoint(path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 30)
    with pytest.raises(ValueError, match="any.safetensors is broken at '"):
        dict(checkpoint)


class Dangerous:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("new", [False, True])
def test_code_in_a_checkpoint_does_not_run(tmp_path, new):
    trap = tmp_path / "ran"
    content = {"model": STATE, "extra": Dangerous(trap)}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=new)
    with pytest.raises(ValueError, match="a.pth is not a readable PyTorch checkpoint"):
        open_checkpoint(tmp_path / "a.pth")
    assert not trap.exists()


@pytest.mark.parametrize(
    "content", [b"", b"not a checkpoint", b"PK\x03\x04 cut", b"\x80\x02}q\x00"]
)
@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_files_that_are_no_checkpoints(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} is "):
        open_checkpoint(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ([torch.zeros(1)], "a.pth holds a list; a dictionary is expected"),
        ({"model": [1, 2]}, "a.pth: 'model' holds a list; tensors by name are expected"),
        ({"model": {"t5_proj.bias": 3}}, "a.pth: 't5_proj.bias' is no tensor"),
        ({"epoch": 3, "step": torch.zeros(1)}, "a.pth: 'epoch' is no tensor"),
        ({0: torch.zeros(1)}, "a.pth: '0' is no tensor; tensors by name are expected"),
        ({"a": torch.zeros(1), "b": None}, "a.pth: 'b' is no tensor"),
        ({"a": torch.eye(2).to_sparse()}, "a.pth: 'a' is sparse, quantised or without data"),
        ({"a": torch.zeros(2, device="meta")}, "a.pth: 'a' is sparse, quantised or without data"),
        ({"model": {"model": {"model": {"model": {}}}}}, "a.pth: 'model' is no tensor"),
    ],
)
def test_files_of_other_things(tmp_path, content, match):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=match):
        open_checkpoint(tmp_path / "a.pth")


def test_a_state_dict_that_holds_itself(tmp_path):
    content = {}
    content["model"] = content
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="a.pth: 'model' is no tensor"):
        open_checkpoint(tmp_path / "a.pth")
