import io
import json
import logging
import re

import pytest
from PIL import Image

from dynrefer.datasets.annotations import AnnotationIndex
from dynrefer.models.builders import load_vocabularies
from dynrefer.registry import registry
from dynrefer.runners.evaluation import ground_truth
from dynrefer.runners.report import JudgedTask, data_facts, sample, table, write_page, write_results
from dynrefer.tasks.ground_truth import GroundTruth
from tests.runners.test_report_page import Reader

NO_IMAGES = "datasets.shapes.build_info.image_root=/nowhere"


@pytest.fixture(scope="module")
def caption_task():
    return registry.get("task", "region_captioning")()


@pytest.fixture
def truth_of(make_config):
    def truth(*options):
        config = make_config(*options)
        return ground_truth(config, "val", load_vocabularies(config.model))

    return truth


def captions_of(truth, wrong=()):
    """Predictions that repeat the first reference, but for the regions whose ids are ``wrong``."""
    return {
        region.id: {
            "id": region.id,
            "caption": "nonsense" if region.id in wrong else region.caption,
            "ratios": [0.0, 0.3, 1.0],
        }
        for region in truth.regions()
    }


def shown_groups(path):
    """Ids of the regions that a page shows, by group."""
    groups = re.split(r"<h3>([\w ]+)</h3>", path.read_text())[1:]
    return {
        name: [int(found) for found in re.findall(r"region (\d+), [\w/.]+</span>", text)]
        for name, text in zip(groups[::2], groups[1::2], strict=True)
    }


def test_the_sample_holds_best_worst_and_others_once():
    scores = [index / 100 for index in range(100)]
    groups = sample(scores, 9)
    assert groups["best"] == [99, 98, 97] and groups["worst"] == [0, 1, 2]
    assert len(groups["at random"]) == 3 and set(groups["at random"]) <= set(range(3, 97))
    assert sample(scores, 9) == groups


@pytest.mark.parametrize("count", [1, 2, 3, 7, 10, 100])
@pytest.mark.parametrize("regions", [0, 1, 2, 5, 10])
def test_a_sample_of_few_regions(regions, count):
    groups = sample([float(n % 3) for n in range(regions)], count)
    shown = [index for group in groups.values() for index in group]
    assert len(shown) == len(set(shown)) == min(regions, count)
    assert [len(groups[name]) for name in ("best", "worst", "at random")] == _sizes(regions, count)


