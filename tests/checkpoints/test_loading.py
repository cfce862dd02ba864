import json
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from dynrefer.checkpoints.formats import FORMATS
from dynrefer.checkpoints.loading import (
    Source,
    load_in_turn,
    load_weights,
    open_source,
    split_trainable,
)
from dynrefer.checkpoints.places import without_memory
from dynrefer.checkpoints.translation import to_published

T5, OWN, EVA = (FORMATS[name] for name in ("dynrefer_t5", "dynrefer", "eva_vit_g"))


def load_state(module, state, table, source="state dict", **options):
    return Source(state, table, source).load(module, **options)


def random_like(state, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(t.shape, generator=generator) for name, t in state.items()}


@pytest.fixture
def before(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal(model, expected):
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def trainable(model):
    """Weights of what training changes, the tower being frozen, by own name."""
    model.vision.requires_grad_(False)
    return random_like(split_trainable(model)[0])


def test_published_names_reach_the_model(model):
    values = random_like(model.state_dict())
    for alias in ("encoder", "decoder"):
        own = "caption_decoder.language_model."
        values[f"{own}{alias}.embed_tokens.weight"] = values[f"{own}shared.weight"]
    report = load_state(model, to_published(values, T5), T5)
    assert set(report.loaded) == set(values)
    assert not (report.missing or report.unexpected or report.dropped)
    assert_equal(model, values)


@pytest.mark.parametrize("strict", [True, False])
def test_leftovers_are_listed_on_both_sides(model, before, caplog, strict):
    values = random_like(before)
    state = to_published(values, T5)
    taken = state.pop("t5_proj.weight")
    state |= {"t5_project.weight": taken, "cvem_align.rotation": taken, "clip_embeds": taken}
    message = (
        r"(?s)a.pth belongs to another architecture; it lacks 1 tensors that the published "
        r"DynRefer with FLAN-T5 should hold and has 2 that the model has no place for:\n"
        r"  model: caption_decoder.projection.weight\n"
        r"  file: cvem_align.rotation\n  file: t5_project.weight"
    )
    if strict:
        with pytest.raises(ValueError, match=message + ".*model.strict: false"):
            load_state(model, state, T5, source="a.pth")
        assert_equal(model, before)
        return
    report = load_state(model, state, T5, strict=False, source="a.pth")
    assert report.missing == ["caption_decoder.projection.weight"]
    assert sorted(report.unexpected) == ["cvem_align.rotation", "t5_project.weight"]
    assert report.dropped == {"clip_embeds": "text embeddings are made from the vocabularies"}
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert record.getMessage().startswith("a.pth belongs to another architecture; it lacks 1")
    assert torch.equal(model.qformer.query_tokens, values["qformer.query_tokens"])
    assert torch.equal(
        model.caption_decoder.projection.weight, before["caption_decoder.projection.weight"]
    )


def test_what_training_changed_is_a_whole_file(model, before):
    """The release's files lack the tower and the language model, but not a half of something."""
    values = random_like(before)
    kept = ("vision.", "caption_decoder.language_model.", "qformer.query_tokens")
    part = {name: tensor for name, tensor in values.items() if not name.startswith(kept)}
    report = load_state(model, to_published(part, T5), T5)
    assert set(report.loaded) == set(part)
    assert_equal(model, before | part)
    half = part | {"vision.tower.cls_token": values["vision.tower.cls_token"]}
    with pytest.raises(ValueError, match=r"lacks \d+ tensors .*\n  model: vision.tower.blocks.0"):
        load_state(model, to_published(half, T5), T5)
    assert_equal(model, before | part)


def test_wrong_shapes_load_nothing(model, before):
    state = to_published(random_like(before), T5)
    state["cvem_mlp.0.weight"] = torch.zeros(64, 128)
    with pytest.raises(ValueError, match=r"a.pth belongs to another architecture; 1 tensors") as e:
        load_state(model, state, T5, strict=False, source="a.pth")
    assert "fusion.mlp.0.weight: file (64, 128), model (64, 192)" in str(e.value)
    assert_equal(model, before)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_numbers_of_another_kind_load_nothing(model, before, tmp_path, dtype, suffix):
    state = to_published(random_like(before), T5)
    state["cvem_mlp.0.weight"] = state["cvem_mlp.0.weight"].to(dtype)
    save = torch.save if suffix == "pth" else save_file
    save(state, tmp_path / f"a.{suffix}")
    message = r"1 tensors differ in shape or kind:\n  fusion.mlp.0.weight: file .* of no floats"
    with pytest.raises(ValueError, match=message):
        load_weights(model, tmp_path / f"a.{suffix}")
    assert_equal(model, before)


@pytest.mark.parametrize("empty", [False, True])
def test_numbers_that_are_not_finite_are_named(tmp_path, empty):
    """Or become so in the precision of their place."""
    with without_memory(empty):
        other = nn.Linear(3, 2).half()
    for value in (float("nan"), float("inf"), 1e6):
        weight = torch.zeros(2, 3).index_fill(0, torch.tensor(1), value)
        state = {"weight": weight, "bias": torch.zeros(2)}
        with pytest.raises(ValueError, match="^a.pth is broken: weight holds numbers that are not"):
            load_state(other, state, OWN, source="a.pth")


@pytest.mark.parametrize("freezes", [False, True])
@pytest.mark.parametrize("part", ["fusion.", "qformer.query_tokens", "vision.tower.", "vision."])
def test_what_a_folder_of_our_own_lacks(model, before, part, freezes):
    """Whether it would train or not, other files of the configuration must hold it."""
    model.requires_grad_(not freezes)
    state = {name: t for name, t in random_like(before).items() if not name.startswith(part)}
    lacking = before.keys() - state.keys()
    with pytest.raises(ValueError, match=rf"lacks {len(lacking)} tensors .*own folder") as e:
        load_state(model, state, OWN)
    assert all(f"model: {name}" in str(e.value) for name in sorted(lacking)[:8])
    assert "leaves what stayed frozen to the files that training began from" in str(e.value)
    assert_equal(model, before)
    model.held_elsewhere = lacking
    assert not load_state(model, state, OWN).missing
    after = model.state_dict()
    assert all(after[n].equal(before[n]) is (n in lacking) for n in before)


def test_what_a_folder_of_our_own_begins_it_must_hold(model, before):
    state = random_like(before)
    del state["region_text_decoder.bias"], state["fusion.mlp.0.bias"]
    model.held_elsewhere = {"fusion.mlp.0.bias", "region_text_decoder.bias"}
    with pytest.raises(ValueError, match="lacks 1 tensors .*\n  model: fusion.mlp.0.bias") as e:
        load_state(model, state, OWN)
    assert "stayed frozen" not in str(e.value)


def test_what_one_of_several_folders_lacks(model, before):
    """Another of them may hold, before or after it; the last one that holds a tensor counts."""
    both, other = random_like(before), random_like(before, seed=1)
    names = ("vision.", "fusion.")
    half = {name: t for name, t in other.items() if name.startswith(names)}
    rest = {name: t for name, t in both.items() if not name.startswith("vision.")}
    for order in ([half, rest], [rest, half]):
        sources = [Source(state, OWN, "a") for state in order]
        load_in_turn(model, sources)
        loaded, expected = model.state_dict(), order[0] | order[1]
        for name in ("vision.norm.bias", "fusion.mlp.0.bias", "qformer.query_tokens"):
            assert torch.equal(loaded[name], expected[name])
    del rest["qformer.query_tokens"]
    with pytest.raises(ValueError, match="lacks 1 tensors .*\n  model: qformer.query_tokens"):
        load_in_turn(model, [Source(half, OWN, "a"), Source(rest, OWN, "b")])


def test_many_wrong_shapes_are_counted(model):
    wrong = {name: torch.zeros(1, 2, 3) for name in model.state_dict()}
    with pytest.raises(ValueError, match=rf"(?s){len(wrong)} tensors differ .*\.\.\. and \d+ more"):
        load_state(model, wrong, OWN)


def test_a_file_of_something_else(model, before):
    with pytest.raises(ValueError, match=r"a.pth \(adapters of peft\) holds nothing of what is"):
        load_state(model, {}, FORMATS["lora"], source="a.pth")
    adapters = {"base_model.model.lm_head.lora_A.weight": torch.zeros(2, 32)}
    with pytest.raises(ValueError, match="holds nothing of what is loaded from it"):
        load_state(model, adapters, FORMATS["lora"], strict=False)
    state = to_published(before, T5) | {
        "t5_model.base_model.model.lm_head.lora_A.default.weight": torch.zeros(2)
    }
    with pytest.raises(ValueError, match="adapters; model.caption_decoder.lora makes a place"):
        load_state(model, state, T5)
    assert_equal(model, before)


def test_precision_and_memory_are_the_models(model):
    model.vision.tower.half()
    places = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    values = random_like(model.state_dict())
    load_state(model, values, OWN)
    state = model.state_dict()
    assert {name: tensor.data_ptr() for name, tensor in state.items()} == places
    assert state["vision.tower.cls_token"].dtype == torch.float16
    expected = values["vision.tower.cls_token"].half()
    assert torch.equal(state["vision.tower.cls_token"], expected)


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


@pytest.mark.parametrize("empty", [False, True])
def test_shared_tensors_come_back_on_both_names(empty):
    model, state = Tied(), {}
    for part in split_trainable(model):
        state |= part
    with without_memory(empty):
        other = Tied()
    load_state(other, state, OWN)
    assert torch.equal(other.output.weight, model.output.weight)
    assert other.output.weight is other.embedding.weight and other.embedding.weight.requires_grad
    assert torch.equal(other.frozen.weight, model.frozen.weight)
    assert not other.frozen.weight.requires_grad


def write_folder(model, folder, with_frozen=True):
    trainable, frozen = split_trainable(model)
    save_file(trainable, folder / "trainable.safetensors")
    if with_frozen and frozen:
        save_file(frozen, folder / "frozen.safetensors")
    return folder


def test_own_folder_round_trip(model, before, tmp_path):
    model.vision.requires_grad_(False)
    write_folder(model, tmp_path)
    nn.init.normal_(model.qformer.query_tokens)
    nn.init.normal_(model.vision.norm.weight)
    load_weights(model, tmp_path)
    assert_equal(model, before)


def test_own_folder_without_frozen_weights_leaves_the_models_own(model, tmp_path):
    model.vision.requires_grad_(False)
    model.held_elsewhere = set(split_trainable(model)[1])
    write_folder(model, tmp_path, with_frozen=False)
    nn.init.constant_(model.vision.norm.weight, 7)
    load_weights(model, tmp_path)
    assert (model.vision.norm.weight == 7).all()


@pytest.mark.parametrize("lost", ["fusion.mlp.0.bias", "vision.tower.cls_token"])
def test_own_folder_that_lacks_a_tensor(model, before, tmp_path, lost):
    """Of what trains, or of a frozen part that it otherwise holds."""
    model.vision.requires_grad_(False)
    write_folder(model, tmp_path)
    for name in ("trainable", "frozen"):
        state = load_file(tmp_path / f"{name}.safetensors")
        state.pop(lost, None)
        save_file(random_like(state), tmp_path / f"{name}.safetensors")
    with pytest.raises(
        ValueError, match=rf"lacks 1 tensors .*folder should hold .*\n  model: {lost}"
    ):
        load_weights(model, tmp_path)
    assert_equal(model, before)


def test_a_vision_encoder_of_our_own(model, tmp_path):
    path = tmp_path / "vision.safetensors"
    values = random_like(model.vision.state_dict())
    save_file(values, path)
    load_weights(model.vision, path, "vision.")
    assert_equal(model.vision, values)
    for wrong, message in (
        ({**values, "more": torch.zeros(1)}, "lacks 0 tensors .* has 1 that"),
        ({"tower.cls_token": values["tower.cls_token"]}, r"lacks \d\d tensors .* has 0 that"),
        ({**values, "norm.weight": torch.zeros(2)}, "1 tensors differ in shape"),
    ):
        save_file(random_like(wrong, seed=1), path)
        with pytest.raises(ValueError, match=rf"(?s)vision.safetensors belongs .*{message}"):
            load_weights(model.vision, path, "vision.")
    assert_equal(model.vision, values)


def test_other_parts_of_a_file_are_left_alone(model, before):
    values = random_like(before)
    report = load_state(model.vision, values, OWN, prefix="vision.")
    assert_equal(model.vision, {n.removeprefix("vision."): t for n, t in values.items()})
    assert set(report.dropped.values()) == {"not of the part 'vision'"}
    assert torch.equal(model.qformer.query_tokens, before["qformer.query_tokens"])


def test_parts_say_what_they_were_built_without(model, before):
    model.vision.left_out = {r"tower\.blocks\.1\..*": "the last block"}
    more = {"vision.tower.blocks.1.norm1.weight": torch.zeros(64)}
    report = load_state(model, before | more, OWN)
    assert report.dropped == dict.fromkeys(more, "the last block")
    with pytest.raises(ValueError, match="file: vision.tower.blocks.2.norm1.weight"):
        load_state(model, before | {"vision.tower.blocks.2.norm1.weight": torch.zeros(64)}, OWN)


def test_a_source_tells_what_it_holds(model, tmp_path):
    torch.save(to_published(trainable(model), T5), tmp_path / "a.pth")
    source = open_source(tmp_path / "a.pth")
    assert source.format is T5 and source.holds("fusion.") and source.fills("fusion.")
    assert source.holds("caption_decoder.language_model.")
    assert not source.fills("caption_decoder.language_model.") and not source.holds("vision.")


def published_file(model, folder):
    torch.save({"model": to_published(trainable(model), T5)}, folder / "a.pth")
    return folder / "a.pth"


def truncated(model, folder):
    path = published_file(model, folder)
    path.write_bytes(path.read_bytes()[:-1000])
    return path


def truncated_folder(model, folder):
    trainable(model)
    file = write_folder(model, folder) / "frozen.safetensors"
    file.write_bytes(file.read_bytes()[:-7])
    return folder


class Dangerous:
    def __reduce__(self):
        return print, ("code",)


def with_code(model, folder):
    content = {"model": to_published(trainable(model), T5), "extra": Dangerous()}
    torch.save(content, folder / "a.pth")
    return folder / "a.pth"


def of_another_size(model, folder):
    values = trainable(model)
    values["caption_decoder.projection.weight"] = torch.zeros(48, 32)
    torch.save({"model": to_published(values, T5)}, folder / "a.pth")
    return folder / "a.pth"


def without_a_shard(model, folder):
    trainable, frozen = split_trainable(model)
    names = sorted(trainable | frozen)
    places = {name: f"model-{number % 3}.safetensors" for number, name in enumerate(names)}
    for file in ("model-0.safetensors", "model-1.safetensors"):
        shard = {name: (trainable | frozen)[name] for name in names if places[name] == file}
        save_file(shard, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return folder


@pytest.mark.parametrize(
    ("write", "error", "match"),
    [
        (truncated, ValueError, "a.pth is not a readable PyTorch checkpoint"),
        (truncated_folder, ValueError, "frozen.safetensors is broken"),
        (with_code, ValueError, "a.pth is not a readable PyTorch checkpoint: .* could run code"),
        (of_another_size, ValueError, r"projection.weight: file \(48, 32\), model \(32, 32\)"),
        (without_a_shard, FileNotFoundError, "model-2.safetensors is missing; .*index.json names"),
    ],
)
def test_wrong_files_leave_the_model_as_it_was(
    model, before, tmp_path, capsys, write, error, match
):
    path = write(model, tmp_path)
    with pytest.raises(error, match=f"(?s){match}"):
        load_weights(model, path)
    assert_equal(model, before)
    assert not capsys.readouterr().out


def test_a_missing_file_names_the_key_and_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint at .*none.pth$"):
        open_source(tmp_path / "none.pth")
    with pytest.raises(FileNotFoundError, match="a.key: no checkpoint at .*download_assets.py"):
        open_source(tmp_path / "eva_vit_g.pth", "a.key")
