"""Writing shards: plain webdataset files, the same bytes again, going on after an interruption."""

import json
import shutil
import tarfile

import pytest
import webdataset
from PIL import Image

from dynrefer import files
from dynrefer.datasets.shards import writing as shard_writing
from dynrefer.datasets.shards.writing import write_shards
from tests.datasets.files import image_record, region_record, write_annotations, write_images

IDS = [1, 2, 3, 4, 5, "b"]
TARS = ["shard-000000.tar", "shard-000001.tar", "shard-000002.tar"]


@pytest.fixture
def annotation_file(tmp_path):
    """Six images, the second without regions; two regions an image, not grouped by image."""
    write_images(tmp_path, IDS)
    with Image.open(tmp_path / "images" / "b.png") as image:
        image.save(tmp_path / "images" / "b.JPG")
    images = [image_record(i) for i in IDS[:5]] + [image_record("b", file_name="b.JPG")]
    owners = [i for i in IDS if i != 2] * 2
    regions = [region_record(100 + n, owner) for n, owner in enumerate(owners)]
    regions[0] |= {"captions": ["one", "two"], "extra_info": {"parser_result": {"tag_set1": [1]}}}
    return write_annotations(tmp_path, images, regions)


@pytest.fixture
def make(annotation_file, tmp_path):
    def write(name="shards", **options):
        options = {"images_per_shard": 2, "progress": False} | options
        return write_shards(annotation_file, tmp_path / name, **options), tmp_path / name

    return write


