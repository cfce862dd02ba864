"""Reading shards: the samples of the files they were made of, and errors for what is not whole."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from dynrefer.config import ConfigError, load_config
from dynrefer.datasets.annotations import AnnotationIndex
from dynrefer.datasets.batch import RegionBatch
from dynrefer.datasets.builders import DatasetRequest, build_dataset, build_view_selector
from dynrefer.datasets.region_dataset import RegionDataset
from dynrefer.datasets.shards import reading as shards
from dynrefer.datasets.shards.reading import ShardedImages, open_shards
from dynrefer.datasets.shards.writing import write_shards
from dynrefer.processors.caption import CaptionProcessor
from dynrefer.processors.control_words import ControlWordSampler
from dynrefer.processors.images import ImageError, open_image
from dynrefer.processors.region_image import RegionImageProcessor
from dynrefer.views.selectors import StochasticSelector
from dynrefer.vocabulary import TagVocabulary
from tests.datasets.files import image_record, region_record, write_annotations, write_images

TAGS = TagVocabulary(("dog", "grass", "red", "ball"))
IMAGES = [1, 2, 3, "VG_100K/4", 5]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Five images, the third without regions, four regions each of the others."""
    folder = tmp_path_factory.mktemp("original")
    (folder / "images" / "VG_100K").mkdir(parents=True)
    write_images(folder, IMAGES)
    regions = [
        region_record(n, owner, (n, 2 * n, 12, 9), captions=["One.", "Two.", "Three."])
        for n, owner in enumerate([i for i in IMAGES if i != 3] * 4)
    ]
    for region in regions:
        region["extra_info"] = {"parser_result": {"tag_set1": [region["id"] % 4], "tag_set2": [1]}}
    path = write_annotations(folder, [image_record(i) for i in IMAGES], regions)
    write_shards(path, folder / "shards", images_per_shard=2, progress=False)
    return path


@pytest.fixture
def folder(original, tmp_path):
    """A copy of the shards, to do harm to."""
    return shutil.copytree(original.parent / "shards", tmp_path / "shards")


def dataset(index, by="region"):
    words = ControlWordSampler(0.5, 0.5) if by == "region" else None
    processor = RegionImageProcessor(8, StochasticSelector(3))
    return RegionDataset(index, processor, CaptionProcessor(), TAGS, by, words, seed=7)


def batches(samples, workers=0, **options):
    options.setdefault("batch_size", 3)
    return list(DataLoader(samples, num_workers=workers, collate_fn=RegionBatch.collate, **options))


def assert_same(batch, other):
    for name, value in vars(batch).items():
        twin = getattr(other, name)
        assert torch.equal(value, twin) if torch.is_tensor(value) else value == twin, name


@pytest.mark.parametrize("by", ["region", "image"])
@pytest.mark.parametrize("workers", [0, 2])
def test_samples_are_those_of_the_files(original, folder, by, workers):
    files = dataset(AnnotationIndex.open(original), by)
    sharded = dataset(open_shards(folder), by)
    assert len(files) == len(sharded)
    for epoch in (0, 3):
        files.set_epoch(epoch)
        sharded.set_epoch(epoch)
        pairs = zip(batches(files), batches(sharded, workers), strict=True)
        for one, two in pairs:
            assert_same(one, two)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_of_any_kind(original, folder, start):
    files, sharded = (dataset(i) for i in (AnnotationIndex.open(original), open_shards(folder)))
    for one, two in zip(
        batches(files), batches(sharded, workers=1, multiprocessing_context=start), strict=True
    ):
        assert_same(one, two)


def test_more_shards_than_files_may_be_open(folder, monkeypatch):
    monkeypatch.setattr(shards, "OPEN_SHARDS", 1)
    sharded = dataset(open_shards(folder))
    order = [0, 15, 1, 14, 7, 8]  # to and fro between the shards
    assert [sharded[i].ids for i in order] == [dataset(open_shards(folder))[i].ids for i in order]


def test_images_have_the_bytes_of_their_files(original, folder):
    images = ShardedImages(folder)
    for identity in (1, "VG_100K/4"):
        file = original.parent / "images" / f"{identity}.png"
        assert images.read(f"{identity}.png") == file.read_bytes()
        assert np.array_equal(open_image(images / f"{identity}.png"), open_image(file))