def _sizes(regions, count):
    """A third of the count each, rounded up; what regions there are go to the first groups."""
    sizes, left = [], min(regions, count)
    for _ in range(3):
        sizes.append(min(left, -(-count // 3)))
        left -= sizes[-1]
    return sizes


def test_equal_scores_come_from_all_over():
    groups = sample([1.0] * 1000, 30)
    assert max(groups["best"]) > 500 and max(groups["worst"]) > 500


def test_the_page_shows_best_and_worst_first(truth_of, caption_task, tmp_path):
    truth = truth_of()
    ids = [region.id for region in truth.regions()]
    predictions = captions_of(truth, wrong=ids[3:5])
    judged = [JudgedTask(caption_task, {"CIDEr": 123.456}, predictions)]
    write_page(tmp_path / "page.html", "shapes val", {"weights": "w"}, judged, truth, 6)
    groups = shown_groups(tmp_path / "page.html")
    assert list(groups) == ["best", "worst", "at random"]
    assert sorted(groups["worst"]) == ids[3:5] and not set(groups["best"]) & set(ids[3:5])
    reader = Reader((tmp_path / "page.html").read_text())
    assert "CIDEr 123.46" in reader.text and f"{len(ids)} of {len(ids)} regions" in reader.text
    best = truth.index.region(ids.index(groups["best"][0]))
    assert best.caption in reader.text and "score 1.00" in reader.text
    assert reader.text.count("nonsense") == 2 and "score 0.00" in reader.text
    assert len([tag for tag, _ in reader.seen if tag == "img"]) == 6
    assert not list(tmp_path.glob("*.part"))


def test_the_page_is_the_same_again_and_bounded(truth_of, caption_task, tmp_path):
    truth = truth_of()
    judged = [JudgedTask(caption_task, {"CIDEr": 1.0}, captions_of(truth))]
    for name in "ab":
        write_page(tmp_path / name, "shapes val", {}, judged, truth, 3)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").stat().st_size < 3 * 60_000


def test_images_that_are_missing_or_broken_are_named_and_counted(
    truth_of, caption_task, tmp_path, caplog
):
    truth = truth_of(NO_IMAGES)
    judged = [JudgedTask(caption_task, {"CIDEr": 1.0}, captions_of(truth))]
    with caplog.at_level(logging.WARNING):
        write_page(tmp_path / "page.html", "shapes val", {}, judged, truth, 4)
    reader = Reader((tmp_path / "page.html").read_text())
    assert reader.text.count("does not exist") == 4 and "/nowhere/" in reader.text
    assert "4 of 4 shown" in reader.text and not [tag for tag, _ in reader.seen if tag == "img"]
    assert "4 of 4 regions in" in caplog.text and "does not exist" in caplog.text


def test_a_box_outside_its_image_is_named(tmp_path, make_config, world, caption_task):
    content = json.loads((world / "val.json").read_text())
    image = content["images"][0]
    first = next(a for a in content["annotations"] if a["image_id"] == image["id"])
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "small.png").write_bytes(_png())
    image["file_name"] = "images/small.png"
    path = tmp_path / "val.json"
    path.write_text(json.dumps({"images": [image], "annotations": [first]}))
    config = make_config()
    truth = GroundTruth(AnnotationIndex.open(path), load_vocabularies(config.model))
    judged = [JudgedTask(caption_task, {"CIDEr": 1.0}, captions_of(truth))]
    write_page(tmp_path / "page.html", "x", {}, judged, truth, 1)
    text = Reader((tmp_path / "page.html").read_text()).text
    assert f"region {first['id']}: box" in text and "outside" in text


def _png():
    content = io.BytesIO()
    Image.new("RGB", (2, 2)).save(content, "PNG")
    return content.getvalue()


def test_views_are_those_of_the_prediction(truth_of, caption_task, tmp_path):
    """A result file that does not say which were looked at gets the region and the image."""
    truth, widths = truth_of(), {}
    for name, ratios in {"two": [0.0, 1.0], "four": [0.0, 0.2, 0.4, 1.0], "none": None}.items():
        predictions = captions_of(truth)
        for prediction in predictions.values():
            prediction["ratios"] = ratios
        judged = [JudgedTask(caption_task, {"CIDEr": 1.0}, predictions)]
        write_page(tmp_path / name, "x", {}, judged, truth, 1)
        widths[name] = int(re.search(r'width="(\d+)" height', (tmp_path / name).read_text())[1])
    assert widths["none"] == widths["two"] < widths["four"]
    assert (tmp_path / "none").read_bytes() == (tmp_path / "two").read_bytes()


def test_regions_without_a_label_are_left_out_and_counted(truth_of, tmp_path):
    truth = truth_of()
    task = registry.get("task", "region_recognition")()
    regions = list(truth.regions())
    names = truth.vocabularies.classes.names
    predictions = {
        region.id: {
            "id": region.id,
            "class_logits": [float(name == "star") for name in names],
            "ratios": [0.0, 0.5, 1.0],
        }
        for region in regions
    }
    others = [
        region.id for region in regions if region.extra_info["coco_result"]["category"] != "star"
    ]
    stars = len(regions) - len(others)

    class StarsOnly(type(task)):
        def region_score(self, predictions, region, truth):
            score = super().region_score(predictions, region, truth)
            return None if region.id in others else score

    judged = [JudgedTask(StarsOnly(), {"accuracy": 50.0}, predictions)]
    write_page(tmp_path / "page.html", "x", {}, judged, truth, 50)
    text = Reader((tmp_path / "page.html").read_text()).text
    assert f"{stars} of {len(regions)} regions have a label" in text
    assert text.count("star 1.00") == 2 * stars  # predicted and true


def test_a_task_without_labels_shows_some_regions(truth_of, tmp_path):
    """LVIS: boxes of a detector, whose true classes nobody knows."""
    truth = truth_of()
    task = registry.get("task", "lvis_detection")()
    logits = [float(n) for n in range(len(truth.vocabularies.classes.names))]
    predictions = {
        region.id: {"id": region.id, "class_logits": logits, "ratios": [0.0, 1.0]}
        for region in truth.regions()
    }
    judged = [JudgedTask(task, {"AP": 50.0}, predictions)]
    write_page(tmp_path / "page.html", "x", {}, judged, truth, 4)
    groups = shown_groups(tmp_path / "page.html")
    assert list(groups) == ["at random"] and len(set(groups["at random"])) == 4
    reader = Reader((tmp_path / "page.html").read_text())
    assert f"0 of {len(predictions)} regions have a label" in reader.text
    assert reader.text.count("(none)") == 4 and "score " not in reader.text
    best = truth.vocabularies.classes.names[-1]
    assert reader.text.count(f"{best} {logits[-1]:.2f}") == 4


def test_the_table_has_headlines_first_and_leaves_single_aps_out(caption_task):
    attributes = registry.get("task", "attribute_detection")()
    judged = [
        JudgedTask(caption_task, {"BLEU_1": 0.123, "CIDEr": 99.999}, {}),
        JudgedTask(attributes, {"mAP head": 1.0, "mAP all": 2.0, "AP a": 3.0, "AP b": 4.0}, {}),
    ]
    text = table("shapes val", {"weights": "a|b\nc"}, judged)
    assert text.startswith("# shapes val\n") and "| weights | a\\|b c |" in text
    captions, _, others = text.partition("## attribute_detection")
    assert captions.index("| **CIDEr** | **100.00** |") < captions.index("| BLEU_1 | 0.12 |")
    assert others.index("mAP all") < others.index("mAP head") and "| AP" not in others
    assert "2 single APs are in the metrics' JSON file." in others and "single" not in captions


def test_published_numbers_stand_beside_the_metrics(caption_task):
    attributes = registry.get("task", "attribute_detection")()
    judged = [
        JudgedTask(caption_task, {"CIDEr": 99.0, "METEOR": 1.0}, {}, {"CIDEr": 190.5}),
        JudgedTask(attributes, {"mAP all": 2.0}, {}),
    ]
    captions, _, others = table("vg_reg test", {}, judged).partition("## attribute_detection")
    assert "| metric | value | published |" in captions
    assert "| **CIDEr** | **99.00** | 190.5 |" in captions and "| METEOR | 1.00 |  |" in captions
    assert "2405.16071" in captions and "published" not in others


def test_all_files_of_a_result(make_config, caption_task, tmp_path):
    config = make_config("run.report_regions=2")
    truth = ground_truth(config, "val", load_vocabularies(config.model))
    judged = [JudgedTask(caption_task, {"CIDEr": 12.0}, captions_of(truth))]
    facts = data_facts("shapes", "val", truth) | {"views": ["one", "two"]}
    places = tmp_path / "metrics-a.json", tmp_path / "regions-a.html"
    write_results(*places, config, facts, judged, truth)
    content = json.loads(places[0].read_text())
    assert content["metrics"] == {"region_captioning": {"CIDEr": 12.0}}
    assert content["evaluated"] == facts and content["config"]["run"]["report_regions"] == 2
    assert set(content["versions"]) == {"dynrefer", "torch", "python"} and content["date"]
    assert "| views | one, two |" in (tmp_path / "metrics-a.md").read_text()
    assert len(Reader(places[1].read_text()).text.split("score ")) == 3
    config.run.report_regions = 0
    places[1].unlink()
    write_results(*places, config, facts, judged, truth)
    assert not places[1].exists()


def test_counts_are_those_of_the_limit(truth_of):
    limited = data_facts("shapes", "val", truth_of("datasets.shapes.build_info.max_imgs=2"))
    assert limited["images"] == 2
    assert 0 < limited["regions"] < data_facts("shapes", "val", truth_of())["regions"]
