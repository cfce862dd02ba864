import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import TextTransformer
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import T5Config

from dynrefer.checkpoints import folders
from dynrefer.checkpoints.configs import folder_config
from dynrefer.checkpoints.folders import write_tensors
from dynrefer.checkpoints.loading import open_source, split_trainable
from dynrefer.checkpoints.places import without_memory
from dynrefer.config import ConfigError, load_config
from dynrefer.config.schema import SelectorConfig
from dynrefer.models import pretrained
from dynrefer.models.builders import build_model
from dynrefer.models.decoders.caption_causal import build_causal
from dynrefer.models.decoders.caption_t5 import build_t5
from dynrefer.models.dynrefer import DynRefer
from dynrefer.models.language_models import plain_fields
from dynrefer.models.text_encoder import TransformerTextEncoder
from dynrefer.predictor import RegionPredictor
from dynrefer.registry import registry
from dynrefer.runners.checkpointing import Position, save_checkpoint
from tests.tiny_model import tiny_batch, tiny_config, tiny_model

LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "tie_word_embeddings": False,
}
FROZEN_PARTS = {"vision": {"freeze": True}, "caption_decoder": {"freeze": True}}
WORDS = {"name": "word_transformer", "options": {"width": 16, "heads": 2, "output_width": 32}}
TOWER = {"name": "clip_for_folders", "options": {"checkpoint": "tower.safetensors"}}
VARIANTS = {
    "all trains": {},
    "frozen T5 in bf16": OmegaConf.merge(
        FROZEN_PARTS, {"caption_decoder": {"precision": "bf16"}, "tag_threshold": 0.4}
    ),
    "frozen Llama": OmegaConf.merge(
        FROZEN_PARTS, {"arch": "dynrefer_vicuna", "caption_decoder": {"config": LLAMA}}
    ),
    "adapters": {"caption_decoder": {"lora": {"rank": 2, "alpha": 4}, "freeze": True}},
    "text encoder that trains": {"text_encoder": WORDS},
    "text tower": {"text_encoder": TOWER},
    "text tower with a cache": {"text_encoder": TOWER, "vocabulary": {"cache": "cache"}},
}


@registry.register("text_encoder", "clip_for_folders")
def clip_for_folders(checkpoint=None):
    """CLIP's text tower at a tiny size; from a file, as the published models have theirs."""
    with without_memory(checkpoint is not None):
        transformer = TextTransformer(
            context_length=12, vocab_size=49408, width=16, heads=2, layers=1, output_dim=32
        )
    tokenize = SimpleTokenizer(context_length=12)
    encoder = TransformerTextEncoder(transformer, tokenize, freeze=True)
    if checkpoint is not None:
        open_source(checkpoint, "model.text_encoder.options.checkpoint").load(
            encoder, prefix="text_encoder."
        )
    return encoder


def make_config(folder, changes):
    """The tiny configuration with changes; its files lie in ``folder``."""
    config = tiny_config(folder)
    if OmegaConf.select(OmegaConf.create(changes), "caption_decoder.config"):
        config.model.caption_decoder.config = None
    config = OmegaConf.merge(config, {"model": changes})
    if config.model.text_encoder.name == "word_transformer":
        config.model.text_encoder.options.pop("width")
        config = OmegaConf.merge(config, {"model": changes})
        config.model.text_encoder.options.tokenizer = config.model.caption_decoder.tokenizer
    if config.model.text_encoder.name == "clip_for_folders":
        config.model.text_encoder.options = {"checkpoint": str(folder / "tower.safetensors")}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            tower = clip_for_folders()
        named = (("text_encoder." + name, t) for name, t in tower.state_dict().items())
        write_tensors(folder, "tower", named)
    if config.model.vocabulary.cache:
        config.model.vocabulary.cache = str(folder / "cache")
    return config


@pytest.fixture(params=list(VARIANTS))
def variant(request, tmp_path):
    """A configuration, its folder, and its model."""
    config = make_config(tmp_path / "source", VARIANTS[request.param])
    return config, tmp_path / "source", tiny_model(config)


def is_built(model):
    """Whether the text tower behind a cache has been built."""
    return model.text_encoder._build.cache_info().currsize == 1


