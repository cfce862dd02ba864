from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from dynrefer.models import checkpoints
from dynrefer.models.checkpoints import (
    DROPPED,
    PUBLISHED_T5,
    PUBLISHED_VICUNA,
    load_directory,
    load_file_or_directory,
    load_named,
    load_published,
    load_whole,
    read_checkpoint,
    split_trainable,
    to_published,
)

PARITY = Path(__file__).parents[1] / "data" / "parity"
CASES = [("official_tiny", PUBLISHED_T5), ("official_tiny_vicuna", PUBLISHED_VICUNA)]


def random_like(state, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(t.shape, generator=generator) for name, t in state.items()}


def test_leftovers_are_listed_on_both_sides(model):
    state = to_published(random_like(model.state_dict()), PUBLISHED_T5)
    taken = state.pop("t5_proj.weight")
    state |= {"t5_project.weight": taken, "cvem_align.rotation": taken, "clip_embeds": taken}
    report = load_published(model, state, PUBLISHED_T5)
    assert report.missing == ["caption_decoder.projection.weight"]
    assert sorted(report.unexpected) == ["fusion.alignment.rotation", "t5_project.weight"]
    assert report.dropped == {"clip_embeds": DROPPED["(clip_embeds|att_embeds|ov_embeds)"]}
    assert len(report.loaded) == len(state) - 2


def test_a_part_of_a_model_loads_alone(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    values = random_like(before)
    part = {name: t for name, t in values.items() if name.startswith("qformer.")}
    report = load_published(model, to_published(part, PUBLISHED_T5), PUBLISHED_T5)
    assert set(report.loaded) == set(part) and set(report.missing) == set(before) - set(part)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, part.get(name, before[name]))


def test_wrong_shapes_load_nothing(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = to_published(random_like(before), PUBLISHED_T5)
    state["cvem_mlp.0.weight"] = torch.zeros(64, 128)
    with pytest.raises(ValueError, match=r"a.pth belongs to another architecture; 1 tensors") as e:
        load_published(model, state, PUBLISHED_T5, "a.pth")
    assert "fusion.mlp.0.weight: file (64, 128), model (64, 192)" in str(e.value)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_many_wrong_shapes_are_counted(model):
    wrong = {name: torch.zeros(1, 2, 3) for name in model.state_dict()}
    with pytest.raises(ValueError, match=rf"(?s){len(wrong)} tensors differ .*\.\.\. and \d+ more"):
        load_named(model, wrong, "a file")


class Tied(nn.Module):
    """Two modules that share a weight, as an embedding and its output layer do."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.frozen = nn.Linear(3, 3).requires_grad_(False)
        self.output = nn.Linear(3, 5, bias=False)
        self.output.weight = self.embedding.weight
        self.frozen_twin = self.frozen
        self.register_buffer("count", torch.zeros(2))


def test_split_trainable_holds_shared_tensors_once(tmp_path):
    trainable, frozen = split_trainable(Tied())
    assert set(trainable) == {"embedding.weight"}
    assert set(frozen) == {"frozen.weight", "frozen.bias", "count"}
    save_file(trainable, tmp_path / "a.safetensors")
    assert set(load_file(tmp_path / "a.safetensors")) == {"embedding.weight"}


def write_directory(model, folder, with_frozen=True):
    folder.mkdir(exist_ok=True)
    trainable, frozen = split_trainable(model)
    save_file(trainable, folder / checkpoints.TRAINABLE)
    if with_frozen and frozen:
        save_file(frozen, folder / checkpoints.FROZEN)
    return folder


def test_shared_tensors_come_back_on_both_names(tmp_path):
    model, other = Tied(), Tied()
    load_directory(other, write_directory(model, tmp_path))
    assert torch.equal(other.output.weight, model.output.weight)
    assert other.output.weight is other.embedding.weight
    assert torch.equal(other.frozen.weight, model.frozen.weight)


def test_directory_round_trip(model, tmp_path):
    model.vision.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    write_directory(model, tmp_path)
    nn.init.normal_(model.qformer.query_tokens)
    nn.init.normal_(model.vision.norm.weight)
    load_directory(model, tmp_path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_directory_without_frozen_weights_leaves_the_models_own(model, tmp_path):
    model.vision.requires_grad_(False)
    write_directory(model, tmp_path, with_frozen=False)
    nn.init.constant_(model.vision.norm.weight, 7)
    load_directory(model, tmp_path)
    assert (model.vision.norm.weight == 7).all()


def test_directory_of_another_architecture(model, tmp_path):
    write_directory(Tied(), tmp_path)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pattern = r"belongs to another architecture; it lacks \d+ trainable .* has 4 that"
    with pytest.raises(ValueError, match=pattern):
        load_directory(model, tmp_path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("name", [checkpoints.TRAINABLE, checkpoints.FROZEN])
def test_truncated_directory(model, tmp_path, name):
    model.vision.requires_grad_(False)
    write_directory(model, tmp_path)
    file = tmp_path / name
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(ValueError, match=rf"{name} is broken"):
        load_directory(model, tmp_path)


def test_missing_checkpoints(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint at .*trainable.safetensors is mis"):
        load_file_or_directory(model, tmp_path, PUBLISHED_T5)
    with pytest.raises(FileNotFoundError, match="no checkpoint at .*none.pth"):
        load_file_or_directory(model, tmp_path / "none.pth", PUBLISHED_T5)


def test_a_file_of_one_part(model, tmp_path):
    path = tmp_path / "vision.safetensors"
    values = random_like(model.vision.state_dict())
    save_file(values, path)
    load_whole(model.vision, path, "a.key")
    state = model.vision.state_dict()
    assert all(torch.equal(state[name], values[name]) for name in values)
    for wrong, message in (
        ({**values, "more": torch.zeros(1)}, "lacks 0 tensors and has 1 others"),
        ({"norm.weight": values["norm.weight"]}, "lacks .* tensors and has 0 others"),
        ({**values, "norm.weight": torch.zeros(2)}, "1 tensors differ in shape"),
    ):
        save_file(wrong, path)
        with pytest.raises(ValueError, match=rf"(?s)vision.safetensors belongs .*{message}"):
            load_whole(model.vision, path, "a.key")
    path.write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="vision.safetensors is broken"):
        load_whole(model.vision, path, "a.key")
    with pytest.raises(FileNotFoundError, match="a.key: no file at"):
        load_whole(model.vision, tmp_path / "none", "a.key")


def test_published_file_with_training_state(model, tmp_path):
    """The release's files hold the trainable weights under `model`, beside other things."""
    model.vision.requires_grad_(False)
    trainable, _ = split_trainable(model)
    values = random_like(trainable)
    content = {
        "model": to_published(values, PUBLISHED_T5),
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4}]},
        "config": {"run": {"max_epoch": 5}},
        "scaler": None,
        "epoch": 4,
    }
    torch.save(content, tmp_path / "a.pth")
    load_file_or_directory(model, tmp_path / "a.pth", PUBLISHED_T5)
    state = model.state_dict()
    assert all(torch.equal(state[name], values[name]) for name in values)


