import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from tokenizers import Tokenizer

from dynrefer.datasets.shapes import language, words, world
from dynrefer.datasets.shapes.grounds import lay_papers, paint_grounds, sample_grounds
from dynrefer.datasets.shapes.layout import place_in_image, relate, sample_layout
from dynrefer.datasets.shapes.rendering import Figure, draw, texture_wave
from dynrefer.datasets.shapes.scenes import captions_of, render_scene
from dynrefer.datasets.shapes.words import Facts
from dynrefer.datasets.shapes.world import main, make_shapes

COUNTS = {"train_images": 20, "val_images": 5, "test_images": 8}


def contents(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): sha256(p.read_bytes()).hexdigest() for p in files}


def read_json(path: Path):
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("worlds") / "shapes"
    make_shapes(out, **COUNTS, seed=3, progress=False)
    return out


@pytest.fixture(scope="module")
def scenes() -> list:
    return [render_scene(np.random.default_rng([7, 0, i])) for i in range(40)]


def mask_of(region, image) -> np.ndarray:
    height, width = image.shape[:2]
    return coco_mask.decode(
        coco_mask.merge(coco_mask.frPyObjects([region.polygon], height, width))
    ).astype(bool)


# --- the files ---


def test_same_seed_same_bytes_and_other_seed_other_images(shapes, tmp_path):
    make_shapes(tmp_path / "again", **COUNTS, seed=3, progress=False)
    assert contents(tmp_path / "again") == contents(shapes)
    make_shapes(tmp_path / "other", **COUNTS, seed=4, progress=False)
    assert not set(contents(tmp_path / "other" / "images").values()) & set(
        contents(shapes / "images").values()
    )


def test_an_image_does_not_depend_on_the_number_of_images(shapes, tmp_path):
    make_shapes(tmp_path / "few", 3, 2, 1, seed=3, progress=False)
    few, all_files = contents(tmp_path / "few" / "images"), contents(shapes / "images")
    assert len(few) == 6
    assert few.items() <= all_files.items()
    some = read_json(tmp_path / "few" / "train.json")["annotations"]
    assert some == read_json(shapes / "train.json")["annotations"][: len(some)]


def test_counts_ids_and_splits(shapes):
    described = read_json(shapes / "world.json")
    assert described["images"] == {"train": 20, "val": 5, "test": 8}
    assert described["seed"] == 3
    region_ids, image_ids, hashes = [], [], []
    for split, count in described["images"].items():
        document = read_json(shapes / f"{split}.json")
        assert len(document["images"]) == count
        assert len(document["annotations"]) == described["regions"][split]
        root = shapes / document["dataset"]["image_root"]
        for image in document["images"]:
            with Image.open(root / image["file_name"]) as opened:
                assert opened.size == (image["width"], image["height"])
            hashes.append(sha256((root / image["file_name"]).read_bytes()).hexdigest())
        per_image = Counter(a["image_id"] for a in document["annotations"])
        assert set(per_image) == {image["id"] for image in document["images"]}
        assert all(1 <= n <= 6 for n in per_image.values())
        region_ids += [a["id"] for a in document["annotations"]]
        image_ids += [image["id"] for image in document["images"]]
    for values in (region_ids, image_ids, hashes):
        assert len(set(values)) == len(values)


def test_captions_per_split(shapes):
    for split in ("train", "val"):
        annotations = read_json(shapes / f"{split}.json")["annotations"]
        assert all("captions" not in a and a["caption"] for a in annotations)
    for annotation in read_json(shapes / "test.json")["annotations"]:
        assert annotation["caption"] == annotation["captions"][0]
        assert len(set(annotation["captions"])) == len(language.TEMPLATES)


