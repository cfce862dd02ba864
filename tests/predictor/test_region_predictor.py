import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file, save_file

from dynrefer.config import ConfigError
from dynrefer.datasets.builders import (
    annotation_files,
    build_view_selector,
    open_annotations,
)
from dynrefer.datasets.shapes import make_shapes
from dynrefer.models.decoders.caption import Captions
from dynrefer.predictor import RegionPredictor, as_image
from dynrefer.runners.checkpointing import Position, save_checkpoint
from dynrefer.runners.evaluation import predict_split, tasks_of
from dynrefer.views import TaskPriorSelector, nested_boxes, pixel_boxes
from tests.predictor.conftest import BOXES, HEIGHT, IMAGE, WIDTH, assert_same, mask_of
from tests.tiny_model import tiny_model


@pytest.fixture(scope="module")
def checkpoint(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    save_checkpoint(folder, tiny_model(config), config, Position(), {})
    return folder / "last"


def test_every_field_is_there(predictor):
    results = predictor.predict(IMAGE, BOXES)
    vocabularies = predictor.model.vocabularies
    assert [result.prediction.id for result in results] == [0, 1, 2]
    assert [list(result.box) for result in results] == BOXES
    for result in results:
        prediction = result.prediction
        assert isinstance(prediction.caption, str) and 0 <= prediction.score <= 1
        assert set(prediction.tags) <= set(vocabularies.tags.names)
        assert len(prediction.attributes) == len(vocabularies.attributes)
        assert (
            prediction.class_name
            == vocabularies.classes.names[int(np.argmax(prediction.class_logits))]
        )
        assert len(prediction.ratios) == len(result.view_boxes) == 3


def test_regions_differ(predictor):
    one, two, _ = predictor.predict(IMAGE, BOXES)
    assert one.prediction.caption != two.prediction.caption
    difference = np.subtract(one.prediction.class_logits, two.prediction.class_logits)
    assert abs(difference).max() > 0.05


def test_view_boxes_follow_from_box_and_ratios(predictor):
    for result in predictor.predict(IMAGE, BOXES, decoders=["tags"]):
        boxes, ratios = np.array([result.box]), np.array([result.prediction.ratios])
        expected = pixel_boxes(nested_boxes(boxes, ratios, WIDTH, HEIGHT), WIDTH, HEIGHT)[0]
        assert [list(box) for box in result.view_boxes] == expected.tolist()


def test_agrees_with_evaluation(predictor, config, tmp_path):
    world = tmp_path / "world"
    make_shapes(world, 0, val_images=2, test_images=0, seed=1, progress=False)
    build_info = {"annotations": {"val": [str(world / "val.json")]}}
    config = OmegaConf.merge(config, {"datasets": {"shapes": {"build_info": build_info}}})
    config.run.tasks = ["region_captioning", "attribute_detection", "region_recognition"]
    selector = config.run.view_selector
    evaluated = predict_split(config, predictor.model, "val", selector, tasks_of(config))
    index = predict_index(config)
    assert len(evaluated) == len(index) > 2
    for image in range(index.num_images):
        regions = [index.region(position) for position in index.regions_of_image(image)]
        results = predictor.predict(index.image(image).path, [region.box for region in regions])
        for region, result in zip(regions, results, strict=True):
            other = next(prediction for prediction in evaluated if prediction.id == region.id)
            one = result.prediction
            assert (one.caption, one.tags, one.ratios) == (other.caption, other.tags, other.ratios)
            np.testing.assert_allclose(one.attributes, other.attributes, atol=1e-5)
            np.testing.assert_allclose(one.class_logits, other.class_logits, atol=1e-5)


def predict_index(config):
    dataset = config.datasets.shapes
    return open_annotations(dataset, annotation_files(dataset, "shapes", "val")[0], training=False)


def test_a_mask_predicts_what_its_box_does(predictor):
    mask = mask_of((3, 4), (30, 35))
    from_mask = predictor.predict(IMAGE, masks=[mask])
    assert_same(from_mask, predictor.predict(IMAGE, [[3, 4, 31, 36]]))
    assert from_mask[0].mask is not None and np.array_equal(from_mask[0].mask, mask)


def test_what_viewers_show_is_pointed_at(predictor, tmp_path):
    """The same picture stored turned, with a note that turns it back, gives the same results."""
    exif = Image.Exif()
    exif[0x0112] = 6
    IMAGE.rotate(90, expand=True).save(tmp_path / "phone.png", exif=exif)
    expected, mask = (
        predictor.predict(IMAGE, BOXES, [mask_of((3, 4), (30, 35))]),
        mask_of((3, 4), (30, 35)),
    )
    for image in (
        tmp_path / "phone.png",
        Image.open(tmp_path / "phone.png"),
        as_image(tmp_path / "phone.png"),
    ):
        assert_same(predictor.predict(image, BOXES, [mask]), expected)


def test_no_regions_no_predictions(predictor):
    assert predictor.predict(IMAGE, boxes=[]) == []


@pytest.mark.parametrize(
    ("boxes", "masks", "message"),
    [
        (None, None, "no region is given"),
        ([BOXES[0], [1, 2, np.nan, 4]], None, "box 1 .* is not finite"),
        ([BOXES[0], [5, 5, 5, 9]], None, "box 1 .* has no area"),
        ([[70, 5, 90, 9]], None, "box 0 .* lies wholly outside"),
        ([1, 2, 3, 4], None, r"valid is \[N, 4\]"),
        (None, [mask_of((1, 1)), mask_of()], "mask 1 is empty"),
        (None, [mask_of((1, 1)).T], r"mask 0 is bool \[60, 50\]; valid is"),
        (
            [BOXES[0], [0.1, 0.2, 0.5, 0.6]],
            None,
            "box 1 .* is less than a pixel, as",
        ),
        ([[0, 0, 1, 1]], None, r"valid are pixels \(the image has 60 x 50\)"),
        (None, {"size": [HEIGHT, WIDTH], "counts": [0, 3000]}, "masks is a dict; valid is a list"),
        (None, 3, "masks is a int; valid is a list"),
    ],
)
def test_bad_regions_are_named(predictor, boxes, masks, message):
    with pytest.raises(ValueError, match=message):
        predictor.predict(IMAGE, boxes, masks)


def test_controls_reach_their_regions_in_every_chunk(predictor, monkeypatch):
    """Those of like length are written together."""
    seen = []

    def spy(queries, control_words, generation):
        seen.append(control_words)
        return Captions(control_words, [1.0] * len(queries), None)

    monkeypatch.setattr(predictor.model.caption_decoder, "generate", spy)
    predictor.model.tag_threshold = 1.0
    predictor.chunk_size = 2
    results = predictor.predict(IMAGE, BOXES, controls=[["red", "star"], [], ["blue", "blue"]])
    assert [result.prediction.caption for result in results] == ["red,star|", "|", "blue|"]
    assert seen == [["|"], ["blue|", "red,star|"]]


@pytest.mark.parametrize(
    ("controls", "message"),
    [
        ([["red"]], "valid is a list of words for each of the 3 regions"),
        ("red", "valid is a list of words for each"),
        (3, "controls is 3; valid is a list of words for each"),
        ([[], None, []], "controls 1 is None; valid is a list of words"),
        (["red", [], []], "controls 0 is 'red'; valid is a list of words"),
        ([[], [], ["red", 3]], "controls 2 is .*; valid is a list of words"),
        ([[], ["caf\udce9"], []], "controls 1 is .*; valid are texts in UTF-8"),
    ],
)
def test_bad_controls(predictor, controls, message):
    with pytest.raises(ValueError, match=message):
        predictor.predict(IMAGE, BOXES, controls=controls)


def test_chunks_do_not_change_results(predictor):
    whole = predictor.predict(IMAGE, BOXES)
    predictor.chunk_size = 1
    assert_same(predictor.predict(IMAGE, BOXES), whole)


def test_only_the_decoders_asked_for_run(predictor, monkeypatch):
    def refuse(*_):
        raise AssertionError("the caption decoder ran")

    monkeypatch.setattr(predictor.model.caption_decoder, "generate", refuse)
    prediction = predictor.predict(IMAGE, BOXES, decoders=["classes"])[0].prediction
    assert prediction.class_name is not None
    assert (prediction.caption, prediction.tags, prediction.attributes) == (None, None, None)


def test_dropout_is_off_and_drawn_views_repeat(predictor):
    predictor.processor.view_selector = build_view_selector(
        OmegaConf.create({"name": "stochastic", "ratios": None}), 3
    )
    predictor.model.train()
    assert_same(predictor.predict(IMAGE, BOXES), predictor.predict(IMAGE, BOXES))


def test_bad_construction(predictor):
    model, selector = predictor.model, predictor.processor.view_selector
    with pytest.raises(ValueError, match="image_size is 64; the model takes crops of 32"):
        RegionPredictor(model, selector, 64)
    with pytest.raises(ValueError, match="chunk_size is 0"):
        RegionPredictor(model, selector, 32, chunk_size=0)


def test_checkpoint_predicts_as_the_model_it_holds(predictor, checkpoint):
    short = ["model.generation.max_new_tokens=6"]
    loaded = RegionPredictor.from_checkpoint(checkpoint, "cpu", short)
    assert_same(loaded.predict(IMAGE, BOXES), predictor.predict(IMAGE, BOXES))


def test_checkpoint_with_options_and_selector(checkpoint):
    loaded = RegionPredictor.from_checkpoint(
        checkpoint, "cpu", ["model.tag_threshold=0"], TaskPriorSelector(3, [0.5, 1.0])
    )
    result = loaded.predict(IMAGE, BOXES[:1], decoders=["tags"])[0]
    assert result.prediction.ratios == [0.0, 0.5, 1.0]
    assert result.prediction.tags == list(loaded.model.vocabularies.tags.names)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "gpu"}, "device 'gpu'; valid"),
        ({"device": "meta"}, "device 'meta'; valid"),
        ({"device": "cuda:99"}, "device 'cuda:99': torch sees"),
        ({"options": ["model.qformer.hidden_size=64"]}, "another architecture"),
        ({"options": ["model.image_sice=64"]}, "image_size"),
    ],
)
def test_bad_checkpoint_arguments(checkpoint, arguments, message):
    with pytest.raises(ValueError, match=message):
        RegionPredictor.from_checkpoint(checkpoint, **arguments)


def test_missing_weights(config, tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint at .*nowhere"):
        RegionPredictor.from_checkpoint(tmp_path / "nowhere")
    OmegaConf.save(config, tmp_path / "config.yaml")
    with pytest.raises(FileNotFoundError, match="trainable.safetensors is missing"):
        RegionPredictor.from_checkpoint(tmp_path, device="cpu")
    with pytest.raises(ConfigError, match="predictions need weights"):
        RegionPredictor.from_config(config)


def test_chunks_and_strictness_are_the_configuration_s(config, checkpoint, tmp_path):
    """A file that lacks a tensor is refused, or taken with a warning where strict is false."""
    tensors = load_file(checkpoint / "trainable.safetensors")
    del tensors[next(name for name in tensors if name.startswith("vision.tower.blocks"))]
    save_file(tensors, tmp_path / "trainable.safetensors")
    config = config.copy()
    config.run.load_ckpt_path, config.run.split_size = str(tmp_path), 7
    with pytest.raises(ValueError, match="it lacks 1 tensors"):
        RegionPredictor.from_config(config, "cpu")
    config.model.strict = False
    assert RegionPredictor.from_config(config, "cpu").chunk_size == 7
