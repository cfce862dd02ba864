import json
import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from dynrefer.config import ConfigError, load_config
from dynrefer.models.builders import build_model, load_vocabularies
from dynrefer.models.dynrefer import RegionPrediction
from dynrefer.runners import evaluation
from dynrefer.runners.evaluation import (
    _in_file_order,
    _passes,
    check_evaluation,
    evaluate,
    ground_truth,
    headline,
    predict_split,
    tasks_of,
)
from dynrefer.tasks.results import read_predictions
from tests.tiny_model import tiny_model

ALL_TASKS = "run.tasks=[region_captioning,dense_captioning,attribute_detection,region_recognition]"
DATASET = "datasets.shapes.build_info"


@pytest.fixture(scope="module")
def model(run_file):
    return tiny_model(load_config(run_file))


@pytest.fixture
def truth_of(make_config):
    def truth(*options, split="val"):
        config = make_config(*options)
        return ground_truth(config, split, load_vocabularies(config.model))

    return truth


def prediction(id_):
    return RegionPrediction(id=id_, image_id=0)


def test_predictions_in_the_order_of_the_file(truth_of):
    truth = truth_of()
    ids = [region.id for region in truth.regions()]
    assert ids == sorted(ids) and len(ids) > 5
    ordered = _in_file_order([prediction(id_) for id_ in reversed(ids)], truth)
    assert [one.id for one in ordered] == ids


def test_each_region_once(truth_of):
    truth = truth_of()
    ids = [region.id for region in truth.regions()]
    for wrong in (ids[1:], [*ids, ids[0]], [*ids[1:], ids[1]], [*ids, -5], [*ids[1:], -5]):
        with pytest.raises(RuntimeError, match=f"{len(wrong)} predictions of"):
            _in_file_order([prediction(id_) for id_ in wrong], truth)
    with pytest.raises(RuntimeError, match=rf"missing \[{ids[0]}\]"):
        _in_file_order([prediction(id_) for id_ in ids[1:]], truth)


def test_tasks_with_the_same_selector_share_a_pass(make_config):
    config = make_config(
        ALL_TASKS,
        "run.view_selectors.attribute_detection={name: task_prior, ratios: [0.1, 0.2]}",
        "run.view_selectors.region_recognition={name: task_prior, ratios: [0.1, 0.2]}",
    )
    passes = [
        (selector.name, [task.name for task in tasks])
        for selector, tasks in _passes(config, tasks_of(config))
    ]
    assert passes == [
        ("image_prior", ["region_captioning", "dense_captioning"]),
        ("task_prior", ["attribute_detection", "region_recognition"]),
    ]


def test_selectors_of_tasks_that_do_not_run(make_config):
    config = make_config("run.view_selectors.region_captioning={name: stochastic}")
    ((selector, _),) = _passes(config, tasks_of(config))
    assert selector.name == "image_prior"
    config = make_config("run.view_selectors.region_captionin={name: stochastic}")
    with pytest.raises(KeyError, match="no task .*did you mean 'region_captioning'"):
        _passes(config, tasks_of(config))


def test_a_pass_runs_only_the_decoders_of_its_tasks(make_config, model, tmp_path, monkeypatch):
    config = make_config(
        "run.tasks=[attribute_detection,region_recognition]",
        "run.view_selectors.region_recognition={name: task_prior, ratios: [0.0, 0.0]}",
        "run.report_regions=0",
    )
    seen, predict = [], model.predict
    monkeypatch.setattr(
        model, "predict", lambda chunk, decoders: seen.append(decoders) or predict(chunk, decoders)
    )
    (tmp_path / "results").mkdir()
    metrics = evaluate(config, model, "val", tmp_path, "test")
    assert list(metrics) == ["attribute_detection", "region_recognition"]
    assert set(seen) == {frozenset({"attributes"}), frozenset({"classes"})}
    attributes = read_predictions(tmp_path / "results" / "shapes-val-test.jsonl")
    classes = read_predictions(tmp_path / "results" / "shapes-val-test-2.jsonl")
    assert list(attributes) == list(classes)
    for one, other in zip(attributes.values(), classes.values(), strict=True):
        assert set(one) == {"id", "image_id", "attributes", "ratios"}
        assert set(other) == {"id", "image_id", "class_logits", "class_name", "ratios"}
        assert one["ratios"] != other["ratios"] == [0.0, 0.0, 0.0]
    text = (tmp_path / "metrics-shapes-val-test.json").read_text()
    content = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert content["metrics"] == metrics and len(metrics["attribute_detection"]) > 10


