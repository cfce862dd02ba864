"""Embeddings of vocabularies in a folder: the same predictions, and no text tower."""

import logging
import multiprocessing
import sys
import zlib
from dataclasses import asdict
from math import prod
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from torch import nn

from dynrefer.models.builders import build_model, load_vocabularies
from dynrefer.models.text_encoder.embeddings import (
    KINDS,
    CachedTextEncoder,
    EmbeddingCache,
    cached_text_encoder,
)
from dynrefer.models.text_encoder.towers import BATCH, SILENT, TextEncoder
from dynrefer.registry import registry
from tests.tiny_model import tiny_batch

OPTIONS = {"checkpoint": "/some/where/tower.safetensors", "width": 32}
PHRASES = ["the dog", "the  is red", "ice cream"]


class Tower(TextEncoder):
    """A frozen tower with a file of its own, which counts how often it was built and called."""

    built = embedded = 0

    def __init__(self, checkpoint: str, width: int = 32) -> None:
        super().__init__()
        Tower.built += 1
        self.width = width
        self.words = nn.EmbeddingBag(100, width)
        self.projection = nn.Linear(width, width)
        self.load_state_dict(load_file(checkpoint))
        self.requires_grad_(False)

    def forward(self, phrases):
        Tower.embedded += len(phrases)
        device = self.projection.weight.device
        ids = [[zlib.crc32(word.encode()) % 100 for word in p.split()] or [0] for p in phrases]
        bags = [self.words(torch.tensor([row], device=device)) for row in ids]
        return self.projection(torch.cat(bags))


class TrainedTower(Tower):
    def __init__(self, checkpoint: str, width: int = 32) -> None:
        super().__init__(checkpoint, width)
        self.requires_grad_(True)


@pytest.fixture
def tower_file(tmp_path, monkeypatch):
    monkeypatch.setitem(registry._entries["text_encoder"], "tower", Tower)
    monkeypatch.setitem(registry._entries["text_encoder"], "trained_tower", TrainedTower)
    monkeypatch.setattr(Tower, "built", 0)
    monkeypatch.setattr(Tower, "embedded", 0)
    generator = torch.Generator().manual_seed(3)
    shapes = {"words.weight": (100, 32), "projection.weight": (32, 32), "projection.bias": (32,)}
    state = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    save_file(state, tmp_path / "tower.safetensors")
    return tmp_path / "tower.safetensors"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache" / "text_embeddings"


@pytest.fixture
def with_tower(config, tower_file, folder):
    """The tiny configuration with the tower, and with or without a folder for its embeddings."""

    def of(kept: bool = True, name: str = "tower"):
        vocabulary = {"cache": str(folder) if kept else None}
        copied = OmegaConf.merge(config, {"model": {"vocabulary": vocabulary}})
        copied.model.text_encoder.name = name
        copied.model.text_encoder.options = {"checkpoint": str(tower_file)}
        return copied

    return of


def model_of(config):
    """A tiny model whose weights, apart from the tower's, follow from their names."""
    model = build_model(config.model)
    for name, parameter in model.named_parameters():
        is_drawn = parameter.ndim > 1 or name.endswith("bias")
        if is_drawn and not name.startswith("text_encoder."):
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            scale = 1.5 / prod(parameter.shape[1:]) ** 0.5
            parameter.data = scale * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def predictions(model):
    return [asdict(prediction) for prediction in model.predict(tiny_batch(model, 3))]


@pytest.fixture
def cache(folder):
    return EmbeddingCache(folder, "tower", OPTIONS)


def embeddings_of(phrases, width=8):
    generator = torch.Generator().manual_seed(len(phrases))
    return torch.randn(len(phrases), width, generator=generator)


def test_predictions_are_identical_with_and_without_a_folder(with_tower, tower_file, folder):
    expected = predictions(model_of(with_tower(kept=False)))
    assert expected[0]["attributes"] and not folder.exists()
    assert predictions(model_of(with_tower())) == expected
    assert len(list(folder.iterdir())) == len(KINDS)
    tower_file.unlink()
    Tower.built = Tower.embedded = 0
    model = model_of(with_tower())
    assert predictions(model) == expected
    assert Tower.built == Tower.embedded == 0


def test_one_vocabulary_keeps_all(with_tower, folder):
    model = model_of(with_tower())
    model.predict(tiny_batch(model, 1), {"classes"})
    lists = [getattr(model.vocabularies, kind).phrases for kind in KINDS]
    assert Tower.embedded == sum(map(len, lists))
    cache = EmbeddingCache(folder, "tower", OPTIONS)
    assert {cache.path(phrases).name for phrases in lists} != {
        file.name for file in folder.iterdir()
    }  # other options, other files
    assert {model.text_encoder.cache.path(phrases) for phrases in lists} == set(folder.iterdir())
    assert predictions(model_of(with_tower())) and Tower.embedded == sum(map(len, lists))


