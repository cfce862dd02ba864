"""RegionDataset: samples by region and by image, repeatable draws, errors that name the record."""

import json
import os

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from dynrefer.datasets.annotations import AnnotationIndex
from dynrefer.datasets.batch import RegionBatch
from dynrefer.datasets.images import unreadable_images
from dynrefer.datasets.region_dataset import RegionDataset
from dynrefer.processors.caption import CaptionProcessor
from dynrefer.processors.control_words import ControlWordSampler
from dynrefer.processors.region_image import RegionImageProcessor
from dynrefer.views.selectors import StochasticSelector, TaskPriorSelector
from dynrefer.vocabulary import TagVocabulary
from tests.datasets.files import image_record, region_record, write_annotations, write_images

TAGS = TagVocabulary(("dog", "grass", "red", "ball"))
SIZE = 8


@pytest.fixture
def annotation_file(tmp_path):
    """Image 1 with three regions, image 2 with none, image 3 with two."""
    write_images(tmp_path, [1, 2, 3])
    regions = [region_record(i, 1 if i < 3 else 3, (4 * i, 3 * i, 12, 9)) for i in range(5)]
    regions[0]["extra_info"] = {"parser_result": {"tag_set1": [2, 0], "tag_set2": [0, 1]}}
    regions[1]["captions"] = [f"Dog {letter}." for letter in "ABCDEFGH"]
    return write_annotations(tmp_path, [image_record(i) for i in (1, 2, 3)], regions)


def dataset(path, selector=None, **options):
    image_processor = RegionImageProcessor(SIZE, selector or TaskPriorSelector(3, [0.5, 1.0]))
    options.setdefault("tag_vocabulary", TAGS)
    return RegionDataset(AnnotationIndex.open(path), image_processor, CaptionProcessor(), **options)


def training(path, **options):
    sampler = ControlWordSampler(full_drop_ratio=0.2)
    return dataset(path, StochasticSelector(3), control_words=sampler, **options)


def content(sample):
    """All that a sample holds, to compare samples by."""
    views = vars(sample.views).values()
    tensors = [*(view.tolist() for view in views), sample.tags.tolist()]
    return [*tensors, sample.ids, sample.image_ids, sample.captions, sample.control_words]


def test_by_region_a_sample_is_one_region(annotation_file):
    regions = dataset(annotation_file)
    assert len(regions) == 5
    assert [regions[i].ids for i in range(5)] == [[0], [1], [2], [3], [4]]
    assert [regions[i].image_ids for i in range(5)] == [[1], [1], [1], [3], [3]]
    sample = regions[0]
    assert sample.captions == ["a red dog no 0"]
    assert sample.control_words == [""]
    assert sample.tags.dtype == torch.bool
    assert sample.tags.tolist() == [[True, True, True, False]]
    assert sample.views.view_boxes[0].tolist() == [[0, 0, 12, 9], [0, 0, 38, 28], [0, 0, 64, 48]]
    assert sample.source == str(annotation_file)


def test_by_image_a_sample_is_all_regions_of_an_image_that_has_some(annotation_file):
    images = dataset(annotation_file, by="image")
    assert len(images) == 2
    samples = [images[i] for i in range(2)]
    assert [sample.ids for sample in samples] == [[0, 1, 2], [3, 4]]
    assert [sample.image_ids for sample in samples] == [[1, 1, 1], [3, 3]]
    assert samples[0].tags.shape == (3, 4)
    assert samples[0].captions[1] == "a red dog no 1"
    assert len(samples[0].views.crops) == 7  # three regions, three middle views, one whole image
    by_region = RegionBatch.collate([dataset(annotation_file)[i] for i in range(5)])
    by_image = RegionBatch.collate(samples)
    assert torch.equal(by_region.crops[by_region.view_index], by_image.crops[by_image.view_index])
    assert len(by_region.crops) == len(by_image.crops) == 12


def test_samples_can_be_iterated(annotation_file):
    assert [sample.ids for sample in dataset(annotation_file)] == [[0], [1], [2], [3], [4]]


@pytest.mark.parametrize("position", [-1, 5])
def test_a_position_outside_is_an_index_error(annotation_file, position):
    with pytest.raises(IndexError, match=f"sample {position} is outside 0..4"):
        dataset(annotation_file)[position]


@pytest.mark.parametrize(("by", "most", "length"), [("region", 2, 2), ("image", 1, 1)])
def test_max_samples_keeps_the_first(annotation_file, by, most, length):
    limited = dataset(annotation_file, by=by, max_samples=most)
    assert len(limited) == length
    assert limited[0].ids == dataset(annotation_file, by=by)[0].ids
    with pytest.raises(IndexError):
        limited[length]
    assert len(dataset(annotation_file, max_samples=99)) == 5


def test_without_a_vocabulary_there_are_no_tags(annotation_file):
    sample = dataset(annotation_file, tag_vocabulary=None)[0]
    assert sample.tags.shape == (1, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"by": "box"}, "by is 'box', must be"), ({"max_samples": 0}, "max_samples is 0")],
)
def test_refused_options(annotation_file, options, message):
    with pytest.raises(ValueError, match=message):
        dataset(annotation_file, **options)


