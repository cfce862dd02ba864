"""Image files of all kinds, whole and damaged."""

import io
import os
import warnings

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from dynrefer.processors.images import ImageError, decoded, open_image, orientation, to_rgb, upright

ORIENTATION = 0x0112


def picture(width=64, height=48, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_missing_file(tmp_path):
    with pytest.raises(ImageError, match=r"nowhere\.jpg does not exist"):
        open_image(tmp_path / "nowhere.jpg")


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("fraction", [0, 0.05, 0.5, 0.95])
def test_truncated_file(tmp_path, suffix, fraction):
    path = tmp_path / f"cut.{suffix}"
    picture().save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * fraction)])
    with pytest.raises(ImageError, match=rf"cut\.{suffix} cannot be decoded: "):
        open_image(path)


def test_no_image(tmp_path):
    path = tmp_path / "text.jpg"
    path.write_text("this is no picture")
    with pytest.raises(ImageError, match=r"text\.jpg cannot be decoded"):
        open_image(path)
    with pytest.raises(ImageError, match="cannot be decoded"):
        open_image(tmp_path)


def test_decompression_bomb(tmp_path, monkeypatch):
    picture().save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ImageError, match="decompression bomb"):
        open_image(tmp_path / "large.png")


def saved(tmp_path, image, name="image.png", **options):
    image.save(tmp_path / name, **options)
    return open_image(tmp_path / name)


def test_rgb_survives_closing_the_file(tmp_path):
    opened = saved(tmp_path, picture())
    assert opened.mode == "RGB"
    (tmp_path / "image.png").unlink()
    assert (np.asarray(opened) == np.asarray(picture())).all()


def test_gray_and_palette_and_transparent_images(tmp_path):
    gray = picture().convert("L")
    assert (np.asarray(saved(tmp_path, gray)) == np.asarray(gray)[..., None]).all()
    palette = picture().quantize(16)
    expected = np.asarray(palette.convert("RGB"))
    assert (np.asarray(saved(tmp_path, palette)) == expected).all()
    transparent = picture()
    transparent.putalpha(gray)
    assert (np.asarray(saved(tmp_path, transparent)) == np.asarray(picture())).all()
    frames = {"save_all": True, "append_images": [palette.rotate(180)]}
    animation = saved(tmp_path, palette, "image.gif", **frames)
    assert (np.asarray(animation) == expected).all()


def test_cmyk_image(tmp_path):
    image = Image.new("CMYK", (32, 32), (0, 255, 255, 0))
    pixels = np.asarray(saved(tmp_path, image, "image.jpg")).astype(int)
    assert abs(pixels - (255, 0, 0)).max() < 8


def test_16_bit_gray_keeps_its_high_byte(tmp_path):
    values = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 21
    opened = np.asarray(saved(tmp_path, Image.fromarray(values)))
    assert opened.shape == (48, 64, 3)
    assert (opened == (values // 256)[..., None]).all()


def test_pixels_without_a_white_point(tmp_path):
    image = Image.fromarray(np.ones((8, 8), dtype=np.float32))
    with pytest.raises(ImageError, match="mode 'F'; valid are 8-bit"):
        to_rgb(image)
    with pytest.raises(ImageError, match=r"deep\.tiff cannot be used: pixels of mode 'F'"):
        saved(tmp_path, image, "deep.tiff")


def turned(tmp_path, value, **options):
    exif = Image.Exif()
    exif[ORIENTATION] = value
    picture().save(tmp_path / "turned.png", exif=exif, **options)
    return tmp_path / "turned.png"


def test_stored_pixels_stay_as_they_are(tmp_path):
    """Annotations refer to the stored pixels, so a rotation note must not turn them."""
    opened = open_image(turned(tmp_path, 6))
    assert opened.size == (64, 48) and (np.asarray(opened) == np.asarray(picture())).all()
    assert orientation(opened) == 6


@pytest.mark.parametrize("value", range(1, 9))
def test_upright_is_what_viewers_show(tmp_path, value):
    path = turned(tmp_path, value)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    image = upright(open_image(path))
    assert (np.asarray(image) == expected).all()
    assert orientation(image) == 1 and upright(image) is image, "it is turned once"


@pytest.mark.parametrize("value", [0, 9, "6", (6, 6)])
def test_notes_that_say_nothing(value):
    image = picture()
    image.getexif()[ORIENTATION] = value
    assert orientation(image) == 1 and upright(image) is image


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_damaged_note_is_none(tmp_path):
    picture().save(tmp_path / "a.jpg", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert orientation(decoded(tmp_path / "a.jpg")) == 1


@pytest.mark.parametrize("part", ["text", "profile"])
def test_much_beside_the_pixels_is_no_reason_to_refuse_them(tmp_path, part):
    if part == "text":
        info = PngImagePlugin.PngInfo()
        info.add_text("Comment", "x" * 2**21, zip=True)
        options = {"pnginfo": info}
    else:
        options = {"icc_profile": bytes(2**21)}
    assert (np.asarray(saved(tmp_path, picture(), **options)) == np.asarray(picture())).all()


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", tmp_path):
        with pytest.raises(ImageError, match="is a folder or a device"):
            open_image(path)


def test_pixels_there_are_none():
    with pytest.raises(ImageError, match="0 x 5 pixels"):
        to_rgb(Image.new("RGB", (0, 5)))


@pytest.mark.parametrize("mode", ["1", "LA", "La", "PA", "RGBA", "RGBa", "YCbCr", "HSV", "LAB"])
def test_rare_modes_are_converted_or_refused(mode):
    try:
        assert to_rgb(Image.new(mode, (3, 2))).mode == "RGB"
    except ImageError as error:
        assert f"pixels of mode '{mode}'" in str(error)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "ICO"])
def test_damaged_files_give_one_error_and_no_warning(tmp_path, kind):
    rng, content = np.random.default_rng(0), io.BytesIO()
    picture().save(content, kind)
    path = tmp_path / f"image.{kind.lower()}"
    for _ in range(40):
        bytes_ = bytearray(content.getvalue())
        for place in rng.integers(0, min(len(bytes_), 400), 4):
            bytes_[place] = rng.integers(256)
        path.write_bytes(bytes_)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", module=r"PIL\.")
            try:
                assert open_image(path).mode == "RGB"
            except ImageError as error:
                assert str(path) in str(error)
