import argparse
import math

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from dynrefer import distributed
from dynrefer.checkpoints.files import open_checkpoint
from dynrefer.checkpoints.loading import split_trainable
from dynrefer.config import load_config
from dynrefer.datasets.shapes import words
from dynrefer.datasets.shapes.words import FIGURES, TAGS
from dynrefer.models.builders import build_model, load_vocabularies
from scripts import pretrain_encoder
from tests.processes import run_together
from tests.tiny_model import tiny_run


@pytest.fixture(scope="module")
def run_file(tmp_path_factory, world):
    return tiny_run(tmp_path_factory.mktemp("pretraining"), world)


@pytest.fixture(scope="module")
def learned_text(run_file):
    """Options that give the tiny model a text encoder with weights."""
    tokenizer = run_file.parent / "vocabulary" / "tokenizer"
    name, options = "word_transformer", f"{{tokenizer: {tokenizer}, context_length: 24}}"
    return [f"model.text_encoder.name={name}", f"model.text_encoder.options={options}"]


def test_loss_is_a_softmax_over_each_group_that_has_a_positive():
    logits = torch.tensor([[2.0, 0, 1, 0, 3], [0.0, 1, 5, 5, 5]])
    labels = torch.tensor([[0.0, 1, 0, 1, 0], [1.0, 0, 0, 0, 0]])
    first = (math.log(math.exp(2) + 1) + math.log(1 + math.e)) / 2
    second = functional.cross_entropy(logits[:1, 2:], torch.tensor([1]))  # one region has none
    loss = pretrain_encoder._loss(logits, labels, [2, 3])
    torch.testing.assert_close(loss, torch.tensor(first) + second)
    nothing = pretrain_encoder._loss(logits, torch.zeros_like(labels), [2, 3])
    assert nothing == 0


def test_labels_are_class_attributes_and_what_is_beside(run_file):
    config = load_config(run_file)
    vocabularies = load_vocabularies(config.model)
    data = pretrain_encoder.training_images(config, vocabularies, config.run.view_selector)
    index = data.datasets[0].index
    labels = pretrain_encoder.Labels(index, vocabularies)
    parts = (FIGURES, words.COLOURS, words.TEXTURES, words.SIZES, words.RELATIONS)
    parts += (words.PLACES, words.GROUNDS, TAGS)
    assert labels.groups == [len(part) for part in parts]
    ids = [index.region(k).id for k in range(4)]
    for row, region in zip(labels.of(ids), map(index.region, range(4)), strict=True):
        figure = region.extra_info["coco_result"]["category"]
        assert FIGURES[row[: len(FIGURES)].argmax()] == figure
        vector = torch.tensor(region.extra_info["ovad_result"]["att_vec"])
        assert torch.equal(row[len(FIGURES) : -len(TAGS)], (vector == 1).float())
        beside = region.extra_info["parser_result"]["tag_set2"]
        assert row[-len(TAGS) :].nonzero().flatten().tolist() == beside


def test_contrast_is_lowest_where_every_text_meets_its_region(run_file):
    text_encoder = build_model(load_config(run_file).model).text_encoder
    contrast = pretrain_encoder.TextContrast(text_encoder, region_width=32, groups=[2])
    captions, phrases = ["the red one", "the star", "a small green ring"], ["the star", "the blue"]
    true = torch.tensor([[0.0, 0], [1, 0], [0, 0]])  # of one region it is known
    with torch.no_grad():
        contrast.region_projection.load_state_dict(contrast.text_projection.state_dict())
        contrast.log_scale.fill_(5.0)
        regions = text_encoder(captions)
        other = captions[1:] + captions[:1]
        assert contrast(regions, captions, phrases, true) < 0.01
        assert contrast(regions, other, phrases, true) > 1
        assert contrast(regions, captions, phrases, true.flip(1)) > 1
        contrast.log_scale.fill_(-20.0)
        loss = contrast(regions, captions, phrases, true)
        torch.testing.assert_close(loss, torch.tensor(math.log(3) + math.log(2)))


