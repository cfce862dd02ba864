"""Real photographs from raw annotations to scores: converted, predicted, judged, and judged anew.

50 photographs of COCO val2017, 15 of them with OVAD's attributes. The model is a tiny random one
whose language model does not even exist: neither benchmark may ask for it. Scores are compared with
pycocotools itself and with plain loops, over the predictions that evaluate.py wrote.
"""

import contextlib
import io
import json
import sys
from collections import Counter

import pytest
from omegaconf import OmegaConf
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dynrefer.config import load_config
from dynrefer.runners.entry import evaluate_main
from dynrefer.tasks.results import read_predictions
from tests.metrics import loops
from tests.processes import ROOT, run_command, run_script
from tests.shared import shared_path
from tests.tiny_model import tiny_config, tiny_model

INSTANCES = "data/coco_sample/annotations/instances_val2017.json"
OVAD = "data/coco_sample/annotations/ovad_sample.json"
BOX_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
FIELDS = {"attributes": "attr", "class_logits": "cls"}


def load(path):
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """The converted annotation files, and the random model's folder, in one folder."""
    folder = tmp_path_factory.mktemp("coco_sample")
    images = shared_path("data/coco_sample/images")
    for name, source in (("coco", INSTANCES), ("ovad", OVAD)):
        result = run_script(
            f"scripts/convert/{name}.py", "--source", shared_path(source), "--images", images,
            "--out", folder / f"{name}.json",
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
    config = tiny_config(folder)
    config.model.vocabulary.attributes = str(shared_path(OVAD))
    config.model.vocabulary.classes = str(shared_path("data/coco_80_class_names.json"))
    tiny_model(config).save_pretrained(folder / "model")
    OmegaConf.save(config, folder / "tiny.yaml")
    return folder


def config_file(folder, name, task, model=None, **build_info):
    """A benchmark's own configuration, but for the model and where the converted file lies."""
    annotations = {"val": [str(folder / f"{name}.json")]}
    caption_decoder = {"config": None, "language_model": "no/such/model"}
    content = {
        "base": [
            "configs/base/runs/eval.yaml",
            str(folder / "tiny.yaml"),
            f"configs/base/datasets/{name}/{name}.yaml",
        ],
        "model": model or {"caption_decoder": caption_decoder},
        "datasets": {name: {"build_info": {"annotations": annotations, **build_info}}},
        "run": {"output_dir": str(folder / f"output_{name}"), "report_regions": 0, "tasks": [task]},
    }
    path = folder / f"{name}.yaml"
    OmegaConf.save(OmegaConf.create(content), path)
    return path


def evaluated(folder, config, result):
    """What an evaluation printed, and the benchmark's metrics."""
    assert result.returncode == 0, result.stderr
    (path,) = (folder / f"output_{config.stem}").glob("metrics-*.json")
    return result.stdout, load(path)


@pytest.fixture(scope="module")
def coco(sample):
    """Recognition of all objects: configuration, output, metrics, predictions."""
    instances = {"val": str(shared_path(INSTANCES))}
    config = config_file(sample, "coco", "region_recognition", instances=instances)
    script = ROOT / "scripts/eval/evaluate.sh"
    environment = {"PROCESSES": "1", "PYTHON": sys.executable}
    result = run_command("bash", script, config, sample / "model", **environment)
    printed, metrics = evaluated(sample, config, result)
    predictions = read_predictions(sample / "output_coco/results/coco-val-eval.jsonl")
    return config, printed, metrics, predictions


@pytest.fixture(scope="module")
def ovad(sample):
    """Attributes of OVAD's boxes: the same."""
    config = config_file(sample, "ovad", "attribute_detection")
    arguments = ("--cfg-path", config, "--checkpoint", sample / "model")
    result = run_script("evaluate.py", *arguments, cwd=ROOT)
    printed, metrics = evaluated(sample, config, result)
    predictions = read_predictions(sample / "output_ovad/results/ovad-val-eval.jsonl")
    return config, printed, metrics, predictions


def test_every_object_is_recognised_once(coco):
    _, _, _, predictions = coco
    raw = load(shared_path(INSTANCES))
    assert predictions.keys() == {annotation["id"] for annotation in raw["annotations"]}
    assert len(predictions) == 382
    for one in predictions.values():
        assert set(one) == {"id", "image_id", "class_logits", "class_name", "ratios"}
    # The random model tells regions apart, and views are those of the image prior.
    assert len(Counter(one["class_name"] for one in predictions.values())) > 10
    assert Counter(tuple(one["ratios"]) for one in predictions.values()).most_common(1)[0][1] > 100


def test_recognition_agrees_with_pycocotools(coco):
    """Boxes and categories are read from COCO's own file, not from the converted one."""
    _, printed, content, predictions = coco
    metrics = content["metrics"]["region_recognition"]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(shared_path(INSTANCES)))
        found, right = [], 0
        names = load(shared_path("data/coco_80_class_names.json"))
        numbers = {category["name"]: number for number, category in truth.cats.items()}
        for id_, one in predictions.items():
            logits = one["class_logits"]
            score = max(logits)
            category = numbers[names[logits.index(score)]]
            right += category == truth.anns[id_]["category_id"]
            found.append(
                {
                    "image_id": truth.anns[id_]["image_id"],
                    "category_id": category,
                    "bbox": truth.anns[id_]["bbox"],
                    "score": score,
                }
            )
        evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    expected = dict(zip(BOX_METRICS, 100 * evaluation.stats, strict=False))
    assert {name: metrics[f"box {name}"] for name in BOX_METRICS} == pytest.approx(expected)
    assert metrics["accuracy"] == pytest.approx(100 * right / len(predictions))
    assert 0 < metrics["accuracy"] < 20 and 0 < metrics["box AP"] < 20
    assert f"{metrics['accuracy']:.2f}        91.8" in printed
    assert content["published"]["region_recognition"] == {"accuracy": 91.8}