def test_pickling_carries_the_path_alone(folder):
    index = open_shards(folder)
    copy = pickle.loads(pickle.dumps(index))
    assert len(pickle.dumps(index)) < 1000
    assert open_image(copy.image(0).path).tobytes() == open_image(index.image(0).path).tobytes()


def test_the_policy_for_records_is_that_of_annotation_files(tmp_path):
    write_images(tmp_path, [1])
    regions = [region_record(1, 1), region_record(2, 1, caption="")]
    path = write_annotations(tmp_path, [image_record(1)], regions)
    write_shards(path, tmp_path / "shards", progress=False)
    assert len(open_shards(tmp_path / "shards")) == 2
    assert len(open_shards(tmp_path / "shards", "skip", require_caption=True)) == 1
    with pytest.raises(ValueError, match="annotation 2: empty caption"):
        open_shards(tmp_path / "shards", require_caption=True)


# What is not whole


def change_manifest(folder, change):
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_an_image_that_is_not_in_the_shards(folder):
    with pytest.raises(ImageError, match=r"shards:3\.png does not exist"):
        open_image(ShardedImages(folder) / "3.png")
    with pytest.raises(FileNotFoundError, match="image 3.png is not in the shards of"):
        ShardedImages(folder).read("3.png")


@pytest.mark.parametrize("name", ["shard-000001.tar", "annotations.json"])
def test_a_missing_file(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} is missing; manifest.json beside it"):
        open_shards(folder)


@pytest.mark.parametrize("name", ["shard-000000.tar", "annotations.json"])
def test_a_truncated_file(folder, name):
    path = folder / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=rf"{name}: has \d+ bytes, manifest.json says \d+; copy"):
        open_shards(folder)


def test_a_shard_that_is_cut_while_it_is_open(folder):
    sharded = dataset(open_shards(folder))
    (folder / "shard-000001.tar").write_bytes(b"short")
    assert sharded[0].ids == [0]
    with pytest.raises(
        ValueError, match=r"image id 5, .*shard-000001.tar: ends within image 5.png"
    ):
        sharded[15]


def test_a_damaged_image_is_named(folder):
    path = folder / "shard-000000.tar"
    content = bytearray(path.read_bytes())
    content[512:2000] = bytes(1488)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="image id 1, region ids 0: .*shards:1.png cannot be"):
        dataset(open_shards(folder))[0]


def test_a_folder_without_a_manifest(folder, tmp_path):
    (folder / "manifest.json").unlink()
    with pytest.raises(FileNotFoundError, match="shards has no manifest.json.*run it again"):
        open_shards(folder)
    with pytest.raises(FileNotFoundError, match="none/manifest.json; .*'build_info.shards'"):
        open_shards(tmp_path / "none")
    with pytest.raises(ValueError, match="is a tar file; name the folder"):
        open_shards(folder / "shard-000000.tar")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update(layout=2), "'layout' is 2, must be 1"),
        (lambda content: content.pop("layout"), r"is no manifest of shards: KeyError\('layout'\)"),
        (lambda content: content.pop("shards"), "is no manifest of shards: KeyError"),
        (lambda content: content.update(shards=3), "is no manifest of shards: TypeError"),
        (lambda content: content.update(shards=[]), "'shards' must name files of this folder"),
        (lambda content: content["shards"][0].update(bytes="9"), "'bytes' must be whole numbers"),
        (
            lambda content: content["shards"][0].update(bytes=9),
            "has .* bytes, manifest.json says 9",
        ),
        (lambda content: content["shards"][0].update(name="../a.tar"), "must name files of this"),
        (lambda content: content["shards"][0].update(name=5), "must name files of this folder"),
        (lambda content: content["image_table"].update(sha256="0"), "images.npy: .*not the table"),
        (lambda content: content["annotations"].update(bytes=1), "annotations.json: has"),
    ],
)
def test_a_wrong_manifest(folder, change, message):
    change_manifest(folder, change)
    with pytest.raises(ValueError, match=message):
        open_shards(folder)


def test_a_manifest_that_is_not_json(folder):
    (folder / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="manifest.json: broken JSON at line 1"):
        open_shards(folder)