def test_random_batches_take_every_index_once_a_pass():
    batches = list(pretrain_encoder.random_batches(count=10, size=5, steps=4, seed=0))
    assert [sorted(batches[k] + batches[k + 1]) for k in (0, 2)] == [list(range(10))] * 2
    assert batches[:2] != batches[2:]
    assert [len(batch) for batch in pretrain_encoder.random_batches(3, 5, 2, 0)] == [3, 3]


@pytest.mark.parametrize(("images", "taken"), [(4, 4), (100, 12)])
def test_each_process_encodes_its_share_once(run_file, monkeypatch, images, taken):
    config = load_config(run_file)
    model = build_model(config.model)
    views = config.run.view_selector
    data = pretrain_encoder.training_images(config, model.vocabularies, views)
    shares = []
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        shares.append(pretrain_encoder.encode_regions(model, data, images))
    index = data.datasets[0].index
    positions = [region for image in range(taken) for region in index.regions_of_image(image)]
    regions = [
        (index.region(position).caption, index.region(position).id) for position in positions
    ]
    read = [pair for _, texts, ids in shares for pair in zip(texts, ids, strict=True)]
    assert sorted(read) == sorted(regions)
    assert all(len(queries) == len(texts) > 0 for queries, texts, _ in shares)
    assert shares[0][0].shape[1] == 4 * 32  # queries side by side


def test_the_text_encoder_learns_from_locked_regions(run_file, learned_text):
    config = load_config(run_file, learned_text)
    model = build_model(config.model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    options = argparse.Namespace(text_images=4, text_steps=3, text_batch=8, text_learning_rate=1e-3)
    views = config.run.view_selector
    data = pretrain_encoder.training_images(config, model.vocabularies, views)
    labels = pretrain_encoder.Labels(data.datasets[0].index, model.vocabularies)
    pretrain_encoder.train_text_encoder(model, config, options, labels)
    after = model.state_dict()
    changed = {name.split(".")[0] for name in before if not before[name].equal(after[name])}
    assert changed == {"text_encoder"}


def test_two_processes_write_a_checkpoint_that_a_model_starts_from(
    run_file, learned_text, tmp_path
):
    out = tmp_path / "encoder"
    arguments = ["--cfg-path", run_file, "--out", out, "--epochs", 1, "--images", 2]
    arguments += ["--text-steps", 3, "--text-batch", 8]
    arguments += ["--options", *learned_text, "model.freeze=[tag_decoder]"]
    results = run_together("scripts/pretrain_encoder.py", *arguments)
    assert [result.returncode for result in results] == [0, 0], results[0].stderr
    written = load_file(out / "trainable.safetensors")
    config = load_config(run_file, learned_text)
    torch.manual_seed(config.run.seed)
    fresh = split_trainable(build_model(config.model))[0]
    assert set(written) == set(fresh)
    changed = {name.split(".")[0] for name in written if not written[name].equal(fresh[name])}
    assert changed == {"vision", "fusion", "qformer", "text_encoder"}
    assert open_checkpoint(out).untrained == {name.split(".")[0] for name in written} - changed
    config.model.pretrained = str(out)
    config.model.vision.freeze, config.model.freeze = True, ["text_encoder"]
    started = build_model(config.model).state_dict()
    assert all(started[name].equal(written[name]) for name in written)


@pytest.mark.parametrize("option", ["images", "text_images", "text_batch"])
@pytest.mark.parametrize("number", [0, 3])
def test_what_the_processes_cannot_share_is_an_error(monkeypatch, option, number):
    monkeypatch.setattr(pretrain_encoder, "world_size", lambda: 2)
    numbers = {"images": 2, "text_images": 1200, "text_batch": 64}
    pretrain_encoder._check_shares(argparse.Namespace(**numbers))
    message = f"--{option.replace('_', '-')} {number}: must be a positive multiple of the 2 process"
    with pytest.raises(ValueError, match=message):
        pretrain_encoder._check_shares(argparse.Namespace(**numbers | {option: number}))