def test_attributes_agree_with_plain_loops(ovad):
    _, printed, content, predictions = ovad
    metrics = content["metrics"]["attribute_detection"]
    raw = load(shared_path(OVAD))
    assert predictions.keys() == {annotation["id"] for annotation in raw["annotations"]}
    each = {}
    for attribute in raw["attributes"]:
        number = attribute["id"]
        labelled = [
            (predictions[box["id"]]["attributes"][number], box["att_vec"][number] == 1)
            for box in raw["annotations"]
            if box["att_vec"][number] != -1
        ]
        if any(positive for _, positive in labelled):
            scores, positives = zip(*labelled, strict=True)
            each[attribute["name"]] = 100 * loops.average_precision(scores, positives)
    assert {f"AP {name}": value for name, value in each.items()} == pytest.approx(
        {name: value for name, value in metrics.items() if name.startswith("AP ")}, abs=1e-6
    )
    assert 30 < len(each) < 117
    groups = {"all": list(each)}
    for attribute in raw["attributes"]:
        if attribute["name"] in each:
            for group in (attribute["freq_set"], attribute["parent_type"]):
                groups.setdefault(group, []).append(attribute["name"])
    for group, names in groups.items():
        mean = sum(each[name] for name in names) / len(names)
        assert metrics[f"mAP {group}"] == pytest.approx(mean, abs=1e-6), group
    assert {"head", "medium", "tail"} <= groups.keys() and "29.2" in printed


def test_result_files_of_both_kinds_score_the_same(sample, coco, ovad, tmp_path, monkeypatch, here):
    """Our own result file, and the release's: its annotation file with predictions in it."""
    monkeypatch.setattr("dynrefer.runners.entry.load_model", lambda *_: pytest.fail("built"))
    monkeypatch.chdir(ROOT)
    for name, (config, _, content, predictions) in (("coco", coco), ("ovad", ovad)):
        own = sample / f"output_{name}/results/{name}-val-eval.jsonl"
        copied = tmp_path / own.name
        copied.write_bytes(own.read_bytes())
        release = load(sample / f"{name}.json")
        for annotation in release["annotations"]:
            one = predictions[annotation["id"]]
            annotation["extra_info"]["pred_result"] = {
                theirs: one[ours] for ours, theirs in FIELDS.items() if ours in one
            }
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(release))
        for result in (copied, path):
            here(evaluate_main, config, res_path=result)
            scored = load(result.with_suffix(".metrics.json"))
            assert scored["metrics"] == content["metrics"], result


def test_a_limit_of_images_has_no_published_number_beside_it(sample, coco, here, monkeypatch):
    monkeypatch.chdir(ROOT)
    config, _, _, predictions = coco
    result = sample / "output_coco/results/coco-val-eval.jsonl"
    limit = "datasets.coco.build_info.max_imgs=3"
    printed = here(evaluate_main, config, limit, res_path=result)
    assert "accuracy" in printed and "published" not in printed and "box AP" not in printed
    assert "published" not in load(result.with_suffix(".metrics.json"))
    assert len(predictions) == 382


def test_the_language_model_is_asked_for_where_captions_are(sample, coco, refused, monkeypatch):
    """The same files with a task that writes captions: the model that does not exist is named."""
    monkeypatch.chdir(ROOT)
    config, *_ = coco
    options = ["run.tasks=[region_recognition,region_captioning]"]
    told = refused(evaluate_main, config, *options, checkpoint=sample / "model")
    assert "no language model at 'no/such/model'" in told
    assert load_config(config, options).model.caption_decoder.language_model == "no/such/model"
