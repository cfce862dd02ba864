"""Images and boxes to crops: against the published code's numbers, and bad input of all kinds."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from dynrefer.processors.images import open_image
from dynrefer.processors.region_image import RegionImageProcessor, check_boxes
from dynrefer.registry import registry
from dynrefer.views import ImagePriorSelector, StochasticSelector, TaskPriorSelector
from tests.shared import shared_path

CLIP_MEAN = np.array([0.48145466, 0.4578275, 0.40821073])[:, None, None]
CLIP_STD = np.array([0.26862954, 0.26130258, 0.27577711])[:, None, None]


def picture(width=64, height=48, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def views_of(boxes, ratios=(0.5, 1), size=32, image=None):
    processor = RegionImageProcessor(size, TaskPriorSelector(len(ratios) + 1, ratios))
    return processor(image or picture(), boxes, np.random.default_rng(0))


def block_means(crops):
    """16 x 16 block means of normalised crops, [..., 3, S, S] -> [..., 3, S/16, S/16]."""
    values = (crops / 255 - CLIP_MEAN) / CLIP_STD
    side = values.shape[-1] // 16
    return values.reshape(*values.shape[:-2], side, 16, side, 16).mean(axis=(-3, -1))


def test_published_views():
    """Ratios and boxes equal, crops within 1e-5 of the published code's on photographs."""
    folder = "parity/official_metrics"
    cases = json.loads(shared_path(f"{folder}/views.json").read_text())
    expected = np.load(shared_path(f"{folder}/views.npz"))
    processor = RegionImageProcessor(224, ImagePriorSelector(3))
    for index, case in enumerate(cases):
        image = open_image(shared_path(f"{folder}/{case['image']}"))
        views = processor(image, case["boxes"], np.random.default_rng(0))
        np.testing.assert_array_equal(views.ratios, np.array(case["ratios"], dtype=np.float32))
        np.testing.assert_array_equal(views.region_boxes, expected[f"{index}_region_boxes"])
        truncated = expected[f"{index}_view_boxes"].astype(np.int64)
        np.testing.assert_array_equal(views.view_boxes, truncated)
        means = block_means(views.crops[views.view_index].numpy())
        np.testing.assert_allclose(means, expected[f"{index}_block_means"], rtol=0, atol=1e-5)


def test_shapes_types_and_pixels():
    image = picture()
    views = views_of([[4, 5, 20, 25], [30.7, 2, 64, 48]], image=image)
    for field, dtype, shape in (
        ("crops", torch.uint8, (5, 3, 32, 32)),  # the whole image is shared
        ("view_index", torch.int64, (2, 3)),
        ("region_boxes", torch.float32, (2, 3, 4)),
        ("ratios", torch.float32, (2, 3)),
        ("view_boxes", torch.int64, (2, 3, 4)),
    ):
        tensor = getattr(views, field)
        assert (tensor.dtype, tuple(tensor.shape)) == (dtype, shape), field
    assert views.view_index.tolist() == [[0, 1, 2], [3, 4, 2]]
    for row, windows in zip(views.view_index.tolist(), views.view_boxes.tolist(), strict=True):
        for index, (x1, y1, x2, y2) in zip(row, windows, strict=True):
            alone = Image.fromarray(np.asarray(image)[y1:y2, x1:x2]).resize((32, 32), 3)
            assert (views.crops[index].permute(1, 2, 0).numpy() == np.asarray(alone)).all()


def test_equal_views_share_one_crop():
    views = views_of([[4, 5, 20, 25]] * 3, ratios=(0, 0.5, 0))
    assert len(views.crops) == 2
    assert views.view_index.tolist() == [[0, 0, 1, 0]] * 3


