"""RegionBatch: shared crops, chunks, moves between devices."""

import zlib
from dataclasses import replace

import pytest
import torch

from dynrefer.datasets.batch import RegionBatch, RegionSample
from dynrefer.processors.region_image import RegionViews

SIZE = 4
WHOLE = (0, 0, 64, 48)
TENSORS = ("crops", "view_index", "region_boxes", "ratios", "tags")


def crop_of(image_id, box, source="a.json"):
    """A crop that is a function of what it shows, as a real one is."""
    seed = zlib.crc32(repr((source, image_id, *box)).encode())
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, SIZE, SIZE), generator=generator, dtype=torch.uint8)


def sample(image_id, ids, boxes, source="a.json", num_tags=3):
    """N regions of one image that show the given boxes (N x V)."""
    distinct = list(dict.fromkeys(box for row in boxes for box in row))
    count, views = len(boxes), len(boxes[0])
    return RegionSample(
        views=RegionViews(
            crops=torch.stack([crop_of(image_id, box, source) for box in distinct]),
            view_index=torch.tensor([[distinct.index(box) for box in row] for row in boxes]),
            region_boxes=torch.arange(count * views * 4.0).reshape(count, views, 4) + ids[0],
            ratios=torch.arange(count * views * 1.0).reshape(count, views) / 10,
            view_boxes=torch.tensor(boxes),
        ),
        ids=ids,
        image_ids=[image_id] * count,
        captions=[f"region {i}" for i in ids],
        control_words=[f"{i}|" for i in ids],
        tags=torch.tensor([[i % 2 == k for k in range(num_tags)] for i in ids]),
        source=source,
    )


def box(x):
    return (x, x, x + 5, x + 6)


@pytest.fixture
def samples():
    """Two regions of image 1, one of image 2, one more of image 1; all see their whole image."""
    return [
        sample(1, [10, 11], [[box(0), WHOLE], [box(1), WHOLE]]),
        sample(2, [20], [[box(0), WHOLE]]),
        sample(1, [12], [[box(1), WHOLE]]),
    ]


def test_regions_of_one_image_share_crops_across_samples(samples):
    batch = RegionBatch.collate(samples)
    assert len(batch) == 4
    # Image 1: two regions and the whole; image 2: one region and the whole.
    assert batch.crops.shape == (5, 3, SIZE, SIZE)
    assert batch.crops.dtype == torch.uint8
    assert batch.view_index.tolist() == [[0, 1], [2, 1], [3, 4], [2, 1]]


def test_every_view_shows_its_own_crop(samples):
    batch = RegionBatch.collate(samples)
    row = 0
    for part in samples:
        for image_id, boxes in zip(part.image_ids, part.views.view_boxes.tolist(), strict=True):
            for view, window in enumerate(boxes):
                shown = batch.crops[batch.view_index[row, view]]
                assert torch.equal(shown, crop_of(image_id, window))
            row += 1


def test_everything_else_is_joined_in_order(samples):
    batch = RegionBatch.collate(samples)
    assert batch.ids == [10, 11, 20, 12]
    assert batch.image_ids == [1, 1, 2, 1]
    assert batch.captions == ["region 10", "region 11", "region 20", "region 12"]
    assert batch.control_words == ["10|", "11|", "20|", "12|"]
    assert batch.tags.dtype == torch.bool
    assert batch.tags[:, 1].tolist() == [False, True, False, False]
    assert torch.equal(batch.region_boxes, torch.cat([s.views.region_boxes for s in samples]))
    assert torch.equal(batch.ratios, torch.cat([s.views.ratios for s in samples]))


def test_equal_image_ids_of_two_files_stay_apart():
    parts = [sample(1, [10], [[box(0), WHOLE]], source) for source in ("a.json", "b.json")]
    batch = RegionBatch.collate(parts)
    assert batch.view_index.tolist() == [[0, 1], [2, 3]]
    assert torch.equal(batch.crops[2], crop_of(1, box(0), "b.json"))