@pytest.mark.parametrize("legacy", [False, True])
def test_plain_state_dict_of_either_file_format(model, tmp_path, legacy):
    values = random_like(split_trainable(model)[0])
    torch.save(
        to_published(values, PUBLISHED_T5),
        tmp_path / "a.pth",
        _use_new_zipfile_serialization=not legacy,
    )
    load_file_or_directory(model, tmp_path / "a.pth", PUBLISHED_T5)
    assert torch.equal(model.qformer.query_tokens, values["qformer.query_tokens"])


def test_published_file_with_leftovers(model, tmp_path):
    values = to_published(random_like(split_trainable(model)[0]), PUBLISHED_T5)
    values["t5_projection.weight"] = values.pop("t5_proj.weight")
    torch.save({"model": values}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a.pth: 2 names find no partner") as error:
        load_file_or_directory(model, tmp_path / "a.pth", PUBLISHED_T5)
    assert "t5_projection.weight" in str(error.value)
    assert "caption_decoder.projection.weight" in str(error.value)


class Dangerous:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_checkpoint_does_not_run(model, tmp_path, legacy):
    trap = tmp_path / "ran"
    torch.save(
        {"model": {"t5_proj.bias": torch.zeros(1)}, "extra": Dangerous(trap)},
        tmp_path / "a.pth",
        _use_new_zipfile_serialization=not legacy,
    )
    with pytest.raises(ValueError, match="a.pth is not a readable PyTorch checkpoint"):
        load_file_or_directory(model, tmp_path / "a.pth", PUBLISHED_T5)
    assert not trap.exists()


@pytest.mark.parametrize(
    "content", [b"", b"not a checkpoint", b"PK\x03\x04 cut", b"\x80\x02}q\x00"]
)
def test_broken_files(tmp_path, content):
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="a.pth is not a readable PyTorch checkpoint"):
        read_checkpoint(path)


@pytest.mark.parametrize("keep", [0.5, 0.99])
def test_truncated_file(tmp_path, keep):
    path = tmp_path / "a.pth"
    torch.save({"model": {"a": torch.randn(1000)}}, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(ValueError, match="a.pth is not a readable PyTorch checkpoint"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ([torch.zeros(1)], "a.pth holds a list; a dictionary is expected"),
        ({"model": [1, 2]}, "a.pth: 'model' holds a list; tensors by name are expected"),
        ({"model": {"t5_proj.bias": 3}}, "a.pth: 't5_proj.bias' is no tensor"),
        ({"epoch": 3, "step": torch.zeros(1)}, "a.pth: 'epoch' is no tensor"),
    ],
)
def test_files_of_other_things(model, tmp_path, content, match):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=match):
        load_file_or_directory(model, tmp_path / "a.pth", PUBLISHED_T5)