@pytest.mark.parametrize("selector", [ImagePriorSelector(3), StochasticSelector(3)])
@pytest.mark.parametrize("boxes", [[], np.zeros((0, 4), np.float32)])
def test_no_boxes(selector, boxes):
    views = RegionImageProcessor(16, selector)(picture(), boxes, np.random.default_rng(0))
    assert tuple(views.crops.shape) == (0, 3, 16, 16) and views.crops.dtype == torch.uint8
    assert tuple(views.view_index.shape) == tuple(views.ratios.shape) == (0, 3)
    assert tuple(views.region_boxes.shape) == tuple(views.view_boxes.shape) == (0, 3, 4)


def test_one_pixel_image_and_tiny_boxes():
    assert views_of([[0, 0, 1, 1]], image=picture(1, 1)).view_boxes.tolist() == [[[0, 0, 1, 1]] * 3]
    views = views_of([[10.2, 10.2, 10.9, 10.9]], ratios=(0,))
    assert views.view_boxes[0, 0].tolist() == [9, 9, 10, 10]


def test_wrong_image_size():
    assert registry.get("processor", "dynrefer") is RegionImageProcessor
    with pytest.raises(ValueError, match="image_size is 0"):
        RegionImageProcessor(0, ImagePriorSelector(3))


def test_processor_takes_any_readable_mode():
    gray = picture().convert("L")
    views = views_of([[4, 5, 20, 25]], image=gray)
    assert (views.crops[:, 0] == views.crops[:, 1]).all()


# Boxes


def test_good_boxes_are_unchanged():
    boxes = [[0, 0, 640, 480], [10.25, 20.5, 11.25, 400], [639, 479, 640, 480]]
    checked = check_boxes(boxes, 640, 480)
    assert checked.dtype == np.float32 and checked.tolist() == boxes


@pytest.mark.parametrize(
    ("box", "checked"),
    [
        ([-5, -5, 10, 10], [0, 0, 10, 10]),
        ([600, 400, 700, 500], [600, 400, 640, 480]),
        ([10.5, 10, 10.75, 20], [9.75, 10, 10.75, 20]),  # widened downwards, as published
        ([0.25, 10, 0.5, 20], [0, 10, 1, 20]),
        ([639.75, 479.5, 900, 900], [639, 479, 640, 480]),
        ([-9, 3, 0.25, 9], [0, 3, 1, 9]),
    ],
)
def test_boxes_are_clipped_and_widened(box, checked):
    assert check_boxes([box], 640, 480).tolist() == [checked]


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ([float("nan"), 0, 5, 5], "is not finite"),
        ([0, 0, float("inf"), 5], "is not finite"),
        ([5, 5, 5, 9], "has no area; valid is x1 < x2"),
        ([9, 5, 5, 9], "has no area"),
        ([640, 0, 650, 10], "lies wholly outside"),
        ([0, -10, 10, 0], "lies wholly outside"),
    ],
)
def test_bad_boxes_are_named(box, reason):
    message = rf"region 1 \[.*\] {reason}.*640 x 480"
    with pytest.raises(ValueError, match=message):
        check_boxes([[1, 1, 9, 9], box], 640, 480, what="region")
    with pytest.raises(ValueError, match="box 0"):
        views_of([box], image=picture(640, 480))


@pytest.mark.parametrize("boxes", [[1, 2, 3, 4], [[1, 2, 3]], np.ones((2, 2, 4)), np.ones((0, 5))])
def test_wrong_shape_of_boxes(boxes):
    with pytest.raises(ValueError, match=r"valid is \[N, 4\]"):
        check_boxes(boxes, 640, 480)


@pytest.mark.parametrize(
    "boxes", [[[1, 2, 3, 4], [1, 2]], [["a", 2, 3, 4]], [["1"] * 4], {"x": 1}, 5j, [[1, 2, 3, 4j]]]
)
def test_boxes_that_are_no_numbers(boxes):
    with pytest.raises(ValueError, match=r"region array is not of numbers, \[N, 4\]"):
        check_boxes(boxes, 640, 480, what="region")