def contents(folder):
    """Bytes by name of the files that are made here; the index of annotations.json is not."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_counts_and_files(make, annotation_file):
    counts, folder = make()
    assert (counts.images, counts.regions, counts.shards, counts.written) == (5, 10, 3, 3)
    assert counts.bytes == sum((folder / name).stat().st_size for name in TARS)
    assert sorted(contents(folder)) == [
        "annotations.json", "images.npy", "manifest.json", "plan.json", *TARS
    ]  # fmt: skip
    assert (folder / "annotations.json").read_bytes() == annotation_file.read_bytes()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [shard["name"] for shard in manifest["shards"]] == TARS
    assert [shard["images"] for shard in manifest["shards"]] == [2, 2, 1]
    assert [shard["regions"] for shard in manifest["shards"]] == [4, 4, 2]
    assert (manifest["images"], manifest["regions"]) == (5, 10)


def test_webdataset_reads_the_shards(make, annotation_file):
    _, folder = make()
    urls = [str(folder / name) for name in TARS]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    described = [json.loads(sample["json"]) for sample in samples]
    assert [record["id"] for record in described] == [1, 3, 4, 5, "b"]
    for sample, record in zip(samples, described, strict=True):
        suffix = "jpg" if record["id"] == "b" else "png"
        original = annotation_file.parent / "images" / record["file_name"]
        assert sample[suffix] == original.read_bytes()
        assert (record["width"], record["height"]) == (64, 48)
    assert [[region["id"] for region in record["regions"]] for record in described] == [
        [100, 105], [101, 106], [102, 107], [103, 108], [104, 109]
    ]  # fmt: skip
    assert described[0]["regions"][0] == {
        "id": 100,
        "box": [8, 6, 28, 22],
        "captions": ["A red dog no. 100", "one", "two"],
        "extra_info": {"parser_result": {"tag_set1": [1]}},
    }


def test_the_same_input_gives_the_same_bytes(make):
    assert contents(make("one")[1]) == contents(make("two")[1])


def test_again_does_nothing(make):
    _, folder = make()
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert make()[0].written == 0
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.parametrize("stop_at", range(1, 8))
def test_an_interrupted_run_goes_on(make, monkeypatch, stop_at):
    whole = contents(make("whole")[1])
    atomically, calls = shard_writing.write_atomically, []

    def interrupted(path, write):
        calls.append(path)
        if len(calls) == stop_at:
            write(path.with_name(path.name + ".part"))  # killed before it is put in place
            raise KeyboardInterrupt
        atomically(path, write)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        for module in (shard_writing, files):  # write_text's too
            patch.setattr(module, "write_atomically", interrupted)
        make()
    finished = sum(path.suffix == ".tar" for path in calls[:-1])
    counts, folder = make()
    assert counts.written == 3 - finished
    assert contents(folder) == whole


@pytest.mark.parametrize("damage", ["cut", "cut in its last file", "emptied", "foreign"])
def test_a_shard_that_is_not_whole_is_written_again(make, annotation_file, damage):
    _, folder = make()
    before = contents(folder)
    (folder / "manifest.json").unlink()
    shard = folder / TARS[1]
    if damage == "foreign":
        shutil.copy(folder / TARS[0], shard)
    elif damage == "cut in its last file":
        with tarfile.open(shard) as tar:
            last = tar.getmembers()[-1]
        shard.write_bytes(before[TARS[1]][: last.offset_data + last.size - 1])
    else:
        shard.write_bytes(before[TARS[1]][: 3000 if damage == "cut" else 0])
    assert make()[0].written == 1
    assert contents(folder) == before


def test_a_folder_of_other_shards_is_left_alone(make, annotation_file):
    _, folder = make()
    before = contents(folder)
    with pytest.raises(ValueError, match="holds shards with another images_per_shard"):
        make(images_per_shard=3)
    with pytest.raises(ValueError, match="holds shards with another bad_records"):
        make(bad_records="skip")
    annotation_file.write_text(annotation_file.read_text().replace("no. 100", "no. 99"))
    with pytest.raises(ValueError, match="with another annotations_sha256 .*choose another folder"):
        make()
    assert contents(folder) == before


def test_a_folder_of_other_files_is_left_alone(make, tmp_path):
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "letter.txt").touch()
    with pytest.raises(ValueError, match="holds other files and no plan.json"):
        make()
    assert [path.name for path in (tmp_path / "shards").iterdir()] == ["letter.txt"]


def test_missing_images_are_named_and_counted_before_anything_is_packed(make, annotation_file):
    for identity in (3, 5):
        (annotation_file.parent / "images" / f"{identity}.png").unlink()
    with pytest.raises(
        ValueError, match=r"train.json: 2 of 5 images cannot be used: .*3.png.*5.png"
    ):
        make()
    assert not list((annotation_file.parent / "shards").glob("*.tar"))
    counts, folder = make("readable", bad_records="skip")
    assert (counts.images, counts.regions) == (3, 6)


@pytest.mark.parametrize("how", ["by words", "absolute", "by a link"])
def test_nothing_outside_the_folder_of_images_is_packed(make, annotation_file, tmp_path, how):
    root = annotation_file.parent
    Image.new("RGB", (64, 48)).save(root / "secret.png")
    content = json.loads(annotation_file.read_text())
    if how == "by a link":
        (root / "images" / "1.png").unlink()
        (root / "images" / "1.png").symlink_to(root / "secret.png")
    else:
        name = "../secret.png" if how == "by words" else str(root / "secret.png")
        content["images"][0]["file_name"] = name
        annotation_file.write_text(json.dumps(content))
    message = "link out of" if how == "by a link" else "file outside the image root"
    with pytest.raises(ValueError, match=message):
        make()
    assert make("others", bad_records="skip")[0].images == 4
    if how == "by a link":
        assert make("all", image_root=root / "images")[0].images == 5


def test_a_file_that_is_no_image_is_not_packed(make, annotation_file):
    (annotation_file.parent / "images" / "1.png").write_text("root:x:0:0")
    with pytest.raises(ValueError, match=r"1 of 5 images cannot be used: .*1.png: cannot identify"):
        make()


def test_an_image_without_regions_may_be_missing(make, annotation_file):
    (annotation_file.parent / "images" / "2.png").unlink()
    assert make()[0].images == 5


def test_bad_records_stop_or_are_left_out(make, annotation_file):
    content = json.loads(annotation_file.read_text())
    content["annotations"][0]["bbox"] = [0, 0, 0, 0]
    annotation_file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="annotation 100: box has no area"):
        make()
    assert make(bad_records="skip")[0].regions == 9


def test_two_records_of_one_file(tmp_path):
    write_images(tmp_path, [1])
    images = [image_record(1), image_record(2, file_name="1.png")]
    regions = [region_record(1, 1), region_record(2, 2)]
    path = write_annotations(tmp_path, images, regions)
    counts = write_shards(path, tmp_path / "shards", progress=False)
    assert (counts.images, counts.regions) == (2, 2)
    with tarfile.open(tmp_path / "shards" / TARS[0]) as tar:
        assert len(tar.getnames()) == 4


def test_names_with_equal_numbers_are_refused(make, monkeypatch):
    monkeypatch.setattr(shard_writing, "name_number", lambda name: 7)
    with pytest.raises(ValueError, match="rename one of .*png.*; their hashes are equal"):
        make()


def test_a_wrong_number_of_images(make):
    with pytest.raises(ValueError, match="images_per_shard is 0, must be at least 1"):
        make(images_per_shard=0)


def test_another_image_root(make, annotation_file):
    (annotation_file.parent / "images").rename(annotation_file.parent / "elsewhere")
    with pytest.raises(ValueError, match="5 of 5 images cannot be used"):
        make()
    assert make(image_root=annotation_file.parent / "elsewhere")[0].images == 5