def test_the_manifest_of_other_shards(original, folder, tmp_path):
    write_shards(original, tmp_path / "others", images_per_shard=3, progress=False)
    shutil.copy(tmp_path / "others" / "manifest.json", folder)
    with pytest.raises(ValueError, match=r"shard-000000.tar: has \d+ bytes, manifest.json says"):
        open_shards(folder)


# By configuration


@pytest.fixture
def build(original, folder, tmp_path):
    """Builds the dataset "some" of a configuration for a split, with options."""
    path = tmp_path / "config.yaml"
    path.write_text(f"datasets: {{some: {{build_info: {{annotations: {{val: [{original}]}}}}}}}}")

    def build_split(split, *options, training=True):
        prefix = "datasets.some.build_info"
        config = load_config(path, [f"{prefix}.{option}" for option in options])
        selector = build_view_selector(config.run.train_view_selector, 3)
        request = DatasetRequest(
            "some", split, config.datasets.some, selector, 3, 16, TAGS, 5, training
        )
        return build_dataset(request)

    return build_split


def test_shards_take_the_place_of_annotations(build, original, folder):
    options = ("builder=dynrefer_shards", f"shards.train=[{folder}]")
    assert build("train", *options).datasets[0].index.source == folder / "annotations.json"
    assert build("val", *options).datasets[0].index.source == original
    both = build("train", *options, f"annotations.train=[{original}]")
    assert both.datasets[0].index.source == folder / "annotations.json"
    images = build("train", *options, training=False)
    assert images[0].ids == [0, 4, 8, 12]


@pytest.mark.parametrize("sharded", [False, True])
def test_what_is_configured_reaches_the_dataset(build, original, folder, sharded):
    shards = ("builder=dynrefer_shards", f"shards.train=[{folder}]")
    data = shards if sharded else (f"annotations.train=[{original}]",)
    options = (*data, "full_drop_ratio=0.25", "drop_ratio=0.75", "max_imgs=2")
    part = build("train", *options).datasets[0]
    words = part.control_words
    assert (words.full_drop_ratio, words.drop_ratio) == (0.25, 0.75)
    assert (part.seed, part.by, len(part), part.skip_images) == (5, "region", 8, False)
    images = build("train", *options, "bad_records=skip", training=False).datasets[0]
    assert (images.by, images.control_words, images.skip_images) == ("image", None, True)


@pytest.mark.parametrize("sharded", [False, True])
def test_the_policy_for_records_and_captions_is_handed_on(build, tmp_path, sharded):
    write_images(tmp_path, [1])
    regions = [region_record(1, 1), region_record(2, 1, caption="")]
    path = write_annotations(tmp_path, [image_record(1)], regions)
    write_shards(path, tmp_path / "shards2", progress=False)
    shards = ("builder=dynrefer_shards", f"shards.train=[{tmp_path / 'shards2'}]")
    data = shards if sharded else (f"annotations.train=[{path}]",)
    with pytest.raises(ValueError, match="annotation 2: empty caption"):
        build("train", *data)
    assert len(build("train", *data, "bad_records=skip")) == 1
    assert build("train", *data, training=False)[0].ids == [1, 2]


def test_headers_are_checked_on_request(build, original, tmp_path, caplog):
    folder = shutil.copytree(original.parent, tmp_path / "copy")
    (folder / "images" / "5.png").write_bytes(b"none")
    data = f"annotations.train=[{folder / original.name}]"
    assert len(build("train", data)) == 16
    with pytest.raises(
        ValueError, match=r"1 of 4 images cannot be used: .*5.png.*bad_records: skip"
    ):
        build("train", data, "check_images=true")
    assert len(build("train", data, "check_images=true", "max_imgs=3")) == 8
    assert len(build("train", data, "check_images=true", "bad_records=skip")) == 16
    assert "1 of 4 images cannot be used" in caplog.text


def test_builder_and_shards_go_together(build, folder):
    with pytest.raises(ConfigError, match="shards and builder: dynrefer_shards go together"):
        build("train", f"shards.train=[{folder}]")
    with pytest.raises(ConfigError, match="shards and builder: dynrefer_shards go together"):
        build("val", "builder=dynrefer_shards")


def test_a_split_without_data_names_those_with_some(build, folder):
    options = ("builder=dynrefer_shards", f"shards.train=[{folder}]")
    with pytest.raises(ConfigError, match=r"annotations.test names no file; .*\['val', 'train'\]"):
        build("test", *options)
