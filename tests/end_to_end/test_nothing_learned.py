"""A model that has learned nothing says so, in one line."""

import json

import pytest
from safetensors.torch import save_file

from dynrefer.checkpoints.files import UNTRAINED
from dynrefer.checkpoints.loading import split_trainable
from dynrefer.config import load_config
from dynrefer.models import builders
from dynrefer.predictor import RegionPredictor
from dynrefer.runners import entry
from tests.tiny_model import tiny_model

DECODERS = "tag_decoder region_text_decoder caption_decoder"


@pytest.fixture(scope="module")
def weights(run_file, tmp_path_factory):
    """Files of the tiny model: of an encoder alone, and of all that has been trained."""
    folder, config = tmp_path_factory.mktemp("weights"), load_config(run_file)
    tensors = split_trainable(tiny_model(config))[0]
    for name, notes in (("encoder", {UNTRAINED: DECODERS}), ("whole", None)):
        (folder / name).mkdir()
        save_file(tensors, folder / name / "trainable.safetensors", notes)
    return folder


@pytest.fixture
def said(monkeypatch):
    """Warnings of the model's builders and of the entry points."""
    lines = []
    for module in (builders, entry):
        monkeypatch.setattr(module.logger, "warning", lambda text, *more: lines.append(text % more))
    return lines


@pytest.mark.parametrize("key", ["run.load_ckpt_path", "model.pretrained"])
@pytest.mark.parametrize("name", ["encoder", "whole"])
def test_predictions(weights, run_file, said, key, name):
    config = load_config(run_file, [f"{key}={weights / name}"])
    RegionPredictor.from_config(config, "cpu")
    nothing = "nothing has trained caption_decoder, region_text_decoder, tag_decoder"
    assert [f"{key} is {weights / name}" in line and nothing in line for line in said] == (
        [True] if name == "encoder" else []
    )


def test_trained_weights_after_those_of_an_encoder(weights, run_file, said):
    paths = f"[{weights / 'encoder'},{weights / 'whole'}]"
    RegionPredictor.from_config(load_config(run_file, [f"run.load_ckpt_path={paths}"]), "cpu")
    assert said == []


@pytest.mark.parametrize("name", ["encoder", "whole"])
def test_evaluation(weights, run_file, said, here, tmp_path, name):
    """Of classes alone, without a caption decoder."""
    options = [f"run.load_ckpt_path={weights / name}", f"run.output_dir={tmp_path}"]
    here(entry.evaluate_main, run_file, *options, split="test")
    nothing = "nothing has trained region_text_decoder, tag_decoder, whose predictions are noise"
    assert [nothing in line for line in said] == ([True] if name == "encoder" else [])


@pytest.mark.parametrize("tagged", [0, 1])
def test_training_without_tags(world, run_file, said, refused, monkeypatch, tmp_path, tagged):
    content = json.loads((world / "train.json").read_text())
    for annotation in content["annotations"]:
        annotation["extra_info"]["parser_result"] = {"tag_set1": [], "tag_set2": []}
    for annotation in content["annotations"][-1:] * tagged:
        annotation["extra_info"]["parser_result"]["tag_set2"] = [0]
    content["dataset"]["image_root"] = str(world / "images" / "train")
    (tmp_path / "train.json").write_text(json.dumps(content))

    def stop(*_):
        raise ValueError("the data are checked")

    monkeypatch.setattr(entry, "load_model", stop)
    options = [
        f"datasets.shapes.build_info.annotations.train=[{tmp_path}/train.json]",
        f"run.output_dir={tmp_path}/out",
    ]
    assert "the data are checked" in refused(entry.train_main, run_file, *options)
    assert len(said) == 1 - tagged and all("add_tags.py" in line for line in said)
    said.clear()
    options[1] = f"run.output_dir={tmp_path}/other"
    refused(entry.train_main, run_file, *options, "model.loss.tag=0")
    assert said == []