def test_a_batch_needs_samples():
    with pytest.raises(ValueError, match="at least one sample"):
        RegionBatch.collate([])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (sample(2, [20], [[box(0), box(1), WHOLE]]), r"numbers of views: \[2, 3\]"),
        (sample(2, [20], [[box(0), WHOLE]], num_tags=5), r"numbers of tags: \[3, 5\]"),
    ],
)
def test_samples_must_fit_together(samples, other, message):
    with pytest.raises(ValueError, match=message):
        RegionBatch.collate([*samples, other])


def test_crops_must_have_one_size(samples):
    views = replace(samples[1].views, crops=torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"crop sizes: \[\(3, 4, 4\), \(3, 8, 8\)\]"):
        RegionBatch.collate([samples[0], replace(samples[1], views=views)])


def test_fields_must_have_one_entry_a_region(samples):
    batch = RegionBatch.collate(samples)
    with pytest.raises(ValueError, match="one entry a region.*'captions': 1"):
        replace(batch, captions=["one"])


@pytest.mark.parametrize("size", [1, 2, 3, 4, 99])
def test_chunks_hold_all_regions_and_only_their_crops(samples, size):
    batch = RegionBatch.collate(samples)
    chunks = list(batch.chunks(size))
    assert [len(chunk) for chunk in chunks[:-1]] == [size] * (len(chunks) - 1)
    assert [i for chunk in chunks for i in chunk.ids] == batch.ids
    assert [words for chunk in chunks for words in chunk.control_words] == batch.control_words
    for name in ("region_boxes", "ratios", "tags"):
        joined = torch.cat([getattr(chunk, name) for chunk in chunks])
        assert torch.equal(joined, getattr(batch, name))
    shown = torch.cat([chunk.crops[chunk.view_index] for chunk in chunks])
    assert torch.equal(shown, batch.crops[batch.view_index])
    for chunk in chunks:
        assert sorted(set(chunk.view_index.flatten().tolist())) == list(range(len(chunk.crops)))


def test_a_chunk_needs_a_region(samples):
    with pytest.raises(ValueError, match="chunk size is 0"):
        list(RegionBatch.collate(samples).chunks(0))


def test_to_moves_every_tensor_and_nothing_else(samples):
    batch = RegionBatch.collate(samples)
    moved = batch.to("meta", non_blocking=True)
    assert {getattr(moved, name).device.type for name in TENSORS} == {"meta"}
    assert {getattr(batch, name).device.type for name in TENSORS} == {"cpu"}
    assert moved.ids is batch.ids
    assert moved.captions is batch.captions


@pytest.mark.parametrize("non_blocking", [False, True])
def test_to_may_go_on_before_the_copy_is_done(samples, monkeypatch, non_blocking):
    batch, given = RegionBatch.collate(samples), []

    def to(tensor, device, non_blocking=False):
        given.append(non_blocking)
        return tensor

    monkeypatch.setattr("dynrefer.datasets.batch.Tensor.to", to)
    batch.to("cpu", non_blocking=non_blocking)
    assert given == [non_blocking] * len(TENSORS)


def test_pin_memory_pins_every_tensor(samples, monkeypatch):
    pinned = []
    monkeypatch.setattr(
        "dynrefer.datasets.batch.Tensor.pin_memory",
        lambda tensor: pinned.append(tensor) or tensor.clone(),
    )
    batch = RegionBatch.collate(samples)
    copy = batch.pin_memory()
    assert [id(tensor) for tensor in pinned] == [id(getattr(batch, name)) for name in TENSORS]
    assert copy.captions == batch.captions
    assert torch.equal(copy.crops, batch.crops)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_loader_pins_and_the_gpu_gets_the_same_batch(samples):
    loader = torch.utils.data.DataLoader(
        samples, batch_size=4, collate_fn=RegionBatch.collate, pin_memory=True
    )
    (batch,) = loader
    assert all(getattr(batch, name).is_pinned() for name in TENSORS)
    moved = batch.to("cuda", non_blocking=True)
    for chunk, expected in zip(moved.chunks(3), batch.chunks(3), strict=True):
        for name in TENSORS:
            assert getattr(chunk, name).is_cuda
            assert torch.equal(getattr(chunk, name).cpu(), getattr(expected, name))
