import copy
import math
import os
import resource

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch import nn

from dynrefer import files
from dynrefer.checkpoints import folders
from dynrefer.config import load_config
from dynrefer.models import pretrained
from dynrefer.runners import checkpointing
from dynrefer.runners.checkpointing import (
    LINKS,
    Position,
    check_whole,
    evaluated_score,
    load_checkpoint,
    newest_checkpoint,
    note_evaluated,
    point,
    save_checkpoint,
)

CONFIG = OmegaConf.create(
    {
        "model": {
            "pretrained": None,
            "vision": {"checkpoint": None, "freeze": False},
            "text_encoder": {"options": {}},
            "caption_decoder": {"language_model": None},
        },
        "run": {"seed": 1},
    }
)


@pytest.fixture(autouse=True)
def as_it_is(monkeypatch):
    """These models have no tokenizer and no vocabulary that could be copied."""
    write = lambda model, config, folder: OmegaConf.save(config, folder / "config.yaml")  # noqa: E731
    monkeypatch.setattr(pretrained, "save_run_config", write)


@pytest.fixture
def model():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    module[1].requires_grad_(False)
    module.held_elsewhere = set()
    return module


def save(directory, model, step, before=None, config=CONFIG, **training):
    return save_checkpoint(directory, model, config, Position(0, step, step), training, before)


def steps(directory):
    return sorted(path.name for path in directory.iterdir() if not path.is_symlink())


def test_round_trip(tmp_path, model):
    saved = copy.deepcopy(model.state_dict())
    position = Position(epoch=2, step=3, global_step=23, best_score=4.5)
    torch.manual_seed(7)
    folder = save_checkpoint(tmp_path, model, CONFIG, position, {"optimizer": {"lr": [1, 2.0]}})
    expected = torch.rand(4)
    assert folder == (tmp_path / "last").resolve() == (tmp_path / "step-00000023").resolve()
    assert os.readlink(tmp_path / "last") == "step-00000023"  # relative: the folder can move
    nn.init.zeros_(model[0].weight)
    nn.init.zeros_(model[1].weight)
    torch.manual_seed(8)
    found, training = load_checkpoint(tmp_path / "last", model)
    assert found == position and training == {"optimizer": {"lr": [1, 2.0]}, "processes": 1}
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_each_process_goes_on_with_its_own_random_numbers(tmp_path, model, monkeypatch, rank):
    """A third one, which did not write, keeps those that it has."""
    states = []
    for seed in (5, 6, 7):
        torch.manual_seed(seed)
        states.append({"cpu": torch.get_rng_state()})
    gather = checkpointing.gather_objects
    with monkeypatch.context() as patch:
        is_state = lambda one: isinstance(one, dict)  # noqa: E731
        patch.setattr(
            checkpointing,
            "gather_objects",
            lambda one: states[:2] if is_state(one) else gather(one),
        )
        folder = save(tmp_path, model, 1)
    monkeypatch.setattr(checkpointing, "rank", lambda: rank)
    _, training = load_checkpoint(folder, model)
    assert torch.equal(torch.get_rng_state(), states[rank]["cpu"]) and training["processes"] == 2


def test_the_configuration_stands_beside_the_weights(tmp_path, model):
    folder = save(tmp_path, model, 1, config=OmegaConf.create({**CONFIG, "x": "???"}))
    assert OmegaConf.load(folder / "config.yaml").run.seed == 1
    assert load_file(folder / "trainable.safetensors").keys() == {"0.weight", "0.bias"}
    assert load_file(folder / "frozen.safetensors").keys() == {"1.weight", "1.bias"}


def test_frozen_weights_of_a_pretrained_checkpoint_are_not_written_again(tmp_path, model):
    config = OmegaConf.merge(CONFIG, {"model": {"pretrained": "some-file"}})
    model.held_elsewhere = {"0.weight", "1.weight"}
    folder = save(tmp_path, model, 1, config=config)
    assert load_file(folder / "trainable.safetensors").keys() == {"0.weight", "0.bias"}
    assert load_file(folder / "frozen.safetensors").keys() == {"1.bias"}


