"""Masks of every kind: which pixels count."""

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from dynrefer.processors.images import ImageError
from dynrefer.processors.masks import as_mask, mask_box, open_mask
from dynrefer.run_lengths import run_lengths

SIZE = WIDTH, HEIGHT = 60, 50
REGION = np.zeros((HEIGHT, WIDTH), dtype=bool)
REGION[10:40, 20:45] = True
REGION[20:25, 30:35] = False
GREY = REGION.astype(np.uint8) * 255
NOISE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
EVERYWHERE = np.full_like(GREY, 255)


def images():
    """Names and images whose mask is REGION."""
    palette = Image.new("P", SIZE)
    palette.putdata(REGION.astype(np.uint8).ravel().tolist())
    palette.putpalette([0, 0, 0, 200, 30, 30])
    white_first = palette.copy()
    white_first.putdata((~REGION).astype(np.uint8).ravel().tolist())
    white_first.putpalette([255, 255, 255, 0, 0, 0])
    colors = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    colors[REGION] = (0, 0, 7)
    return {
        "bits": Image.fromarray(REGION),
        "grey": Image.fromarray(GREY),
        "ones": Image.fromarray(REGION.astype(np.uint8)),
        "colours": Image.fromarray(colors),
        "palette": palette,
        "palette, white first": white_first,
        "16 bit": Image.fromarray(REGION.astype(np.uint16)),
        "32 bit": Image.fromarray(REGION.astype(np.int32) * 70_000),
        "cut out": Image.fromarray(np.dstack([NOISE, GREY])),
        "black, cut out": Image.fromarray(np.dstack([NOISE * 0, GREY])),
        "half transparent": Image.fromarray(np.dstack([NOISE, GREY // 3])),
        "grey with alpha": Image.fromarray(np.dstack([EVERYWHERE, GREY])),
        "opaque": Image.fromarray(np.dstack([GREY, GREY, GREY, EVERYWHERE])),
        "opaque grey": Image.fromarray(np.dstack([GREY, EVERYWHERE])),
    }


@pytest.mark.parametrize("name", images())
def test_what_counts_in_a_file(tmp_path, name):
    suffix = "tiff" if name == "32 bit" else "png"
    images()[name].save(tmp_path / f"mask.{suffix}")
    np.testing.assert_array_equal(open_mask(tmp_path / f"mask.{suffix}"), REGION)


def test_a_transparent_colour_counts_as_such(tmp_path):
    image = Image.fromarray(GREY)
    image.save(tmp_path / "mask.png", transparency=0)
    np.testing.assert_array_equal(open_mask(tmp_path / "mask.png"), REGION)
    image.save(tmp_path / "mask.png", transparency=255)
    np.testing.assert_array_equal(open_mask(tmp_path / "mask.png"), ~REGION)


@pytest.mark.parametrize("name", ["mask.jpg", "mask.webp"])
@pytest.mark.parametrize("color", [(255, 255, 255), (255, 0, 0)])
def test_lossy_files_count_above_half(tmp_path, name, color):
    pixels = np.where(REGION[..., None], np.uint8(color), np.uint8(0))
    Image.fromarray(pixels).save(tmp_path / name, quality=60, subsampling=0)
    mask = open_mask(tmp_path / name)
    assert (mask != REGION).mean() < 0.02
    assert mask_box(mask) == pytest.approx(mask_box(REGION), abs=1)


@pytest.mark.parametrize("name", ["photo.jpg", "photo.png", "photo.webp"])
def test_a_photograph_is_no_mask(tmp_path, name):
    """Smooth colours; a mask of as many shades of grey is one, and so is one of a few colours."""
    rows, columns = np.mgrid[:120, :160] / 160
    photo = np.uint8(np.stack([rows, columns, 1 - rows * columns], axis=2) * 180 + 40)
    Image.fromarray(photo).save(tmp_path / name)
    message = f"{name} is a photograph; a mask is black, or of no opacity, but in the region"
    with pytest.raises(ImageError, match=message):
        open_mask(tmp_path / name)
    Image.fromarray(photo).convert("L").save(tmp_path / name)
    assert open_mask(tmp_path / name).any()
    Image.fromarray(photo // 64 * 64).save(tmp_path / "colours.png")
    assert open_mask(tmp_path / "colours.png").any()


def test_half_is_not_above_half(tmp_path):
    for value, found in ((127, False), (128, True)):
        Image.new("L", SIZE, value).save(tmp_path / "mask.webp", lossless=True)
        if found:
            assert open_mask(tmp_path / "mask.webp").all()
        else:
            with pytest.raises(ImageError, match="no pixel brighter than half"):
                open_mask(tmp_path / "mask.webp")


@pytest.mark.parametrize("kind", ["L", "P", "RGB", "LA", "I;16", "I"])
def test_labels_pick_a_region(tmp_path, kind):
    values = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    values[:, :10], values[REGION] = 1, 3
    if kind == "P":
        image = Image.new("P", SIZE)
        image.putdata(values.ravel().tolist())
        image.putpalette([0, 0, 0] * 256)
    elif kind in ("I;16", "I"):
        image = Image.fromarray(values.astype({"I;16": np.uint16, "I": np.int32}[kind]))
    else:
        image = Image.fromarray(values).convert(kind)
    path = tmp_path / ("labels.tiff" if kind == "I" else "labels.png")
    image.save(path)
    np.testing.assert_array_equal(open_mask(f"{path}:3"), REGION)
    np.testing.assert_array_equal(open_mask(path, 1), values == 1)
    np.testing.assert_array_equal(open_mask(f"{path}:0"), values == 0)
    with pytest.raises(ImageError, match=rf"{path.name} has no pixel of label 2"):
        open_mask(f"{path}:2")


def test_a_file_whose_name_ends_in_a_number(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "mask:3", "PNG")
    np.testing.assert_array_equal(open_mask(tmp_path / "mask:3"), REGION)
    with pytest.raises(ImageError, match="none.png does not exist"):
        open_mask(tmp_path / "none.png:3")


def test_masks_are_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(GREY)).save(tmp_path / "mask.png", exif=exif)
    np.testing.assert_array_equal(open_mask(tmp_path / "mask.png"), REGION)


@pytest.mark.parametrize(
    ("name", "label", "message"),
    [
        ("black.png", None, "black.png has no pixel that is not black"),
        ("colours.png", 3, "colours.png has colours"),
        ("lossy.jpg", 3, "lossy.jpg loses detail"),
        ("frames.gif", None, "has 2 frames"),
        ("text.png", None, "cannot be decoded"),
        ("none.png", None, "does not exist"),
    ],
)
def test_files_that_are_no_masks(tmp_path, name, label, message):
    Image.fromarray(GREY * 0).save(tmp_path / "black.png")
    Image.fromarray(NOISE).save(tmp_path / "colours.png")
    Image.fromarray(GREY).save(tmp_path / "lossy.jpg")
    frames = [Image.fromarray(255 - GREY)]
    Image.fromarray(GREY).save(tmp_path / "frames.gif", save_all=True, append_images=frames)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ImageError, match=message):
        open_mask(tmp_path / name, label)


# Arrays, run lengths, polygons


def runs_of(mask):
    return coco.encode(np.asfortranarray(mask.astype(np.uint8)))


def test_arrays_count_where_they_are_not_zero():
    for mask in (REGION, GREY, REGION.astype(np.uint8), REGION.astype(np.int64) * 300):
        np.testing.assert_array_equal(as_mask(mask, SIZE), REGION)


@pytest.mark.parametrize("seed", range(5))
def test_run_lengths_are_those_of_coco(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((HEIGHT, WIDTH)) < rng.random()
    runs = runs_of(mask)
    np.testing.assert_array_equal(as_mask(runs, SIZE), mask)
    text = {"size": [HEIGHT, WIDTH], "counts": runs["counts"].decode()}
    np.testing.assert_array_equal(as_mask(text, SIZE), mask)
    counts = run_lengths(runs["counts"])
    np.testing.assert_array_equal(as_mask({"size": (HEIGHT, WIDTH), "counts": counts}, SIZE), mask)


def test_polygons_are_drawn_as_coco_does():
    one, two = [20, 10, 45, 10, 45, 40, 20, 40], [2.5, 2, 9, 4, 5, 12]
    corner = as_mask([one], SIZE)
    assert mask_box(corner) == (20, 10, 45, 40) and corner.sum() == 25 * 30
    np.testing.assert_array_equal(as_mask(one, SIZE), corner)
    np.testing.assert_array_equal(as_mask([np.reshape(one, (4, 2)).tolist()], SIZE), corner)
    expected = coco.decode(coco.merge(coco.frPyObjects([one, two], HEIGHT, WIDTH))) > 0
    np.testing.assert_array_equal(as_mask([one, two], SIZE), expected)
    assert mask_box(as_mask([[-20, -20, 70, -20, 70, 60, -20, 60]], SIZE)) == (0, 0, 60, 50)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (REGION & False, "m is empty"),
        ([], "m is empty"),
        (REGION.T, r"m is bool \[60, 50\]; valid is bool or whole numbers \[50, 60\]"),
        (REGION.astype(float), "m is float64"),
        (REGION[None], r"m is bool \[1, 50, 60\]"),
        ("mask.png", "m is <U8"),
        (None, "m is object"),
        ({"size": [WIDTH, HEIGHT], "counts": [3000]}, r"'size' is \[60, 50\]; valid is \[50, 60\]"),
        ({"counts": [3000]}, "'size' is None"),
        ({"size": 3, "counts": [3000]}, "'size' is 3"),
        ({"size": [HEIGHT, WIDTH]}, "'counts' are no run lengths of 3000 pixels"),
        ({"size": [HEIGHT, WIDTH], "counts": [0, 2999]}, "no run lengths"),
        ({"size": [HEIGHT, WIDTH], "counts": [-1, 3001]}, "no run lengths"),
        ({"size": [HEIGHT, WIDTH], "counts": [0, 3000.0]}, "no run lengths"),
        ({"size": [HEIGHT, WIDTH], "counts": "zzzz"}, "no run lengths"),
        ({"size": [HEIGHT, WIDTH], "counts": "é猫"}, "no run lengths"),
        ({"size": [HEIGHT, WIDTH], "counts": "P" * 10**6}, "a run length has no end"),
        ({"size": [HEIGHT, WIDTH], "counts": [3000]}, "m is empty"),
        ([[1, 2, 3, 4]], "no polygon of three points"),
        ([[1, 2, 3, 4, 5]], "no polygon x, y"),
        ([[1, 2, 3, 4, 5, "a"]], "no polygon x, y"),
        ([[1, 2, 3, 4, 5, float("nan")]], "no polygon of three points"),
        ([[1, 2, 3, 4, 5, 1e9]], "in or near the image of 60 x 50 pixels"),
    ],
)
def test_what_is_no_mask(mask, message):
    with pytest.raises(ValueError, match=message):
        as_mask(mask, SIZE, "m")