def test_regions_of_several_images_share_a_chunk(make_config, model, monkeypatch):
    """A language model writes the captions of ``split_size`` regions at a time, of any images."""
    limit = f"{DATASET}.max_imgs=3"
    config = make_config("run.tasks=[region_captioning]", "run.batch_size_eval=64", limit)
    config.run.split_size = 6
    seen, predict = [], model.predict
    monkeypatch.setattr(
        model, "predict", lambda chunk, decoders: seen.append(chunk) or predict(chunk, decoders)
    )
    predictions = predict_split(config, model, "val", config.run.view_selector, tasks_of(config))
    assert len(predictions) > 6 and all(one.caption is not None for one in predictions)
    sizes = [len(chunk) for chunk in seen]
    assert set(sizes[:-1]) == {6} and sum(sizes) == len(predictions)
    assert max(len(set(chunk.image_ids)) for chunk in seen) > 1


@pytest.fixture(scope="module")
def predicted(run_file, model):
    """Predictions of the validation split, by id."""
    config = load_config(run_file)
    predictions = predict_split(config, model, "val", config.run.view_selector, tasks_of(config))
    return {one.id: one for one in predictions}


@pytest.mark.parametrize(
    "options",
    [["run.batch_size_eval=3", "run.split_size=2"], ["run.num_workers=2", "run.split_size=1"]],
)
def test_predictions_do_not_depend_on_batches_and_workers(make_config, model, predicted, options):
    config = make_config(*options)
    parts = predict_split(config, model, "val", config.run.view_selector, tasks_of(config))
    assert {one.id for one in parts} == predicted.keys()
    for one in parts:
        assert one.class_logits == pytest.approx(predicted[one.id].class_logits, abs=1e-4)
        assert one.ratios == predicted[one.id].ratios


def test_images_that_cannot_be_read_are_left_out_on_both_sides(
    make_config, model, world, tmp_path, caplog
):
    shutil.copytree(world / "images" / "val", tmp_path / "images")
    content = json.loads((world / "val.json").read_text())
    content["dataset"]["image_root"] = "images"
    (tmp_path / "val.json").write_text(json.dumps(content))
    damaged = content["images"][1]
    (tmp_path / "images" / damaged["file_name"]).write_bytes(b"")
    options = f"{DATASET}.annotations.val=[{tmp_path / 'val.json'}]", f"{DATASET}.bad_records=skip"
    config = make_config("run.tasks=[attribute_detection]", "run.batch_size_eval=1", *options)
    evaluate(config, model, "val", tmp_path, "some")
    lines = (tmp_path / "results" / "shapes-val-some.jsonl").read_text().splitlines()
    owners = [region["image_id"] for region in content["annotations"]]
    kept = [owner for owner in owners if owner != damaged["id"]]
    assert [json.loads(line)["image_id"] for line in lines] == kept
    facts = json.loads((tmp_path / "metrics-shapes-val-some.json").read_text())["evaluated"]
    assert (facts["images"], facts["regions"], facts["images left out"]) == (4, len(kept), 1)
    assert "1 of 5 images cannot be used" in caplog.text


def test_a_limit_of_images_limits_predictions_and_truth(make_config, model, tmp_path):
    options = ("run.tasks=[attribute_detection]", f"{DATASET}.max_imgs=2", "run.report_regions=0")
    config = make_config(*options)
    evaluate(config, model, "val", tmp_path, "two")
    truth = ground_truth(config, "val", model.vocabularies)
    predictions = read_predictions(tmp_path / "results" / "shapes-val-two.jsonl")
    assert list(predictions) == [region.id for region in truth.regions()]
    assert len({one["image_id"] for one in predictions.values()}) == 2
    assert not truth.is_whole and 0 < len(predictions) < len(truth.index)


def test_the_headline_is_the_mean_over_tasks(make_config):
    config = make_config("run.tasks=[attribute_detection,region_recognition]")
    metrics = {"attribute_detection": {"mAP all": 10.0}, "region_recognition": {"accuracy": 40.0}}
    assert headline(metrics, tasks_of(config)) == 25.0


def test_the_evaluated_dataset_is_named_or_the_first(make_config):
    assert evaluation.evaluated_dataset(make_config()) == "shapes"
    config = make_config(
        "datasets.other.build_info.annotations.val=[x]", "run.eval_dataset_name=other"
    )
    assert evaluation.evaluated_dataset(config) == "other"
    with pytest.raises(
        ConfigError, match="eval_dataset_name: 'shape'; configured datasets: shapes"
    ):
        evaluation.evaluated_dataset(make_config("run.eval_dataset_name=shape"))
    config = make_config()
    config.datasets = {}
    with pytest.raises(ConfigError, match="no dataset is configured"):
        evaluation.evaluated_dataset(config)