def contents(folder):
    """Every file of a folder with its bytes."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def assert_same_model(one, other):
    states = one.state_dict(), other.state_dict()
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[0].items():
        found = states[1][name]
        assert found.dtype == tensor.dtype and torch.equal(found, tensor), name
    gradients = [[p.requires_grad for p in model.parameters()] for model in (one, other)]
    assert gradients[0] == gradients[1]
    assert one.vocabularies == other.vocabularies
    assert one.generation == other.generation and one.tag_threshold == other.tag_threshold


def test_round_trip_without_the_files_it_was_made_of(variant, tmp_path, monkeypatch):
    _, source, model = variant
    batch = tiny_batch(model, 3)
    expected = model.predict(batch)
    assert model.save_pretrained(tmp_path / "saved") == tmp_path / "saved"
    shutil.rmtree(source)
    (tmp_path / "saved").rename(tmp_path / "moved")
    monkeypatch.chdir("/")
    loaded = DynRefer.from_pretrained(tmp_path / "moved")
    assert not loaded.training
    assert_same_model(loaded, model)
    assert loaded.predict(batch) == expected


def test_a_loaded_model_is_saved_byte_by_byte_the_same(variant, tmp_path):
    _, _, model = variant
    model.save_pretrained(tmp_path / "first")
    model.predict(tiny_batch(model, 2))  # leaves its traces in the tokenizer
    model.caption_decoder.loss(torch.zeros(1, 4, 32), ["dog|"], ["a dog"])
    model.save_pretrained(tmp_path / "second")
    DynRefer.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "third")
    first = contents(tmp_path / "first")
    assert contents(tmp_path / "second") == first
    assert contents(tmp_path / "third") == first


def test_parts_that_train_and_others_are_apart(tmp_path):
    model = tiny_model(make_config(tmp_path / "source", VARIANTS["frozen T5 in bf16"]))
    folder = model.save_pretrained(tmp_path / "saved")
    trainable, frozen = split_trainable(model)
    assert load_file(folder / "trainable.safetensors").keys() == trainable.keys()
    assert load_file(folder / "frozen.safetensors").keys() == frozen.keys()
    assert trainable and frozen


def test_shards(variant, tmp_path):
    _, _, model = variant
    limit = 100_000
    folder = model.save_pretrained(tmp_path / "saved", max_shard_bytes=limit)
    assert not (folder / "trainable.safetensors").exists()
    index = json.loads((folder / "trainable.safetensors.index.json").read_text())
    sizes, found = {}, {}
    for file in sorted(folder.glob("trainable-*-of-*.safetensors")):
        tensors = load_file(file)
        sizes[file.name] = sum(tensor.nbytes for tensor in tensors.values())
        found |= dict.fromkeys(tensors, file.name)
    assert index["weight_map"] == found and set(found) == set(split_trainable(model)[0])
    assert index["metadata"]["total_size"] == sum(sizes.values())
    assert len(sizes) > 3 and max(sizes.values()) <= limit
    assert_same_model(DynRefer.from_pretrained(folder), model)


def test_frozen_weights_can_be_left_to_their_files(tmp_path):
    config = make_config(tmp_path / "source", VARIANTS["frozen T5 in bf16"])
    vision = tmp_path / "vision.safetensors"
    save_file(tiny_model(config).vision.state_dict(), vision)
    config.model.vision.checkpoint = str(vision)
    model = build_model(config.model).eval()
    folder = model.save_pretrained(tmp_path / "saved", frozen=False)
    stored = load_file(folder / "frozen.safetensors").keys()
    assert stored and not any(name.startswith("vision.") for name in stored)
    assert folder_config(folder).model.vision.checkpoint == str(vision)
    assert_same_model(DynRefer.from_pretrained(folder), model)
    whole = model.save_pretrained(tmp_path / "whole")
    assert folder_config(whole).model.vision.checkpoint is None


def test_files_outside_are_not_taken_for_files_of_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = make_config(tmp_path / "source", VARIANTS["frozen T5 in bf16"])
    tiny_model(config).save_pretrained("first")
    config.model.pretrained = "./first"
    model = build_model(config.model)
    model.save_pretrained("second", frozen=False)
    sources = folder_config("second").model.pretrained
    assert sources == [str(tmp_path / "first"), "second"]
    monkeypatch.chdir("/")
    assert_same_model(DynRefer.from_pretrained(tmp_path / "second"), model)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_cuda(tmp_path):
    """From the GPU and to it, in the precision that the tower has there."""
    changes = {"vision": {"freeze": True, "precision": "fp16"}}
    model = tiny_model(make_config(tmp_path / "source", changes)).cuda()
    assert model.vision.precision == torch.float16
    loaded = DynRefer.from_pretrained(model.save_pretrained(tmp_path / "saved"), device="cuda")
    assert_same_model(loaded, model)


def test_a_text_tower_keeps_a_file_of_its_own(tmp_path):
    """So that a folder with embeddings in it starts without the tower."""
    model = tiny_model(make_config(tmp_path / "source", VARIANTS["text tower with a cache"]))
    phrases = ["a phrase of no vocabulary"]
    expected = model.text_encoder(phrases)
    folder = model.save_pretrained(tmp_path / "saved")
    thin = model.save_pretrained(tmp_path / "thin", frozen=False)
    source = model.config.text_encoder.options.checkpoint
    assert folder_config(thin).model.text_encoder.options.checkpoint == source
    assert not (thin / "text_encoder.safetensors").exists()
    shutil.rmtree(tmp_path / "source")
    for saved in (folder, thin):
        loaded = DynRefer.from_pretrained(saved)
        assert loaded.predict(tiny_batch(model, 2)) == model.predict(tiny_batch(model, 2))
        assert not is_built(loaded)
    loaded = DynRefer.from_pretrained(folder)
    assert torch.equal(loaded.text_encoder(phrases), expected)


def test_a_text_tower_is_written_once(tmp_path):
    model = tiny_model(make_config(tmp_path / "source", VARIANTS["text tower"]))
    folder = model.save_pretrained(tmp_path / "saved")
    tower = load_file(folder / "text_encoder.safetensors")
    assert tower.keys() == {n for n in model.state_dict() if n.startswith("text_encoder.")}
    assert [path.name for path in folder.glob("*.safetensors")].count("frozen.safetensors") == 0
    assert not tower.keys() & load_file(folder / "trainable.safetensors").keys()


def test_what_a_saved_model_forgets(tmp_path):
    """How its parameters were drawn, and where its tokenizer came from."""
    config = make_config(tmp_path / "source", {"from_scratch": True})
    folder = tiny_model(config).save_pretrained(tmp_path / "saved")
    assert not folder_config(folder).model.from_scratch
    assert "local" not in (folder / "tokenizer" / "tokenizer_config.json").read_text()


def test_merged_adapters(tmp_path):
    """The sum of weights and adapters is in no other file, so that it is always written."""
    config = make_config(tmp_path / "source", VARIANTS["adapters"])
    model = tiny_model(config)
    model.caption_decoder.merge_adapters()
    model.held_elsewhere = set(model.state_dict())
    for name, frozen in (("whole", True), ("thin", False)):
        folder = model.save_pretrained(tmp_path / name, frozen=frozen)
        loaded = DynRefer.from_pretrained(folder)
        assert loaded.config.caption_decoder.lora is None
        assert_same_model(loaded, model)


def test_settings_of_a_language_models_own_generation(tmp_path):
    """What a folder of transformers says of generation does not depend on where weights lie."""
    config = make_config(tmp_path / "source", VARIANTS["frozen Llama"])
    decoder = config.model.caption_decoder
    first = tiny_model(config)
    language_model = first.caption_decoder.language_model
    words = first.caption_decoder.tokenizer(["dog cat"], add_special_tokens=False).input_ids[0]
    language_model.config.eos_token_id = language_model.generation_config.eos_token_id = words
    language_model.generation_config.suppress_tokens = words
    language_model.save_pretrained(tmp_path / "llama")
    decoder.config, decoder.language_model = None, str(tmp_path / "llama")
    model = tiny_model(config)
    batch = tiny_batch(model, 6)
    loaded = DynRefer.from_pretrained(model.save_pretrained(tmp_path / "saved"))
    assert loaded.predict(batch) == model.predict(batch)


def test_vocabularies_of_the_users_own(tmp_path):
    config = make_config(tmp_path / "source", {})
    (tmp_path / "attributes.txt").write_text("striped/lined\ncolour:red\n")
    (tmp_path / "classes.txt").write_text("Dog\nice cream\n")
    config.model.vocabulary.attributes = str(tmp_path / "attributes.txt")
    config.model.vocabulary.classes = str(tmp_path / "classes.txt")
    model = tiny_model(config)
    loaded = DynRefer.from_pretrained(model.save_pretrained(tmp_path / "saved"))
    assert loaded.vocabularies == model.vocabularies


def test_a_folder_starts_the_next_training(tmp_path):
    """Its config.yaml is a base like any other, and brings its weights."""
    config = make_config(tmp_path / "source", VARIANTS["all trains"])
    model = tiny_model(config)
    model.save_pretrained(tmp_path / "saved")
    (tmp_path / "next.yaml").write_text("base: [saved/config.yaml]\nrun: {max_epoch: 1}\n")
    following = load_config(tmp_path / "next.yaml")
    assert following.model.pretrained == [str(tmp_path / "saved")]
    assert_same_model(build_model(following.model), model)


def test_adapters_can_be_put_on_a_saved_model(tmp_path):
    config = make_config(tmp_path / "source", VARIANTS["frozen Llama"])
    model = tiny_model(config)
    model.save_pretrained(tmp_path / "saved")
    options = ["model.caption_decoder.lora={rank: 2}"]
    adapted = DynRefer.from_pretrained(tmp_path / "saved", options)
    assert any("lora_A" in name for name in split_trainable(adapted)[0])
    batch = tiny_batch(model, 3)
    assert adapted.predict(batch) == model.predict(batch)  # fresh adapters change nothing


def test_a_run_that_started_from_a_folder_leaves_its_frozen_weights_there(tmp_path):
    config = make_config(tmp_path / "source", VARIANTS["frozen Llama"])
    tiny_model(config).save_pretrained(tmp_path / "saved")
    (tmp_path / "next.yaml").write_text("base: saved/config.yaml\nrun: {load_ckpt_path: x}\n")
    following = load_config(tmp_path / "next.yaml")
    model = build_model(following.model)
    nn.init.normal_(model.fusion.mlp[0].weight)
    run = save_checkpoint(tmp_path / "checkpoints", model, following, Position(), {})
    assert not (run / "frozen.safetensors").exists()
    assert_same_model(DynRefer.from_pretrained(run), model)
    assert_same_model(RegionPredictor.from_checkpoint(run, "cpu").model, model)


def test_overrides(tmp_path):
    model = tiny_model(make_config(tmp_path / "source", {}))
    model.tag_threshold, model.generation.num_beams = 0.25, 3
    model.save_pretrained(tmp_path / "saved")
    loaded = DynRefer.from_pretrained(tmp_path / "saved", ["model.loss.tag=0.5"])
    assert loaded.loss_weights.tag == 0.5
    assert loaded.tag_threshold == 0.25 and loaded.generation.num_beams == 3
    with pytest.raises(ConfigError, match="unknown key 'model.tag_treshold'"):
        DynRefer.from_pretrained(tmp_path / "saved", ["model.tag_treshold=0.5"])


def test_vocabularies_can_be_replaced_at_loading(tmp_path):
    tiny_model(make_config(tmp_path / "source", {})).save_pretrained(tmp_path / "saved")
    (tmp_path / "tags.txt").write_text("round\nsquare\n")
    loaded = DynRefer.from_pretrained(
        tmp_path / "saved", [f"model.vocabulary.tags={tmp_path}/tags.txt"]
    )
    assert loaded.vocabularies.tags.names == ("round", "square")
    assert loaded.predict(tiny_batch(loaded, 2), {"tags"})[0].tags is not None


def test_the_predictor_takes_the_folder(tmp_path):
    model = tiny_model(make_config(tmp_path / "source", {}))
    model.save_pretrained(tmp_path / "saved")
    predictor = RegionPredictor.from_checkpoint(tmp_path / "saved", "cpu")
    assert_same_model(predictor.model, model)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "mistral"])
def test_fields_of_a_causal_language_model_build_it_again(architecture):
    fields = {**LLAMA, "model_type": architecture, "vocab_size": 50, "tie_word_embeddings": True}
    model = build_causal(fields, 0, 1)
    again = build_causal(json.loads(json.dumps(plain_fields(model.config))), 0, 1)
    assert again.config.to_dict() == model.config.to_dict()


def test_fields_of_a_t5_build_it_again():
    """The vocabulary's size stays where it is the library's default; unknown fields go."""
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_heads": 2, "num_layers": 1}
    config = T5Config(**sizes, feed_forward_proj="gated-gelu", n_positions=512, output_past=True)
    fields = plain_fields(config)
    assert fields["vocab_size"] == 32128 and "n_positions" not in fields
    model = build_t5(fields, 0, 1)
    assert plain_fields(model.config) == fields
    assert model.config.dense_act_fn == "gelu" and not model.config.tie_word_embeddings


@pytest.fixture
def saved(tmp_path):
    model = tiny_model(make_config(tmp_path / "source", VARIANTS["frozen Llama"]))
    return model.save_pretrained(tmp_path / "saved", max_shard_bytes=100_000)


def test_folders_that_hold_no_model(saved, tmp_path):
    for path, message in (
        (tmp_path / "nowhere", r"no checkpoint at .*nowhere \(there is no such folder\)"),
        (tmp_path / "source", r"no checkpoint at .*source \(config.yaml is missing\)"),
    ):
        with pytest.raises(FileNotFoundError, match=message):
            DynRefer.from_pretrained(path)


def test_a_file_in_place_of_a_folder(saved):
    (file,) = saved.glob("frozen-00001-of-*")
    message = f"{file} is a file, where the folder of a checkpoint .*--cfg-path"
    with pytest.raises(ValueError, match=message):
        DynRefer.from_pretrained(file)


@pytest.fixture
def run_folder(tmp_path, monkeypatch):
    """A run whose vision tower has a file of its own, every path being relative; and its model."""
    monkeypatch.chdir(tmp_path)
    words = {**WORDS, "options": {**WORDS["options"], "context_length": 20}}
    changes = {**VARIANTS["frozen T5 in bf16"], "text_encoder": words}
    config = make_config(Path("source"), changes)
    tiny_model(make_config(Path("other"), changes), seed=7).save_pretrained("encoder")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        save_file(tiny_model(config).vision.state_dict(), "vision.safetensors")
    config.model.vision.checkpoint, config.model.pretrained = "vision.safetensors", "encoder"
    config.run.view_selector = SelectorConfig("task_prior", [0.3, 1.0])
    config.run.train_view_selector = SelectorConfig("image_prior")
    model = build_model(config.model).eval()
    nn.init.normal_(model.fusion.mlp[0].weight)
    saved = save_checkpoint(Path("run/checkpoints"), model, config, Position(), {})
    Path("run/checkpoints/best").symlink_to(saved.name)
    return tmp_path, model


def test_a_checkpoint_of_a_run_loads_from_anywhere(run_folder, monkeypatch):
    """With what it started from, found by where it lies from the folder; the rest is in it."""
    folder, model = run_folder
    shutil.rmtree(folder / "source")
    shutil.rmtree(folder / "other")
    moved = folder.with_name(folder.name + "_moved")
    folder.rename(moved)
    monkeypatch.chdir("/")
    assert not list((moved / "run").rglob("frozen*"))
    loaded = DynRefer.from_pretrained(moved / "run" / "checkpoints" / "last")
    assert_same_model(loaded, model)
    batch = tiny_batch(model, 2)
    assert loaded.predict(batch) == model.predict(batch)
    (moved / "vision.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="model.vision.checkpoint: no checkpoint at .*visi"):
        DynRefer.from_pretrained(moved / "run" / "checkpoints" / "last")


def test_a_runs_folder_in_place_of_its_checkpoint(run_folder, monkeypatch):
    folder, model = run_folder
    for path in (folder / "run", folder / "run" / "checkpoints"):
        assert_same_model(DynRefer.from_pretrained(path), model)
        assert len(open_source(path).tensors) == len(split_trainable(model)[0])
    (folder / "run" / "checkpoints" / "best").unlink()
    assert_same_model(DynRefer.from_pretrained(folder / "run"), model)
    (folder / "run" / "checkpoints" / "last").unlink()
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*run \(config.yaml is missing"):
        DynRefer.from_pretrained(folder / "run")


def test_view_selectors_are_kept(run_folder, tmp_path):
    """A saved model looks at regions as the run did that it is from, however often it is saved."""
    folder, _ = run_folder
    model = DynRefer.from_pretrained(folder / "run")
    DynRefer.from_pretrained(model.save_pretrained(tmp_path / "a")).save_pretrained(tmp_path / "b")
    for name in ("a", "b"):
        run = folder_config(tmp_path / name).run
        assert run.view_selector == {"name": "task_prior", "ratios": [0.3, 1.0]}
        assert run.train_view_selector.name == "image_prior"
        predictor = RegionPredictor.from_checkpoint(tmp_path / name, "cpu")
        (result,) = predictor.predict(np.zeros((40, 40, 3), np.uint8), [[1, 1, 30, 30]])
        assert result.prediction.ratios == pytest.approx([0, 0.3, 1])
    predictor = RegionPredictor.from_checkpoint(folder / "run", "cpu")
    predictor.model.save_pretrained(tmp_path / "c")
    assert contents(tmp_path / "c") == contents(tmp_path / "a")


@pytest.mark.parametrize("freeze", ["[]", "[fusion,qformer,tag_decoder]", "[vision,text_encoder]"])
def test_what_is_frozen_may_differ_from_what_a_checkpoint_was_trained_with(run_folder, freeze):
    folder, model = run_folder
    options = [f"model.freeze={freeze}", "model.vision.freeze=false"]
    options += ["model.caption_decoder.freeze=false"]
    loaded = DynRefer.from_pretrained(folder / "run", options)
    frozen = {name.split(".")[0] for name, p in loaded.named_parameters() if not p.requires_grad}
    assert frozen == set(freeze.strip("[]").split(",")) - {""}
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor.float()), name


@pytest.mark.parametrize("name", ["{}-00002-of-*", "{}.safetensors.index.json"])
@pytest.mark.parametrize("stem", ["trainable", "frozen"])
def test_missing_weights(saved, stem, name):
    (file,) = saved.glob(name.format(stem))
    file.unlink()
    with pytest.raises(FileNotFoundError, match=rf"{file} is missing; .*config.yaml names it"):
        DynRefer.from_pretrained(saved)


def test_a_truncated_shard(saved):
    (file,) = saved.glob("frozen-00002-of-*")
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(ValueError, match=rf"{file} is broken"):
        DynRefer.from_pretrained(saved)


@pytest.mark.parametrize("name", ["tags.txt", "tokenizer/tokenizer.json"])
def test_a_missing_vocabulary_or_tokenizer(saved, name):
    (saved / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{saved}/{name.partition('/')[0]}"):
        DynRefer.from_pretrained(saved)


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (2, r"config.yaml: format_version: 2 was written by a newer DynRefer.*up to 1"),
        (0, "config.yaml: format_version: 0; valid is 1 to 1"),
        ("new", "config.yaml: format_version: new; valid is 1 to 1"),
    ],
)
def test_versions_of_the_format(saved, version, message):
    config = OmegaConf.load(saved / "config.yaml")
    config.format_version = version
    config.model.part_of_the_future = 1  # the version is what tells why it is unknown
    OmegaConf.save(config, saved / "config.yaml")
    with pytest.raises(ConfigError, match=message):
        DynRefer.from_pretrained(saved)


def test_a_folder_of_another_architecture(saved):
    with pytest.raises(ValueError, match="another architecture"):
        DynRefer.from_pretrained(saved, ["model.qformer.hidden_size=64"])


def test_nothing_is_overwritten(saved, model, tmp_path):
    before = contents(saved)
    with pytest.raises(FileExistsError, match="saved exists and is not an empty folder"):
        model.save_pretrained(saved)
    assert contents(saved) == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="file exists"):
        model.save_pretrained(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    model.save_pretrained(tmp_path / "empty")
    assert DynRefer.from_pretrained(tmp_path / "empty").config.arch == "dynrefer_t5"


@pytest.mark.parametrize("broken", ["save_file", "_save_vocabularies", "save_tokenizer"])
def test_an_interrupted_write_leaves_no_folder(model, tmp_path, monkeypatch, broken):
    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(folders if broken == "save_file" else pretrained, broken, stop)
        model.save_pretrained(tmp_path / "saved", max_shard_bytes=100_000)
    assert list(tmp_path.iterdir()) == []
    model.save_pretrained(tmp_path / "saved")


def test_a_model_composed_by_hand_has_no_configuration(model, tmp_path):
    model.config = None
    with pytest.raises(ValueError, match="build_model gives one"):
        model.save_pretrained(tmp_path / "saved")


def test_tensors_that_train_must_be_there(model, tmp_path):
    tensors = dict(model.state_dict())
    del tensors["fusion.mlp.0.weight"]
    with pytest.raises(ValueError, match="1 tensors that training changes .*fusion.mlp.0.weight"):
        model.save_pretrained(tmp_path / "saved", tensors=tensors)
    assert not (tmp_path / "saved").exists()


def test_other_tensors_in_place_of_the_models_own(model, tmp_path):
    """So a skeleton without memory can be saved with weights that are read one by one."""
    tensors = {name: torch.full_like(t, 2.0) for name, t in model.state_dict().items()}
    folder = model.to("meta").save_pretrained(tmp_path / "saved", tensors=tensors)
    loaded = DynRefer.from_pretrained(folder)
    assert all((parameter == 2).all() for parameter in loaded.parameters())
    assert isinstance(loaded, nn.Module)
