"""Images, boxes, masks and points of every kind."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from dynrefer.predictor import RegionPredictor, as_image, regions_of
from dynrefer.processors.images import ImageError
from tests.predictor.conftest import BOXES, HEIGHT, IMAGE, WIDTH, assert_same, mask_of, noise


def same_pixels(image, other=IMAGE):
    return np.array_equal(np.asarray(as_image(image)), np.asarray(other))


def test_images_of_every_kind(tmp_path):
    IMAGE.save(tmp_path / "image.png")
    pixels, content = np.asarray(IMAGE), (tmp_path / "image.png").read_bytes()
    channels_first = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    for image in (
        *(tmp_path / "image.png", str(tmp_path / "image.png"), content, bytearray(content)),
        *(pixels, channels_first, channels_first.float() / 255, channels_first.double() / 255),
        *(IMAGE.convert("RGBA"), np.asarray(IMAGE.convert("RGBA"))),
    ):
        assert same_pixels(image), type(image)
    grey = noise(HEIGHT, WIDTH)
    spread = np.repeat(grey[..., None], 3, axis=2)
    for image in (
        grey,
        Image.fromarray(grey),
        torch.from_numpy(grey),
        torch.from_numpy(grey)[None],
    ):
        assert same_pixels(image, spread), type(image)


def test_bytes_are_turned_upright():
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    IMAGE.rotate(90, expand=True).save(file, "png", exif=exif)
    assert same_pixels(file.getvalue())
    assert as_image(file.getvalue(), turn=False).size == (HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (noise(8, 8, 2), "valid is uint8"),
        (noise(8, 8, 5), "valid is uint8"),
        (noise(8, 8, 3).astype(np.float32), "valid is uint8"),
        (noise(0, 8, 3), "valid is uint8"),
        (noise(8), "valid is uint8"),
        ("no.png", "does not exist"),
        (3, "image is a int; valid is a path"),
        (None, "image is a NoneType; valid is a path"),
        (b"no image", "image file of 8 bytes cannot be decoded"),
        (torch.zeros(8, 8, 3), r"tensor \[8, 8, 3\]; valid is"),
        (torch.full((3, 8, 8), 1.5), "floats outside"),
        (torch.full((3, 8, 8), torch.nan), "floats outside"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), "valid is uint8"),
        (torch.zeros(3, 0, 8), "valid is uint8"),
    ],
)
def test_bad_images(image, message):
    with pytest.raises(ImageError, match=message):
        as_image(image)


def test_masks_become_tight_boxes_after_the_boxes():
    masks = [mask_of((3, 4), (9, 4), (5, 11)), mask_of((WIDTH - 1, HEIGHT - 1))]
    boxes, shapes = regions_of((WIDTH, HEIGHT), BOXES[:1], [masks[0], masks[1] * np.uint8(255)])
    assert boxes.dtype == np.float32
    assert boxes.tolist() == [BOXES[0], [3, 4, 10, 12], [WIDTH - 1, HEIGHT - 1, WIDTH, HEIGHT]]
    assert shapes[0] is None
    assert np.array_equal(shapes[1:], masks)
    for stacked in (np.stack(masks), torch.from_numpy(np.stack(masks))):
        assert np.array_equal(regions_of((WIDTH, HEIGHT), masks=stacked)[0], boxes[1:])


def test_boxes_by_size_and_in_shares_of_the_image():
    sized = [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in BOXES]
    shares = np.array(BOXES) / [WIDTH, HEIGHT, WIDTH, HEIGHT]
    both = np.array(sized) / [WIDTH, HEIGHT, WIDTH, HEIGHT]
    for boxes, form in (
        *((sized, {"box_format": "xywh"}), (torch.tensor(sized), {"box_format": "xywh"})),
        *((shares, {"relative": True}), (both, {"box_format": "xywh", "relative": True})),
    ):
        found, _ = regions_of((WIDTH, HEIGHT), boxes, **form)
        np.testing.assert_allclose(found, BOXES, rtol=1e-6)
    assert regions_of((WIDTH, HEIGHT), [], relative=True)[0].shape == (0, 4)


@pytest.mark.parametrize(
    ("boxes", "form", "message"),
    [
        (BOXES, {"relative": True}, r"box 0 \[1.*\] is not in shares of the image; valid is 0 to"),
        ([[0, 0, 0.5, 0.5], [0.6, 0, 0.5, 1]], {"relative": True}, "box 1 .* has no area"),
        (
            [[0.6, 0, 0.5, 1]],
            {"relative": True, "box_format": "xywh"},
            r"box 0 \[0.6, 0.0, 0.5, 1.0\]",
        ),
        ([[5, 5, 0, 9]], {"box_format": "xywh"}, "box 0 .* has no area"),
        ([[5, 5, 9]], {"box_format": "xywh"}, r"valid is \[N, 4\]"),
        ([["a"] * 4], {"relative": True}, "is not of numbers"),
        (BOXES, {"box_format": "cxcywh"}, "box_format is 'cxcywh'; valid is xyxy or xywh"),
    ],
)
def test_bad_boxes_of_other_forms(boxes, form, message):
    with pytest.raises(ValueError, match=message):
        regions_of((WIDTH, HEIGHT), boxes, **form)


def test_a_pixel_of_a_tiny_image():
    assert regions_of((15, 15), [[0, 0, 1, 1]])[0].tolist() == [[0, 0, 1, 1]]
    assert regions_of((16, 2), [[0.5, 0, 1.5, 1]])[0].tolist() == [[0.5, 0, 1.5, 1]]
    with pytest.raises(ValueError, match="less than a pixel"):
        regions_of((2, 16), [[0, 0, 1, 1]])


def around(image, clicks):
    """A segmenter that finds what lies between the clicks, and a pixel around it."""
    mask = np.zeros(image.shape[:2], dtype=bool)
    (x1, y1), (x2, y2) = clicks.min(axis=0).astype(int) - 1, clicks.max(axis=0).astype(int) + 2
    mask[y1:y2, x1:x2] = True
    return mask


def test_points_are_regions_where_there_is_a_segmenter(predictor, config):
    with pytest.raises(ValueError, match="points need a segmenter"):
        predictor.predict(IMAGE, points=[[3, 4]])
    own = (predictor.model, predictor.processor.view_selector, config.model.image_size)
    clicking = RegionPredictor(*own, segmenter=around)
    results = clicking.predict(IMAGE, BOXES[:1], points=[[5, 6], [[20, 21], [30, 41]]])
    assert [result.box for result in results[1:]] == [(4, 5, 7, 8), (19, 20, 32, 43)]
    assert results[2].mask.sum() == 13 * 23
    boxes = [result.box for result in results]
    assert_same(results, predictor.predict(IMAGE, boxes))
    (many,) = clicking.predict_many([{"image": IMAGE, "points": [[5, 6], [60, 1], [7, "x"]]}])
    assert many.regions[0].box == (4, 5, 7, 8)
    assert "point 1 [[60.0, 1.0]] lies outside the image of 60 x 50" in many.regions[1].error
    assert "point 2 [7, 'x']; valid is x, y" in many.regions[2].error.replace(" is", "", 1)