# Random choices


def test_draws_follow_seed_epoch_and_position_alone(annotation_file):
    first, again = training(annotation_file), training(annotation_file)
    drawn = [content(first[i]) for i in range(5)]
    assert [content(again[i]) for i in reversed(range(5))] == drawn[::-1]
    first.set_epoch(1)
    assert [content(first[i]) for i in range(5)] != drawn
    first.set_epoch(0)
    assert [content(first[i]) for i in range(5)] == drawn
    other_seed = training(annotation_file, seed=1)
    assert [content(other_seed[i]) for i in range(5)] != drawn


def test_equal_regions_at_two_positions_are_drawn_apart(tmp_path):
    write_images(tmp_path, [1])
    same = {"caption": "a dog", "captions": [f"dog {n}" for n in range(30)]}
    records = [region_record(i, 1, **same) for i in range(4)]
    records.append(region_record(4, 1, caption="one", captions=["two"]))
    regions = training(write_annotations(tmp_path, [image_record(1)], records))
    assert len({tuple(regions[i].views.ratios.flatten().tolist()) for i in range(4)}) == 4
    assert len({regions[i].captions[0] for i in range(4)}) > 1
    drawn = set()
    for epoch in range(20):
        regions.set_epoch(epoch)
        drawn.update(regions[4].captions)
    assert drawn == {"one", "two"}


def test_control_words_are_drawn_by_seed_epoch_and_position(annotation_file):
    def drawn(epoch, seed=0):
        regions = dataset(
            annotation_file, control_words=lambda *given: str(given[2].random()), seed=seed
        )
        regions.set_epoch(epoch)
        return [regions[i].control_words[0] for i in range(5)]

    assert drawn(0) == drawn(0)
    assert len({*drawn(0), *drawn(1), *drawn(0, seed=1)}) == 15


def test_training_draws_among_captions_and_evaluation_takes_the_first(annotation_file):
    regions, images = training(annotation_file), dataset(annotation_file, by="image")
    drawn = set()
    for epoch in range(60):
        regions.set_epoch(epoch)
        images.set_epoch(epoch)
        drawn.update(regions[1].captions)
        assert images[0].captions[1] == "a red dog no 1"
    assert drawn == {f"dog {letter}" for letter in "abcdefgh"} | {"a red dog no 1"}


def test_control_words_come_from_caption_and_tag_names(annotation_file):
    seen = []

    def sampler(caption, tag_names, rng):
        seen.append((caption, tag_names))
        return "dog|"

    sample = dataset(annotation_file, control_words=sampler)[0]
    assert sample.control_words == ["dog|"]
    assert seen == [("a red dog no 0", ["red", "dog", "grass"])]


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_change_nothing_and_follow_the_epoch(annotation_file, persistent):
    regions = training(annotation_file)
    loaders = [
        DataLoader(
            regions,
            batch_size=2,
            num_workers=workers,
            persistent_workers=persistent and workers > 0,
            collate_fn=RegionBatch.collate,
        )
        for workers in (0, 2)
    ]
    epochs = []
    for epoch in range(3):
        regions.set_epoch(epoch)
        alone, worked = ([*loader] for loader in loaders)
        assert [batch.ids for batch in worked] == [[0, 1], [2, 3], [4]]
        for left, right in zip(alone, worked, strict=True):
            assert torch.equal(left.ratios, right.ratios)
            assert torch.equal(left.crops, right.crops)
            assert left.control_words == right.control_words
        epochs.append(torch.cat([batch.ratios for batch in worked]))
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[1], epochs[2])


# Errors


@pytest.mark.parametrize("by", ["region", "image"])
def test_a_missing_image_is_named_with_its_records(annotation_file, by):
    (annotation_file.parent / "images" / "3.png").unlink()
    samples = dataset(annotation_file, by=by)
    ids = "3, 4" if by == "image" else "4"
    message = rf"train.json: image id 3, region ids {ids}: .*images/3.png"
    with pytest.raises(ValueError, match=message) as caught:
        samples[len(samples) - 1]
    assert caught.value.__cause__ is not None


def test_a_missing_image_is_named_through_a_worker(annotation_file):
    (annotation_file.parent / "images" / "3.png").unlink()
    loader = DataLoader(dataset(annotation_file), num_workers=2, collate_fn=RegionBatch.collate)
    with pytest.raises(ValueError, match="train.json: image id 3, region ids 3: "):
        list(loader)