def test_training_builds_the_tower(with_tower):
    model = model_of(with_tower(kept=False))
    expected = model(tiny_batch(model, 3))
    predictions(model_of(with_tower()))
    Tower.built = 0
    model = model_of(with_tower()).train()
    assert Tower.built == 0
    for _ in range(2):
        model(tiny_batch(model, 3)).total.backward()
    assert Tower.built == 1
    assert torch.equal(model.eval()(tiny_batch(model, 3)).total, expected.total)


def test_the_towers_weights_are_no_part_of_the_model(with_tower, folder):
    empty = model_of(with_tower())
    predictions(empty)
    full = model_of(with_tower())
    assert Tower.built == 1
    names = list(empty.state_dict())
    assert names == list(full.state_dict()) and not any("text_encoder" in name for name in names)
    full(tiny_batch(full, 2))
    assert Tower.built == 2 and list(full.state_dict()) == names
    assert not list(full.text_encoder.parameters())


def test_random_weights_are_the_same_with_an_empty_and_a_full_folder(with_tower):
    states, draws = [], []
    for _ in range(2):
        torch.manual_seed(11)
        model = build_model(with_tower().model)
        states.append(model.state_dict())
        predictions(model.eval())
        torch.manual_seed(12)
        model.text_encoder(PHRASES)
        draws.append(torch.rand(1))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert torch.equal(*draws)


def test_the_precision_of_the_run_does_not_matter(with_tower, folder):
    expected = model_of(with_tower(kept=False)).phrase_embeddings("tags")
    with torch.autocast("cpu", torch.bfloat16):
        first = model_of(with_tower()).phrase_embeddings("tags")
        second = model_of(with_tower()).phrase_embeddings("tags")
    assert first.dtype == torch.float32
    assert torch.equal(first, expected) and torch.equal(second, expected)


def test_an_encoder_that_trains_is_not_kept(with_tower, folder):
    model = model_of(with_tower(name="trained_tower"))
    assert isinstance(model.text_encoder, TrainedTower)
    predictions(model)
    assert not folder.exists()


def test_an_encoder_without_a_file_is_not_kept(config, folder):
    copied = OmegaConf.merge(config, {"model": {"vocabulary": {"cache": str(folder)}}})
    predictions(model_of(copied))
    assert not folder.exists()


def test_the_missing_file_of_a_tower_that_training_needs(config, folder):
    changes = {"text_encoder": {"name": "eva_clip"}, "vocabulary": {"cache": str(folder)}}
    copied = OmegaConf.merge(config, {"model": changes})
    copied.model.text_encoder.options = {"checkpoint": "weights/eva_clip_psz14.pt"}
    with pytest.raises(FileNotFoundError, match="download_assets.py eva_clip_psz14"):
        build_model(copied.model)
    options = OmegaConf.to_container(copied.model.text_encoder.options)
    cache = EmbeddingCache(folder, "eva_clip", options)
    vocabularies = load_vocabularies(copied.model)
    for kind in KINDS:
        phrases = getattr(vocabularies, kind).phrases
        cache.save(phrases, embeddings_of(phrases, 1024))
    model = build_model(copied.model).eval()
    assert predictions(model)
    with pytest.raises(FileNotFoundError, match="model.text_encoder.options.checkpoint.*fetches"):
        model(tiny_batch(model, 2))


def test_embeddings_of_another_width_than_the_towers(with_tower, tower_file):
    model = model_of(with_tower())
    lists = [getattr(model.vocabularies, kind).phrases for kind in KINDS]
    for phrases in lists:
        model.text_encoder.cache.save(phrases, embeddings_of(phrases, 16))
    encoder = cached_text_encoder(
        lambda: Tower(str(tower_file)), model.text_encoder.cache, model.vocabularies
    )
    assert encoder.width == 16
    with pytest.raises(ValueError, match="width 32, those in .* have 16; delete that folder"):
        encoder(PHRASES)


