import math
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from dynrefer.config import load_config
from dynrefer.datasets.shapes_language import COLOURS, FIGURES, RELATIONS, SIZES, TEXTURES
from dynrefer.models.builders import build_model, load_vocabularies
from dynrefer.models.checkpoints import split_trainable
from scripts import pretrain_encoder
from tests.end_to_end.conftest import ROOT, run_command, run_torchrun
from tests.tiny_model import tiny_run


@pytest.fixture(scope="module")
def run_file(tmp_path_factory, world):
    return tiny_run(tmp_path_factory.mktemp("pretraining"), world)


def test_loss_is_a_softmax_over_each_group_that_has_a_positive():
    logits = torch.tensor([[2.0, 0, 1, 0, 3], [0.0, 1, 5, 5, 5]])
    labels = torch.tensor([[0.0, 1, 0, 1, 0], [1.0, 0, 0, 0, 0]])
    first = (math.log(math.exp(2) + 1) + math.log(1 + math.e)) / 2
    second = functional.cross_entropy(logits[:1, 2:], torch.tensor([1]))  # one region has none
    loss = pretrain_encoder._loss(logits, labels, [2, 3])
    torch.testing.assert_close(loss, torch.tensor(first) + second)
    nothing = pretrain_encoder._loss(logits, torch.zeros_like(labels), [2, 3])
    assert nothing == 0


def test_labels_are_class_and_attributes(run_file):
    config = load_config(run_file)
    vocabularies = load_vocabularies(config.model)
    data = pretrain_encoder.training_images(config, vocabularies)
    index = data.datasets[0].index
    labels = pretrain_encoder.Labels(index, vocabularies)
    assert labels.groups == [len(part) for part in (FIGURES, COLOURS, TEXTURES, SIZES, RELATIONS)]
    batch = type("Batch", (), {"ids": [index.region(k).id for k in range(4)]})
    for row, region in zip(labels.of(batch), map(index.region, range(4)), strict=True):
        figure = region.extra_info["coco_result"]["category"]
        assert FIGURES[row[: len(FIGURES)].argmax()] == figure
        vector = torch.tensor(region.extra_info["ovad_result"]["att_vec"])
        assert torch.equal(row[len(FIGURES) :], (vector == 1).float())


@pytest.mark.parametrize("processes", [1, 2])
def test_it_writes_a_checkpoint_that_a_model_starts_from(run_file, tmp_path, processes):
    out = tmp_path / "encoder"
    arguments = ["--cfg-path", run_file, "--out", out, "--epochs", 1, "--images", 2]
    script = ROOT / "scripts" / "pretrain_encoder.py"
    if processes == 1:
        result = run_command(sys.executable, script, *arguments)
    else:
        result = run_torchrun(script, *arguments, processes=processes)
    assert result.returncode == 0, result.stderr
    written = load_file(out / "trainable.safetensors")
    config = load_config(run_file)
    torch.manual_seed(config.run.seed)
    fresh = split_trainable(build_model(config.model))[0]
    assert set(written) == set(fresh)
    changed = {name.split(".")[0] for name in written if not written[name].equal(fresh[name])}
    assert changed == {"vision", "fusion", "qformer"}
    config.model.pretrained = str(out)
    config.model.vision.freeze = True
    started = build_model(config.model).state_dict()
    assert all(started[name].equal(written[name]) for name in written)