@pytest.mark.parametrize(("freeze", "kept"), [(True, "vision.safetensors"), (False, None)])
def test_a_trained_vision_tower_no_longer_needs_the_file_it_started_from(tmp_path, freeze, kept):
    module = nn.ModuleDict({name: nn.Linear(1, 1) for name in ("vision", "qformer")})
    module["vision"].requires_grad_(not freeze)
    module.held_elsewhere = set()
    config = copy.deepcopy(CONFIG)
    config.model.vision.checkpoint = "vision.safetensors"
    folder = save(tmp_path, module, 1, config=config)
    assert OmegaConf.load(folder / "config.yaml").model.vision.checkpoint == kept
    assert config.model.vision.checkpoint == "vision.safetensors"


def test_links_move_and_what_no_link_names_goes(tmp_path, model):
    first = save(tmp_path, model, 1)
    point(tmp_path / "best", first)
    second = save(tmp_path, model, 2, first)
    assert os.readlink(tmp_path / "previous") == "step-00000001"
    (tmp_path / ".step-00000009.part").mkdir()  # of a save that was killed
    third = save(tmp_path, model, 3, second)
    assert steps(tmp_path) == ["step-00000001", "step-00000002", "step-00000003"]
    point(tmp_path / "best", third)
    fourth = save(tmp_path, model, 4, third)
    assert steps(tmp_path) == ["step-00000003", "step-00000004"]
    links = {link: os.readlink(tmp_path / link) for link in LINKS}
    assert links == {"last": fourth.name, "previous": third.name, "best": third.name}
    assert save(tmp_path, model, 5, tmp_path / "elsewhere").name == "step-00000005"


def test_a_second_checkpoint_of_a_step_does_not_touch_the_first(tmp_path, model, monkeypatch):
    """`last` is whole at any moment, also while the same step is written again."""
    first = save(tmp_path, model, 5)
    moments = []
    move = checkpointing.point

    def watch(link, folder):
        moments.append((first / "state.pt").is_file() and (tmp_path / "last").resolve() == first)
        move(link, folder)

    monkeypatch.setattr(checkpointing, "point", watch)
    second = save(tmp_path, model, 5)
    assert moments == [True] and second != first
    assert steps(tmp_path) == [second.name] and (tmp_path / "last").resolve() == second
    assert save(tmp_path, model, 5) == first and steps(tmp_path) == [first.name]


def test_the_order_of_what_reaches_the_disk(tmp_path, model, monkeypatch):
    """All files, then the folder's name, then `last`; older folders go after that. All wait."""
    calls = []
    first = save(tmp_path, model, 1)

    def note(owner, name, label):
        done = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, **b: calls.append(label(*a)) or done(*a, **b))

    note(files, "sync", lambda path: f"sync {path.name}")
    note(checkpointing, "sync", lambda path: f"sync {path.name}")
    note(checkpointing, "point", lambda link, folder: f"{link.name} -> {folder.name}")
    note(checkpointing.shutil, "rmtree", lambda path: f"remove {path.name}")
    monkeypatch.setattr(checkpointing, "barrier", lambda: calls.append("barrier"))
    save(tmp_path, model, 2, first)
    written = {"trainable.safetensors", "frozen.safetensors", "state.pt", "config.yaml"}
    part = calls.index("sync .step-00000002.part")
    assert set(calls[1:part]) == {f"sync {name}" for name in (*written, "SHA256SUMS")}
    links = ["previous -> step-00000001", "last -> step-00000002"]
    place = f"sync {tmp_path.name}"
    assert calls[part + 1 :] == [place, links[0], place, links[1], place, "barrier"]
    calls.clear()
    save(tmp_path, model, 3, tmp_path / "step-00000002")
    assert calls[-3:] == [place, "remove step-00000001", "barrier"]


def test_weights_that_are_not_finite_never_become_a_checkpoint(tmp_path, model):
    first = save(tmp_path, model, 1)
    model[0].weight.data[0, 0] = math.nan
    with pytest.raises(FloatingPointError, match=r"1 of 2 weights are not finite \(0.weight"):
        save(tmp_path, model, 2, first)
    assert (tmp_path / "last").resolve() == first and steps(tmp_path) == [first.name]