def test_annotations_agree_with_caption_tags_attributes_and_classes(shapes):
    tags = (shapes / "tags.txt").read_text().split("\n")[:-1]
    classes = read_json(shapes / "classes.json")
    attributes = [a["name"] for a in read_json(shapes / "attributes.json")["attributes"]]
    assert len(set(tags)) == len(tags) == 46 and len(attributes) == 38
    unlabelled = labels = 0
    for annotation in read_json(shapes / "test.json")["annotations"]:
        extra = annotation["extra_info"]
        facts = extra["facts"]
        for caption in annotation["captions"]:
            assert language.said_by_kind(caption) == facts
        own = {facts.get(k) for k in ("figure", "colour", "texture", "size", "place", "ground")}
        assert {tags[i] for i in extra["parser_result"]["tag_set1"]} == own - {None}
        relation = facts.get("relation")
        beside = {words.RELATIONS[relation][0], *facts["neighbour"].split()} if relation else set()
        assert {tags[i] for i in extra["parser_result"]["tag_set2"]} == beside
        assert classes[annotation["category_id"] - 1] == extra["coco_result"]["category"]
        assert facts["figure"] == extra["coco_result"]["category"]
        vector = extra["ovad_result"]["att_vec"]
        phrases = {facts[kind] for kind in ("colour", "texture", "size")}
        for kind in ("relation", "place", "ground"):
            table = getattr(words, f"{kind.upper()}S")
            phrases |= {table[facts[kind]][0]} if kind in facts else set()
        for name, label in zip(attributes, vector, strict=True):
            assert label in (-1, int(name.split(":")[1].split("/")[0] in phrases)), name
        unlabelled += vector.count(-1)
        labels += len(vector)
    assert 0.05 < unlabelled / labels < 0.4


def test_box_is_that_of_the_segmentation(shapes):
    for split in ("train", "val", "test"):
        for annotation in read_json(shapes / f"{split}.json")["annotations"]:
            points = np.concatenate([np.reshape(p, (-1, 2)) for p in annotation["segmentation"]])
            x, y, width, height = annotation["bbox"]
            np.testing.assert_allclose(points.min(axis=0), [x, y], atol=0.011)
            np.testing.assert_allclose(points.max(axis=0), [x + width, y + height], atol=0.011)


def test_instances_file_is_read_by_coco(shapes, capsys):
    coco = COCO(str(shapes / "instances_test.json"))
    capsys.readouterr()
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == list(words.CLASSES)
    annotations = coco.loadAnns(coco.getAnnIds())
    assert len(annotations) == len(read_json(shapes / "test.json")["annotations"])
    for annotation in annotations:
        assert 0 < annotation["area"] <= 1.05 * annotation["bbox"][2] * annotation["bbox"][3]
        assert annotation["iscrowd"] == 0 and "caption" not in annotation


# --- the pictures ---


def test_boxes_are_tight_around_the_visible_pixels(scenes):
    """The pixels that change with a figure's colour are its visible ones: no mask needed."""
    for image, regions in scenes:
        canvas = np.full(image.shape, 128, np.float32)
        figures = [replace(region.figure, rgb=(0.0, 0.0, 0.0)) for region in regions]
        before = draw(figures, canvas.copy())
        for index, region in enumerate(regions):
            bright = replace(region.figure, texture="plain", rgb=(250.0, 250.0, 250.0))
            after = draw([*figures[:index], bright, *figures[index + 1 :]], canvas.copy())
            ys, xs = np.nonzero((after.astype(int) - before).max(axis=2) > 30)
            tight = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            np.testing.assert_allclose(region.box, tight, atol=1.01)
            assert (region.box[:2] >= 0).all()
            assert (region.box[2:] <= image.shape[1::-1]).all()


def test_the_figure_lies_where_its_outline_says(scenes):
    """Inside the outline the mean colour is the figure's, whatever its texture."""
    for image, regions in scenes:
        for region in regions:
            if region.facts.relation == "around" or region.figure.name == "ring":
                continue
            mask = mask_of(region, image)
            core = mask & np.roll(mask, 3, 0) & np.roll(mask, -3, 0)
            core &= np.roll(mask, 3, 1) & np.roll(mask, -3, 1)
            mean = image[core].mean(axis=0)
            assert np.abs(mean - region.figure.rgb).max() < 16


def relation_holds(index: int, regions: list, masks: list[np.ndarray]) -> bool:
    """Judges a stated relation by pixels, boxes and drawing order."""
    region = regions[index]
    mask, other = masks[index], masks[region.other]
    (ys, xs), (other_ys, other_xs) = np.nonzero(mask), np.nonzero(other)
    meet = _boxes_meet(region, regions[region.other])
    return {
        "left": xs.max() < other_xs.min(),
        "right": xs.min() > other_xs.max(),
        "above": ys.max() < other_ys.min(),
        "below": ys.min() > other_ys.max(),
        # a COCO polygon has no hole, so a host's mask holds its guest
        "inside": (mask & ~other).sum() <= 0.02 * mask.sum(),
        "around": (other & ~mask).sum() <= 0.02 * other.sum(),
        "front": meet and index > region.other,
        "behind": meet and index < region.other,
        "near": _gap(region, regions[region.other]) > 0,
    }[region.facts.relation]