def test_a_damaged_image_is_named_with_its_records(annotation_file):
    path = annotation_file.parent / "images" / "1.png"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match="train.json: image id 1, region ids 2: .*1.png"):
        dataset(annotation_file)[2]


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_size_after_the_turn_of_exif_is_named_as_such(annotation_file, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = annotation_file.parent / "images" / "1.png"
    Image.new("RGB", (48, 64)).save(path, exif=exif)
    with pytest.raises(ValueError, match="has 48 x 64 pixels, its record says 64 x 48") as caught:
        dataset(annotation_file)[0]
    assert ("EXIF" in str(caught.value)) is (orientation == 6)
    Image.new("RGB", (40, 64)).save(path, exif=exif)
    with pytest.raises(ValueError, match="has 40 x 64 pixels, its record says 64 x 48$"):
        dataset(annotation_file)[0]
    Image.new("RGB", (48, 64)).save(path, exif=exif)
    stored = image_record(1, width=48, height=64)
    record = region_record(1, 1)
    turned = write_annotations(annotation_file.parent, [stored], [record], "stored.json")
    assert dataset(turned)[0].views.view_boxes[0, -1].tolist() == [0, 0, 48, 64]


def test_an_image_of_another_size_than_its_record_is_refused(annotation_file):
    Image.new("RGB", (48, 64)).save(annotation_file.parent / "images" / "1.png")
    message = "image id 1, region ids 0: .*1.png has 48 x 64 pixels, its record says 64 x 48"
    with pytest.raises(ValueError, match=message):
        dataset(annotation_file)[0]


@pytest.mark.parametrize("key", ["tag_set1", "tag_set2"])
def test_a_tag_outside_the_vocabulary_is_named_at_opening(tmp_path, key):
    write_images(tmp_path, [1])
    records = [
        region_record(9 + tag, 1, extra_info={"parser_result": {key: [0, tag]}})
        for tag in (3, 4, 2)
    ]
    path = write_annotations(tmp_path, [image_record(1)], records)
    message = r"train.json: region 13 has tag 4, must be an index in 0\.\.3, .* 4 tags"
    with pytest.raises(ValueError, match=message):
        dataset(path)
    assert dataset(path, tag_vocabulary=None)[0].ids == [12]
    five = TagVocabulary((*TAGS.names, "cat"))
    assert dataset(path, tag_vocabulary=five)[1].tags.tolist() == [
        [True, False, False, False, True]
    ]


# Images that cannot be read


def damage(annotation_file):
    path = annotation_file.parent / "images" / "1.png"
    path.write_bytes(path.read_bytes()[:500])


def test_skipped_images_give_the_sample_of_another_position(annotation_file):
    whole = training(annotation_file)
    damage(annotation_file)
    skipping = training(annotation_file, skip_images=True)
    assert skipping.unreadable == []
    drawn = [content(skipping[i]) for i in range(5)]
    readable = [content(whole[i]) for i in (3, 4)]
    assert drawn[3:] == readable and all(sample in readable for sample in drawn[:3])
    assert skipping.unreadable == [0]
    again = training(annotation_file, skip_images=True)
    assert [content(again[i]) for i in (2, 1, 0)] == drawn[2::-1]
    places = set()
    for epoch in range(20):
        again.set_epoch(epoch)
        places.add(again[0].ids[0])
    assert places == {3, 4}
    with pytest.raises(ValueError, match="train.json: image id 1, region ids 0: .*1.png"):
        training(annotation_file)[0]


def test_skipped_images_give_no_region_in_evaluation(annotation_file):
    damage(annotation_file)
    images = dataset(annotation_file, by="image", skip_images=True)
    batch = RegionBatch.collate([images[0], images[1]])
    assert batch.ids == [3, 4] and images.unreadable == [0]
    empty = RegionBatch.collate([images[0]])
    assert len(empty) == 0 and list(empty.chunks(4)) == []


def test_workers_note_what_they_skip(annotation_file):
    damage(annotation_file)
    regions = training(annotation_file, skip_images=True)
    list(DataLoader(regions, num_workers=2, collate_fn=RegionBatch.collate))
    assert regions.unreadable == [0]


def test_a_file_whose_images_are_all_damaged_ends(annotation_file):
    for path in (annotation_file.parent / "images").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="train.json: none of 100 images drawn can be read"):
        training(annotation_file, skip_images=True)[0]


def test_links_lead_out_of_the_folder_only_where_the_user_names_it(annotation_file):
    path = annotation_file.parent / "images" / "1.png"
    (annotation_file.parent / "images2").mkdir()
    path.rename(annotation_file.parent / "images2" / "1.png")
    path.symlink_to(annotation_file.parent / "images2" / "1.png")
    with pytest.raises(ValueError, match="1.png is a link out of .*images, to .*image_root"):
        dataset(annotation_file)[0]
    index = AnnotationIndex.open(annotation_file, str(path.parent))
    processor = RegionImageProcessor(SIZE, TaskPriorSelector(3, [0.5, 1.0]))
    assert RegionDataset(index, processor, CaptionProcessor())[0].ids == [0]


@pytest.mark.parametrize("kind", ["fifo", "folder", "zero byte", "long"])
def test_what_is_no_file_is_no_image(annotation_file, kind):
    path = annotation_file.parent / "images" / "1.png"
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        name = json.dumps("1\0.png" if kind == "zero byte" else "1" * 5000)
        annotation_file.write_text(annotation_file.read_text().replace('"1.png"', name))
    index = AnnotationIndex.open(annotation_file)
    assert list(unreadable_images(index, range(3))) == [0]
    assert training(annotation_file, skip_images=True)[0].ids[0] in (3, 4)