def test_many_phrases_go_in_batches_and_show_progress(tower_file, capfd, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    tower = Tower(str(tower_file))
    phrases = [f"word{i} word{i % 7}" for i in range(BATCH * SILENT + 1)]
    embeddings = tower.embed_vocabulary(phrases)
    assert "embedding 641 phrases: 100%" in capfd.readouterr().err
    torch.testing.assert_close(embeddings, tower(phrases))
    tower.embed_vocabulary(phrases[:-1])
    assert "embedding" not in capfd.readouterr().err


def test_what_the_key_depends_on(folder, cache):
    path = cache.path(PHRASES)
    elsewhere = EmbeddingCache(folder, "tower", {"checkpoint": "tower.safetensors", "width": 32})
    assert elsewhere.path(PHRASES) == path and path.parent == folder
    others = [
        cache.path(PHRASES[::-1]),
        cache.path(PHRASES[:2]),
        cache.path(["the dogthe  is red", "ice cream"]),
        EmbeddingCache(folder, "other", OPTIONS).path(PHRASES),
        EmbeddingCache(folder, "tower", {**OPTIONS, "width": 64}).path(PHRASES),
        EmbeddingCache(folder, "tower", {**OPTIONS, "checkpoint": "b.pt"}).path(PHRASES),
    ]
    assert len({path, *others}) == 1 + len(others)


def test_what_is_kept_comes_back(cache, folder):
    assert cache.load(PHRASES) is None
    embeddings = embeddings_of(PHRASES)
    assert cache.save(PHRASES, embeddings)
    assert torch.equal(cache.load(PHRASES), embeddings)
    assert [file.name for file in folder.iterdir()] == [cache.path(PHRASES).name]


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        truncated,
        flipped,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no safetensors file" * 20),
        lambda path: save_file({"embeddings": embeddings_of(PHRASES)}, path),
        lambda path: save_file({"embeddings": embeddings_of(PHRASES[:2])}, path),
        lambda path: save_file({"embeddings": embeddings_of(PHRASES).half()}, path),
        lambda path: save_file({"other": embeddings_of(PHRASES)}, path),
    ],
)
def test_a_broken_file_is_made_anew_with_a_warning(cache, caplog, damage):
    embeddings = embeddings_of(PHRASES)
    cache.save(PHRASES, embeddings)
    path = cache.path(PHRASES)
    damage(path)
    with caplog.at_level(logging.WARNING):
        assert cache.load(PHRASES) is None
    assert f"text embeddings in {path} are made anew" in caplog.text
    cache.save(PHRASES, embeddings)
    assert torch.equal(cache.load(PHRASES), embeddings)


def test_predictions_survive_a_broken_file(with_tower, folder):
    expected = predictions(model_of(with_tower()))
    flipped(sorted(folder.iterdir())[0])
    assert predictions(model_of(with_tower())) == expected
    Tower.built = 0
    assert predictions(model_of(with_tower())) == expected
    assert Tower.built == 0


@pytest.mark.parametrize("is_folder", [False, True])
def test_another_checkpoint_of_the_same_name(tmp_path, folder, caplog, is_folder):
    checkpoint = tmp_path / "tower.pt"
    content = checkpoint / "model.safetensors" if is_folder else checkpoint
    content.parent.mkdir(exist_ok=True)
    content.write_bytes(b"weights")
    cache = EmbeddingCache(folder, "tower", {"checkpoint": str(checkpoint)})
    cache.save(PHRASES, embeddings_of(PHRASES))
    assert cache.load(PHRASES) is not None
    content.write_bytes(b"other weights")
    assert cache.load(PHRASES) is None
    assert f"{checkpoint} is not the file that it was made with" in caplog.text
    content.unlink()
    if is_folder:
        checkpoint.rmdir()
    assert cache.load(PHRASES) is not None


def test_a_folder_that_cannot_be_written(with_tower, folder, caplog):
    expected = predictions(model_of(with_tower(kept=False)))
    folder.parent.parent.mkdir(exist_ok=True)
    folder.parent.write_text("a file in its place")
    model = model_of(with_tower())
    assert predictions(model) == expected and isinstance(model.text_encoder, CachedTextEncoder)
    assert f"text embeddings cannot be kept in {folder}" in caplog.text


def test_keeping_them_in_another_folder(with_tower, tower_file, tmp_path):
    model = model_of(with_tower())
    other = EmbeddingCache(tmp_path / "other", "tower", {"checkpoint": str(tower_file)})
    model.text_encoder.keep(other)
    for kind in KINDS:
        phrases = getattr(model.vocabularies, kind).phrases
        assert torch.equal(other.load(phrases), model.phrase_embeddings(kind))
    embedded = Tower.embedded
    model.text_encoder.keep(EmbeddingCache(tmp_path / "third", "tower", {"checkpoint": "x"}))
    assert Tower.embedded == embedded  # from the first folder


def _keep_and_load(folder: Path) -> None:
    cache = EmbeddingCache(folder, "tower", OPTIONS)
    embeddings = embeddings_of(PHRASES)
    for _ in range(100):
        assert cache.save(PHRASES, embeddings)
        assert torch.equal(cache.load(PHRASES), embeddings)


def test_several_processes_at_once(cache, folder):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_keep_and_load, args=(folder,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert list(folder.iterdir()) == [cache.path(PHRASES)]