def test_stated_relations_are_true_of_the_masks(scenes):
    seen = Counter()
    for image, regions in scenes:
        masks = [mask_of(region, image) for region in regions]
        for index, region in enumerate(regions):
            if region.facts.relation is None:
                continue
            seen[region.facts.relation] += 1
            assert relation_holds(index, regions, masks), (region.facts.relation, index)
            gaps = [_gap(region, r) for k, r in enumerate(regions) if k != index]
            assert _gap(region, regions[region.other]) == min(gaps)
    assert set(seen) == set(words.RELATIONS)


def _gap(region, other) -> float:
    apart = np.maximum(region.box[:2] - other.box[2:], other.box[:2] - region.box[2:])
    return float(np.hypot(*np.maximum(apart, 0)))


def _boxes_meet(region, other) -> bool:
    inside = (region.box[:2] >= other.box[:2]).all() and (region.box[2:] <= other.box[2:]).all()
    return _gap(region, other) == 0 and not inside


def test_relations_are_mostly_clear_and_pairs_keep_a_distance(scenes):
    regions = [(rs, k) for _, rs in scenes for k in range(len(rs)) if len(rs) > 1]
    assert np.mean([rs[k].facts.relation is not None for rs, k in regions]) > 0.75
    for rs, k in regions:
        others = [r for j, r in enumerate(rs) if j not in (k, rs[k].other)]
        if rs[k].facts.relation is not None:
            least = 12 if _gap(rs[k], rs[rs[k].other]) > 0 else 4
            assert all(_gap(rs[k], r) >= least for r in others)


def test_relate_by_hand():
    star = [100, 100, 140, 140]
    for box, relation in [
        ([40, 105, 80, 150], "left"),
        ([160, 90, 200, 130], "right"),
        ([95, 20, 150, 80], "above"),
        ([110, 150, 130, 170], "below"),
        ([110, 110, 130, 130], "inside"),
        ([80, 80, 200, 200], "around"),
        ([120, 120, 170, 170], "behind"),
        ([150, 150, 170, 170], "near"),
        ([150, 125, 190, 165], None),  # neither beside nor diagonal
    ]:
        found = relate(np.array([box, star], float))[0]
        assert found == (None if relation is None else (relation, 1))
    assert relate(np.array([star], float)) == [None]
    # the nearest of two must be nearer by 12 px
    for gap, relation in ((31, None), (32, ("left", 1))):
        boxes = [[40, 100, 80, 140], star, [40, 140 + gap, 80, 190 + gap]]
        assert relate(np.array(boxes, float))[0] == relation
    # two figures equally near: which one is meant is unclear
    assert relate(np.array([star, [150, 100, 180, 140], [60, 100, 91, 140]], float))[0] is None


@pytest.mark.parametrize("texture", ["striped", "dotted", "checkered"])
@pytest.mark.parametrize("extent", [36.0, 64.0, 98.0])
def test_texture_is_read_close_up_and_fades_from_afar(texture, extent):
    """Views shrunk to 64 px: most of a texture's swing survives in the crop only."""

    def contrast(kind: str, close: bool) -> float:
        figure = Figure("square", "green", kind, "any", (160.0, 160.0), extent, 0.0, 0.4, (90,) * 3)
        canvas = np.full((320, 320, 3), 230, np.float32)
        image = Image.fromarray(draw([figure], canvas))
        box = figure.box if close else (0, 0, 320, 320)
        view = image.crop([int(v) for v in box]).resize((64, 64), Image.Resampling.BICUBIC)
        x1, y1, x2, y2 = (figure.box - [*box[:2], *box[:2]]) * 64 / (box[2] - box[0])
        rim = 2 + 64 / (box[2] - box[0]) * 2.5
        core = np.asarray(view)[
            int(y1 + rim) : int(y2 - rim) + 1, int(x1 + rim) : int(x2 - rim) + 1
        ]
        return float(core[..., 0].std())

    close, far = contrast(texture, close=True), contrast(texture, close=False)
    assert close > 12
    assert far < close * (0.7 if extent > 90 else 0.3)  # of the largest a trace is left
    assert contrast("plain", close=True) < 1