def test_boxes_of_a_detector_and_what_judges_them(make_config, truth_of):
    """The two files of a split; here both are the same one."""
    own = truth_of()
    given = f"{DATASET}.ground_truth.val=[{own.index.source}]"
    truth = truth_of("run.tasks=[dense_captioning]", given)
    assert own.annotated is None and truth.annotated.source == own.index.source
    assert list(truth.annotated_images()) == list(own.annotated_images())
    assert truth_of("run.tasks=[dense_captioning]", given, split="test").annotated is None


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        ([], {"accuracy": 91.8}),
        (["max_imgs=1000"], {"accuracy": 91.8}),
        (["max_imgs=2"], None),
        (["ground_truth.val=[x]"], None),
    ],
)
def test_published_numbers_are_of_whole_splits_and_annotated_boxes(make_config, options, numbers):
    config = make_config(*[f"{DATASET}.{option}" for option in options])
    config.datasets = {"coco": config.datasets.shapes}
    expected = {} if numbers is None else {"region_recognition": numbers}
    assert evaluation.published(config, "val") == expected
    if numbers:
        assert evaluation.published(config, "test") == {"region_recognition": {}}


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ([f"{DATASET}.annotations.val=[no.json]"], FileNotFoundError, "no annotation file at no"),
        ([f"{DATASET}.annotations.val=[]"], ConfigError, "annotations.val names no file; splits"),
        ([f"{DATASET}.annotations.val=[a, b]"], ConfigError, "lists 2 files; evaluation takes one"),
        ([f"{DATASET}.instances.val=no.json"], FileNotFoundError, "no COCO instances file at no"),
        (
            ["run.tasks=[dense_captioning]", f"{DATASET}.ground_truth.val=[no.json]"],
            FileNotFoundError,
            "no annotation file at no",
        ),
        (
            ["run.tasks=[dense_captioning]", f"{DATASET}.ground_truth.val=[a, b]"],
            ConfigError,
            "ground_truth.val lists 2 files; evaluation takes one",
        ),
        (
            [ALL_TASKS, f"{DATASET}.ground_truth.val=[no.json]"],
            ConfigError,
            "ground_truth.val: region_captioning, attribute_detection, region_recognition judges",
        ),
        ([f"{DATASET}.builder=dynrefr"], KeyError, "no dataset .*did you mean 'dynrefer'"),
        ([f"{DATASET}.num_views=2"], ConfigError, "num_views is 2, model.num_views is 3"),
        (["run.tasks=[recognition]"], KeyError, "no task .*did you mean 'region_recognition'"),
        (["run.view_selector.name=image"], KeyError, "no view_selector .*did you mean"),
        (
            ["run.view_selector.ratios=[0.1]"],
            ConfigError,
            "view selector 'image_prior' with .*takes no ratios",
        ),
        (
            ["run.view_selector={name: task_prior, ratios: [0.1]}"],
            ValueError,
            "3 views need 2 of them",
        ),
        (
            ["datasets.shapes.vis_processor.eval.name=dynrefr"],
            KeyError,
            "no processor .*did you mean 'dynrefer'",
        ),
        (
            ["datasets.shapes.vis_processor.eval.image_size=48"],
            ConfigError,
            "vis_processor.eval.image_size is 48, model.image_size is 32",
        ),
        (
            ["datasets.shapes.text_processor.eval.name=blip"],
            KeyError,
            "no processor .*did you mean 'blip_caption'",
        ),
    ],
)
def test_what_an_evaluation_lacks_shows_before_it(make_config, model, options, error, match):
    config = make_config(*options)
    with pytest.raises(error, match=f"(?s){match}"):
        check_evaluation(config, ["val"], model.vocabularies)


def test_labels_and_instances_are_checked_before_it(make_config, model, truth_of, tmp_path):
    """Of every task and split, so that no epoch is lost to them; also for a result file."""
    source = Path(truth_of().index.source)
    content = json.loads(source.read_text())
    content["dataset"]["image_root"] = str(source.parent / "images/val")
    content["annotations"][1]["extra_info"]["coco_result"]["category"] = "horse"
    (tmp_path / "wrong.json").write_text(json.dumps(content))
    wrong = make_config(ALL_TASKS, f"{DATASET}.annotations.val=[{tmp_path}/wrong.json]")
    (tmp_path / "instances.json").write_text('{"images": [{}]}')
    broken = make_config(f"{DATASET}.instances.val={tmp_path}/instances.json")
    (tmp_path / "r.jsonl").write_text('{"id": 1, "caption": "x"}')
    for config, match in (
        (wrong, r"wrong.json: region \d+: extra_info.coco_result.category is 'horse', which"),
        (broken, "instances.json is not a COCO instances file: it has no list 'categories'"),
    ):
        with pytest.raises(ValueError, match=match):
            check_evaluation(config, ["test", "val"], model.vocabularies)
        check_evaluation(config, ["test"], model.vocabularies)
        truth = ground_truth(config, "val", model.vocabularies)
        with pytest.raises(ValueError, match=match):
            evaluation.score_file(config, "val", tmp_path / "r.jsonl", truth)


def test_an_untrained_model_is_in_evaluation_mode_while_it_predicts(make_config):
    config = make_config()
    model = build_model(OmegaConf.create(config.model)).train()
    predict_split(config, model, "val", config.run.view_selector, tasks_of(config))
    assert not model.training