def test_weights_that_are_large_are_finite(tmp_path, model):
    """The sum of their squares is not."""
    nn.init.constant_(model[0].weight, 3e38)
    folder = save(tmp_path, model, 1)
    assert load_file(folder / "trainable.safetensors")["0.weight"].max() == model[0].weight.max()


def test_a_full_disk_keeps_the_last_one(tmp_path, model, monkeypatch):
    first = save(tmp_path, model, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**14, limits[1]))
        with pytest.raises(OSError, match="step-00000002 cannot be written: the limit of file siz"):
            save(tmp_path, model, 2, first, optimizer=torch.zeros(2**14))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert newest_checkpoint(tmp_path) == first and steps(tmp_path) == [first.name]


def test_what_was_evaluated_is_noted(tmp_path, model):
    first = save(tmp_path, model, 1)
    assert evaluated_score(first) is None
    note_evaluated(tmp_path, first, 4.5)
    assert evaluated_score(first) == evaluated_score(tmp_path / "last") == 4.5
    assert evaluated_score(save(tmp_path, model, 2, first)) is None


@pytest.mark.parametrize("broken", ["save_file", "torch.save", "point"])
def test_an_interrupted_write_leaves_the_last_one_whole(tmp_path, model, monkeypatch, broken):
    save(tmp_path, model, 1)
    weight = model[0].weight.detach().clone()

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        owner = {"save_file": folders, "torch.save": torch}.get(broken, checkpointing)
        patch.setattr(owner, broken.removeprefix("torch."), stop)
        nn.init.zeros_(model[0].weight)
        save(tmp_path, model, 2)
    position, _ = load_checkpoint(tmp_path / "last", model)
    assert position.global_step == 1 and torch.equal(model[0].weight, weight)
    save(tmp_path, model, 3)
    assert steps(tmp_path) == ["step-00000003"]


def test_checkpoints_that_cannot_be_resumed(tmp_path, model):
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        load_checkpoint(tmp_path, model)
    folder = save(tmp_path, model, 1)
    state = (folder / "state.pt").read_bytes()
    (folder / "state.pt").write_bytes(state[: len(state) // 2])
    with pytest.raises(ValueError, match="state.pt is not a readable PyTorch checkpoint"):
        load_checkpoint(folder, model)
    (folder / "state.pt").write_bytes(state)
    with pytest.raises(ValueError, match="belongs to another architecture"):
        load_checkpoint(folder, nn.Sequential(nn.Linear(2, 2)))
    (folder / "state.pt").unlink()
    with pytest.raises(FileNotFoundError, match="no checkpoint at .*state.pt"):
        load_checkpoint(folder, model)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda state: state.pop("generators"), r"state.pt has other contents \(generators\)"),
        (lambda state: state.pop("updates"), r"contents \(updates\)"),
        (lambda state: state["position"].pop("step"), r"contents \(step\)"),
        (lambda state: state["position"].update(batch=3), r"contents \(batch\)"),
    ],
)
def test_checkpoints_of_another_version(tmp_path, model, change, told):
    """They are named as such, and nothing of them is loaded."""
    folder = save(tmp_path, model, 1, updates={})
    state = torch.load(folder / "state.pt")
    change(state)
    torch.save(state, folder / "state.pt")
    nn.init.zeros_(model[0].weight)
    message = f"step-00000001 was written by another version and cannot be resumed: .*{told}; run"
    with pytest.raises(ValueError, match=message):
        load_checkpoint(folder, model, ("updates",))
    assert not model[0].weight.any()
    (folder / "SHA256SUMS").unlink()
    with pytest.raises(ValueError, match="another version .*: there is no SHA256SUMS; run.load_c"):
        check_whole(folder)


def test_a_saved_configuration_is_a_configuration(tmp_path, model):
    (tmp_path / "a.yaml").write_text("run: {seed: 3, max_epoch: 2}")
    config = load_config(tmp_path / "a.yaml")
    folder = save(tmp_path / "checkpoints", model, 1, config=config)
    assert load_config(folder / "config.yaml") == config