def test_texture_has_the_mean_of_its_colour():
    u, v = np.random.default_rng(0).uniform(0, 330, (2, 200_000))  # whole periods of all
    for texture in words.TEXTURES:
        assert abs(texture_wave(texture, u, v).mean()) < 0.01
    with pytest.raises(ValueError, match="'knitted' is not one of plain"):
        texture_wave("knitted", u, v)


# --- the words ---


def test_tokenizer_knows_every_word(shapes, scenes):
    tokenizer = Tokenizer.from_file(str(shapes / "tokenizer" / "tokenizer.json"))
    assert [tokenizer.token_to_id(t) for t in ("<pad>", "</s>", "<unk>")] == [0, 1, 2]
    assert 80 <= tokenizer.get_vocab_size() <= 120
    texts = [c for _, rs in scenes for k in range(len(rs)) for c in captions_of(rs[k].facts)]
    texts += [f"{','.join(words.TAGS)}|", "|", "|,"]
    texts += [f"the {name}" for name in words.CLASSES]
    for attribute in read_json(shapes / "attributes.json")["attributes"]:
        kind, phrases = attribute["name"].split(":")
        noun = f" {kind}" if attribute["is_has_att"] == "has" else ""
        verb = attribute["is_has_att"]
        texts += [f"the {p}{noun}" for p in phrases.split("/")]
        texts += [f"the  {verb} {p}{noun}" for p in phrases.split("/")]
    for text in texts:
        encoded = tokenizer.encode(text)
        assert 2 not in encoded.ids and encoded.ids[-1] == 1
        assert encoded.tokens[:-1] == re.findall(r"\w+|[|,]", text)
    assert tokenizer.encode("Red zebra").ids == [tokenizer.token_to_id("red"), 2, 1]


def test_tokenizer_folder_is_read_by_transformers(shapes):
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(shapes / "tokenizer")
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    batch = tokenizer(["star,red|", "|"], padding=True)
    assert batch["attention_mask"] == [[1] * 5, [1, 1, 0, 0, 0]]
    caption = "a small striped red star left of an orange ring"
    ids = tokenizer(caption).input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == caption


STAR = Facts("star", "red", "striped", "small", "top left", "grass", "left", ("orange", "ring"))
BARE = Facts("star", "red", "striped", "small")


def test_captions():
    assert captions_of(STAR) == [
        "a small striped red star left of an orange ring on the grass in the top left corner",
        "a small red striped star on grass at the upper left to the left of an orange ring",
        "in the top left corner on the grass a small striped red star to the left of an orange "
        "ring",
        "the little lined red star in the top left corner left of an orange ring on the grass",
        "a small star that is red and striped on the grass left of an orange ring at the upper "
        "left",
        "a striped red star of small size in the top left corner on grass to the left of an orange "
        "ring",
    ]
    assert captions_of(BARE)[0] == "a small striped red star"
    short = [language.caption(template, STAR) for template in language.SHORT_TEMPLATES]
    assert short == [
        "the star",
        "the red one",
        "the one that is red",
        "the striped one",
        "the one that has a striped pattern",
        "the small one",
        "the one that is small",
        "the one left of another",
        "the one that is to the left of another",
        "the one left of an orange ring",
        "the one in the top left corner",
        "the one that is at the upper left",
        "the one on the grass",
        "the one that is on grass",
    ]
    for template in language.SHORT_TEMPLATES[7:]:  # of what is unclear
        assert language.caption(template, BARE) == "the star"


@pytest.mark.parametrize(
    ("caption", "said"),
    [
        (
            "a red star left of a blue ring",
            {"figure": "star", "colour": "red", "relation": "left", "neighbour": "blue ring"},
        ),
        ("the one to the left of another on the left", {"place": "left", "relation": "left"}),
        ("on the left side a big ring", {"figure": "ring", "size": "large", "place": "left"}),
        ("the one in front of a red star", {"relation": "front", "neighbour": "red star"}),
        ("A Lined Star ON grass", {"figure": "star", "texture": "striped", "ground": "grass"}),
        ("a red blue star star near", {"figure": "star", "colour": "red", "relation": "near"}),
        ("a redder starfish", {}),
        ("", {}),
    ],
)
def test_what_a_caption_says(caption, said):
    """Of "a red star left of a blue ring" the ring is the neighbour, not the region."""
    assert language.said_by_kind(caption) == said


def test_close_view_does_not_tell_the_size():
    """Figures that differ in size alone look the same in a tight crop of one resolution."""

    def crop(extent: float) -> np.ndarray:
        figure = Figure("square", "green", "striped", "any", (160, 160), extent, 0, 0.4, (90,) * 3)
        image = Image.fromarray(draw([figure], np.full((320, 320, 3), 230, np.float32)))
        view = image.crop([int(v) for v in figure.box]).resize((32, 32), Image.Resampling.BICUBIC)
        return np.asarray(view, float)[4:-4, 4:-4, 0]

    assert np.corrcoef(crop(64).ravel(), crop(96).ravel())[0, 1] > 0.8


def test_frequency_groups_are_true():
    """Attributes called head are more frequent than medium ones, and those than tail ones."""
    counts, total = Counter(), 0
    for i in range(250):
        for region in render_scene(np.random.default_rng([1, 0, i]))[1]:
            counts.update(np.flatnonzero(np.equal(words.attribute_labels(region.facts, False), 1)))
            total += 1
    shares = {"head": [], "medium": [], "tail": []}
    for index, entry in enumerate(words.attribute_entries()):
        shares[entry["freq_set"]].append(counts[index] / total)
    assert min(shares["head"]) > 0.12
    assert min(shares["medium"]) > 0.05 and max(shares["medium"]) < 0.2
    assert min(shares["tail"]) > 0 and max(shares["tail"]) < 0.1


def test_places_by_hand():
    """Nine of them, and none near a border (at 0.35 and 0.65 of a side)."""
    centers = {"left": 0.2, "middle": 0.5, "right": 0.8}
    rows = {"top": 0.2, "middle": 0.5, "bottom": 0.8}
    found = set()
    for column, x in centers.items():
        for row, y in rows.items():
            box = np.array([300 * x - 9, 200 * y - 5, 300 * x + 9, 200 * y + 5])
            place = place_in_image(box, 300, 200)
            named = [name for name in (row, column) if name != "middle"]
            assert place == (" ".join(named) or "middle")
            found.add(place)
    assert found == set(words.PLACES)
    for position in (0.335, 0.365, 0.645):
        box = np.array([300 * position, 100, 300 * position, 100])
        assert place_in_image(box, 300, 200) is None
    assert place_in_image(np.array([98, 90, 98, 90]), 300, 200) == "left"  # 0.3267


def test_a_tight_view_shows_no_ground():
    """The same figures on other grounds: only what is outside the papers differs."""
    for seed in range(10):
        rng = np.random.default_rng(seed)
        grounds = sample_grounds(rng, 300, 300)
        figures = sample_layout(rng, grounds)
        others = tuple(name for name in words.GROUNDS if name not in grounds.names)
        pictures = []
        for names in (grounds.names, (others * 2)[: len(grounds.names)]):
            laid = replace(grounds, names=names)
            canvas = paint_grounds(np.random.default_rng(1), laid)
            canvas = lay_papers(np.random.default_rng(2), canvas, [f.box for f in figures])
            pictures.append(draw(figures, canvas).astype(int))
        differs = np.abs(pictures[0] - pictures[1]).max(axis=2) > 8
        assert differs.mean() > 0.5
        for figure in figures:
            x1, y1, x2, y2 = np.round(figure.box).astype(int)
            assert not differs[y1 - 4 : y2 + 4, x1 - 4 : x2 + 4].any()


def test_grounds_are_those_under_the_papers():
    seen = Counter()
    for i in range(20):
        grounds = sample_grounds(np.random.default_rng(i), 300, 280)
        assert len(set(grounds.names)) == len(grounds.names) == grounds.zones.max() + 1
        for x in range(20, 270, 40):
            box = np.array([x, 100, x + 20, 130.0])
            zone = grounds.zones[94:136, x - 6 : x + 26]
            alone = zone.min() == zone.max()
            assert grounds.under(box) == (grounds.names[zone[0, 0]] if alone else None)
            seen[alone] += 1
    assert min(seen[True], seen[False]) > 10
    assert grounds.under(np.array([400, 400, 420, 420.0])) is None


# --- errors and repeated calls ---


def test_complete_world_is_left_alone_and_another_one_refused(tmp_path, capsys):
    out = tmp_path / "shapes"
    arguments = ["--out", str(out), "--images", "2", "--val", "1", "--test", "1"]
    main(arguments)
    assert "train 2 images" in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    main(arguments)
    assert "already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    with pytest.raises(SystemExit):
        main([*arguments, "--seed", "5"])
    assert "other parameters" in capsys.readouterr().err
    main([*arguments, "--seed", "5", "--overwrite"])
    assert read_json(out / "world.json")["seed"] == 5
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]


@pytest.mark.parametrize(
    ("counts", "seed", "message"),
    [
        ((-1, 1, 1), 0, "train images: -1"),
        ((1, 1, -3), 0, "test images: -3"),
        ((0, 0, 0), 0, "no image asked for"),
        ((1_000_000, 0, 0), 0, "is not from 0 to 999999"),
        ((1, 1, 1), -2, "seed: -2"),
    ],
)
def test_bad_parameters(tmp_path, counts, seed, message):
    with pytest.raises(ValueError, match=message):
        make_shapes(tmp_path / "shapes", *counts, seed=seed, progress=False)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_something_else_is_never_replaced(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="holds no shapes world"):
            make_shapes(tmp_path, 1, 1, 1, overwrite=overwrite, progress=False)
    (tmp_path / "world.json").write_text("{")
    with pytest.raises(ValueError, match=r"world\.json is not valid JSON"):
        make_shapes(tmp_path, 1, 1, 1, progress=False)
    (tmp_path / "world.json").write_text('{"world": "earth"}')
    with pytest.raises(FileExistsError, match="does not describe a shapes world"):
        make_shapes(tmp_path, 1, 1, 1, overwrite=True, progress=False)
    assert (tmp_path / "letter.txt").read_text() == "dear"


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    def fail(folder):
        raise OSError("disk full")

    monkeypatch.setattr(world, "write_vocabularies", fail)
    with pytest.raises(OSError, match="disk full"):
        make_shapes(tmp_path / "shapes", 1, 0, 0, progress=False)
    assert not list(tmp_path.iterdir())


def test_command_line_without_torch(tmp_path):
    """The module runs as a command and its own files do not import torch."""
    code = (
        "import sys, runpy; sys.argv[1:] = ['--out', 'w', '--images', '1', '--val', '0', "
        "'--test', '0']; runpy.run_module('dynrefer.datasets.shapes', run_name='__main__'); "
        "assert 'torch' not in sys.modules"
    )
    root = str(Path(__file__).resolve().parents[3])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": root, "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "w" / "world.json").is_file()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_render_leaves_nothing(tmp_path, number):
    """Neither workers, which end with their parent, nor what the next call would not remove."""
    root = str(Path(__file__).resolve().parents[3])
    command = [sys.executable, "-m", "dynrefer.datasets.shapes", "--out", tmp_path / "w"]
    command += ["--images", "5000", "--val", "0", "--test", "0"]
    process = subprocess.Popen(command, env={"PYTHONPATH": root}, stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob(".w.*.partial/images/train/*.jpg")):
        assert process.poll() is None
        time.sleep(0.05)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(number)
    process.wait()
    assert len(workers) > 1
    assert len(list(tmp_path.iterdir())) == (number == signal.SIGKILL)
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{worker}/stat").exists() for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    other = tmp_path / f".w.{os.getppid()}.partial"  # of a process that is alive
    other.mkdir()
    make_shapes(tmp_path / "w", 1, 0, 0, progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == [other.name, "w"]


def test_a_world_that_was_being_replaced_comes_back(tmp_path):
    make_shapes(tmp_path / "w", 1, 0, 0, progress=False)
    (tmp_path / "w").rename(tmp_path / ".w.999999999.retired")
    before = contents(tmp_path / ".w.999999999.retired")
    make_shapes(tmp_path / "w", 1, 0, 0, progress=False)
    assert contents(tmp_path / "w") == before and len(list(tmp_path.iterdir())) == 1
