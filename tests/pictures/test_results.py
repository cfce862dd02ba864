import warnings

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.font_manager import fontManager
from PIL import Image

from dynrefer.models.dynrefer import RegionPrediction
from dynrefer.pictures import blocks as picture_blocks
from dynrefer.pictures import results as pictures
from dynrefer.pictures.blocks import (
    MOST_LINES,
    height_of,
    line,
    paragraph,
    rendered,
    size_of,
    width_of,
    wrapped,
)
from dynrefer.pictures.results import (
    FORMATS,
    MARGIN,
    REGIONS_PER_PAGE,
    check_picture_path,
    draw_regions,
    page_paths,
    save_picture,
)
from dynrefer.pictures.views import COLORS, VIEW_SIDE, Region, free_place, views_of, whole_image

NAMES = ("color:red/crimson", "size:small/little", "pattern:striped")
GREY = (120, 120, 120)
INKS = [tuple(int(color[at : at + 2], 16) for at in (1, 3, 5)) for color in COLORS]


def grey(width=720, height=600):
    return Image.new("RGB", (width, height), GREY)


def prediction(**changes):
    values = {
        "id": 0,
        "image_id": 0,
        "caption": "a small red star",
        "score": 0.8,
        "tags": ["star", "red"],
        "attributes": [0.9, 0.2, 0.5],
        "class_logits": [0.1, 0.7],
        "class_name": "star",
        "ratios": [0.0, 0.1, 1.0],
    }
    return RegionPrediction(**{**values, **changes})


def drawn(image, *boxes, masks=None):
    """Pixels of an image with regions."""
    masks = masks or [None] * len(boxes)
    regions = [
        Region(n, np.float32(box), mask)
        for n, (box, mask) in enumerate(zip(boxes, masks, strict=True))
    ]
    return np.asarray(rendered(whole_image(image, regions)))


def is_color(pixels, color):
    return (np.asarray(pixels) == color).all(axis=-1)


def extent(pixels, color):
    """Box of the pixels of one colour, xyxy, end exclusive."""
    rows, columns = np.nonzero(is_color(pixels, color))
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


# Regions on the image


def test_boxes_stand_around_their_regions():
    pixels = drawn(grey(), [100, 120, 300, 420], [400, 50, 500, 90])
    assert pixels.shape == (600, 720, 3)
    assert (pixels[120:420, 100:300] == GREY).all(), "the region itself must stay visible"
    for x, y in [(98, 250), (301, 250), (250, 118), (200, 421)]:
        assert tuple(pixels[y, x]) == INKS[0]
    assert tuple(pixels[250, 95]) == tuple(pixels[424, 200]) == (255, 255, 255)
    assert tuple(pixels[70, 398]) == INKS[1]


def test_frames_at_the_edge_lie_inside():
    pixels = drawn(grey(), [0, 0, 720, 600])
    for x, y in [(2, 300), (717, 300), (360, 2), (360, 597)]:
        assert tuple(pixels[y, x]) == INKS[0]
    assert tuple(pixels[300, 4]) == (255, 255, 255) and tuple(pixels[300, 10]) == GREY


def test_masks_are_drawn_as_their_shape():
    y, x = np.mgrid[:600, :720]
    ring = abs(np.hypot(x - 300, y - 300) - 150) < 40
    pixels = drawn(grey(), [110, 110, 490, 490], masks=[ring])
    at = {place: tuple(pixels[300, place]) for place in (108, 150, 300)}
    assert at[108] == INKS[0] and at[300] == GREY
    tint = np.multiply(GREY, 0.7) + np.multiply(INKS[0], 0.3)
    assert np.abs(np.subtract(at[150], tint)).max() <= 1
    assert (pixels[470:, 110:150] == GREY).all(), "the corner of its box is no part of a ring"
    box = drawn(grey(), [110, 110, 490, 490])
    assert not (box[470:, 110:150] == pixels[470:, 110:150]).all()


def test_a_thin_shape_does_not_vanish():
    mask = np.zeros((3000, 3600), dtype=bool)
    mask[1501, 200:3400] = True
    pixels = drawn(grey(3600, 3000), [200, 1501, 3400, 1502], masks=[mask])
    assert is_color(pixels[:, 200:500], INKS[0]).any(axis=0).all()


@pytest.mark.parametrize("size", [(1, 1), (6, 4), (3000, 40), (40, 3000), (2000, 1500)])
def test_images_of_any_size_are_scaled(size):
    height, width, _ = drawn(Image.new("RGB", size, GREY), [0, 0, *size]).shape
    assert 160 <= width <= 720 and 160 <= height <= 960
    assert max(width / 720, height / 960) == 1
    (page,) = draw_regions(Image.new("RGB", size), [prediction()], [[0, 0, *size]], NAMES)
    assert page.width >= 800


@pytest.mark.parametrize("limits", [(720, 160), (160, 960), (720, 600)])
@pytest.mark.parametrize("seed", [None, 0, 1])
def test_numbers_do_not_cover_one_another(limits, seed):
    rng, size = np.random.default_rng(seed), (52, 38)
    taken = []
    for _ in range(REGIONS_PER_PAGE):
        corner, sides = rng.uniform(0, limits), rng.uniform(1, 200, 2)
        box = np.array([0, 0, *limits]) if seed is None else np.hstack([corner, corner + sides])
        x, y = free_place(box, size, limits, taken)
        assert 0 <= x <= limits[0] - 52 and 0 <= y <= limits[1] - 38
        for other in taken:
            assert x + 52 <= other[0] or x >= other[2] or y + 38 <= other[1] or y >= other[3]
        taken.append([x, y, x + 52, y + 38])


def test_a_number_stands_by_its_region_and_not_on_it():
    assert free_place(np.array([100, 200, 130, 230]), (38, 38), (720, 600), []) == (100, 162)
    x, y = free_place(np.array([100, 0, 130, 30]), (38, 38), (720, 600), [])
    assert x + 38 <= 100 or x >= 130 or y >= 30


# Views


def test_views_show_the_region_where_it_is():
    image = Image.new("RGB", (400, 200), GREY)
    image.paste((0, 0, 255), (100, 50, 200, 150))
    box = np.array([100, 50, 200, 150], dtype=np.float32)
    strip = rendered(views_of(image, Region(0, box), [0, 0.5, 1]))
    views = [strip.crop((x, 0, x + VIEW_SIDE, VIEW_SIDE)) for x in (0, 200, 400)]
    # The boxes of the views are 100 x 100, 250 x 150 and 400 x 200 pixels.
    np.testing.assert_allclose(extent(views[0], INKS[0]), [0, 0, 184, 184], atol=1)
    frame = np.array([50, 25, 150, 125]) * 184 / 250 + [-3, -3 + 37, 3, 3 + 37]
    np.testing.assert_allclose(extent(views[1], INKS[0]), frame, atol=2)
    frame = np.array([100, 50, 200, 150]) * 184 / 400 + [-3, -3 + 46, 3, 3 + 46]
    np.testing.assert_allclose(extent(views[2], INKS[0]), frame, atol=2)
    assert extent(views[2].crop((54, 76, 84, 106)), (0, 0, 255)) == [0, 0, 30, 30]


@pytest.mark.parametrize("views", [1, 3, 4, 11])
def test_any_number_of_views(views):
    ratios = [0.1 * view for view in range(views)]
    region = Region(0, np.array([10, 10, 60, 90], dtype=np.float32))
    columns, rows = min(views, 3), -(-views // 3)
    cell = VIEW_SIDE + 4 + height_of(20)
    assert size_of(views_of(grey(), region, ratios)) == (
        columns * 200 - 16,
        rows * (cell + 14) - 14,
    )


# Pages


def test_an_image_without_regions():
    (page,) = draw_regions(grey(), [], [])
    assert page.size == (720 + 2 * MARGIN, 600 + 2 * MARGIN)


def test_the_room_below_the_image_is_used():
    boxes = [[10 + 20 * i, 10, 60 + 20 * i, 90] for i in range(3)]
    (page,) = draw_regions(grey(), [prediction()] * 3, boxes, NAMES)
    assert page.width == 2 * MARGIN + 2 * 720 + 32
    below_image = np.asarray(page)[MARGIN + 600 + 16 :, MARGIN : MARGIN + 720]
    assert is_color(below_image, INKS[0]).any() and not is_color(below_image, INKS[2]).any()


def test_many_regions_take_pages_whose_numbers_go_on():
    count = REGIONS_PER_PAGE + 1
    boxes = [[10 + 20 * i, 10, 60 + 20 * i, 90] for i in range(count)]
    one, two = draw_regions(grey(), [prediction(attributes=None)] * count, boxes)
    for number, color in enumerate(INKS):
        assert is_color(one, color).any()
        assert is_color(two, color).any() == (number == REGIONS_PER_PAGE % len(INKS))


def test_the_fullest_page_fits_every_format(monkeypatch):
    text, names = "word " * 5000, ["a:" + "b" * 500] * 800
    full = prediction(
        caption=text,
        class_name=text,
        tags=[text] * 1000,
        attributes=[0.5] * 800,
        ratios=[0.1 * view for view in range(11)],
    )
    words = pictures._words(full, text, names, 800)
    views = views_of(grey(), Region(0, np.float32([0, 0, 50, 50])), full.ratios)
    monkeypatch.setattr(pictures, "_words", lambda *_: words)
    monkeypatch.setattr(pictures, "views_of", lambda *_: views)
    monkeypatch.setattr(pictures, "rendered", lambda block, margin: size_of(block))
    count = REGIONS_PER_PAGE
    (page,) = draw_regions(grey(100, 4000), [full] * count, [[0, 0, 50, 50]] * count)
    assert 8_000 < max(page) + 2 * MARGIN < min(FORMATS.values())


def test_every_field_is_drawn():
    def picture(reference=None, top=5, mask=None, **changes):
        references = None if reference is None else [reference]
        masks = None if mask is None else [mask]
        one, box = [prediction(**changes)], [[1, 1, 9, 9]]
        (page,) = draw_regions(grey(200, 100), one, box, NAMES, references, masks, top)
        return page.tobytes()

    full, mask = picture(), np.zeros((100, 200), dtype=bool)
    mask[2:8, 1:9] = True
    assert full == picture()
    changed = [
        picture(caption="another"),
        picture(caption=""),
        picture(score=0.1),
        picture(tags=[]),
        picture(attributes=[0.1, 0.9, 0.5]),
        picture(class_name="ring"),
        picture(class_logits=[0.1, 0.2]),
        picture(class_logits=None),
        picture(ratios=[0.0, 0.1, 0.2]),
        picture(reference="the truth"),
        picture(top=1),
        picture(top=0),
        picture(mask=mask),
        *(picture(**{name: None}) for name in ("caption", "tags", "class_name")),
    ]
    assert len({full, *changed}) == len(changed) + 1
    assert picture(attributes=None) == picture(top=0)


def test_attributes_are_shown_by_how_far_they_are_above_the_mean():
    """Their scores have no temperature: what all have in common says nothing."""

    def picture(*scores):
        page = draw_regions(grey(), [prediction(attributes=list(scores))], [[0, 0, 9, 9]], NAMES)
        return page[0].tobytes()

    assert picture(0.75, 0.5, 0.25) == picture(0.875, 0.625, 0.375)
    assert picture(0.75, 0.5, 0.25) != picture(0.75, 0.625, 0.25)
    picture(0.5, 0.5, 0.5)  # no bar has a length


def test_a_prediction_of_one_decoder():
    only_tags = RegionPrediction(id=0, image_id=0, tags=["star"], ratios=[0.0])
    (page,) = draw_regions(grey(), [only_tags], [[1, 1, 9, 9]])
    assert page.height >= 600


@pytest.mark.parametrize(
    ("count", "boxes", "more", "message"),
    [
        (1, [[1, 1, 9, 9]] * 2, {}, "1 predictions, 2 boxes; a region has one of each"),
        (1, [[1, 1, 9, 9]], {"references": []}, "1 predictions, 1 boxes, 0 references"),
        (1, [[1, 1, 9, 9]], {"masks": [None] * 2}, "1 predictions, 1 boxes, 2 masks"),
        (1, [[900, 1, 990, 9]], {}, "box 0 .* lies wholly outside"),
    ],
)
def test_bad_regions(count, boxes, more, message):
    with pytest.raises(ValueError, match=message):
        draw_regions(grey(), [prediction()] * count, boxes, NAMES, **more)


def test_many_tags_are_counted():
    def height(tags):
        one = prediction(tags=[f"tag{number}" for number in range(tags)])
        return draw_regions(grey(720, 10), [one], [[0, 0, 9, 9]], NAMES)[0].height

    assert height(10) < height(1000) == height(4000)


# Text


def ink(text, size=48):
    """Whether pixels of a line are dark."""
    return np.asarray(rendered(paragraph(text, 600, size))).min(axis=2) < 100


@pytest.fixture
def block_font(tmp_path):
    """A font of the system that has one letter, a filled square."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 1000), (1000, 1000), (1000, 0)):
        pen.lineTo(corner)
    pen.closePath()
    builder = FontBuilder(1000)
    builder.setupGlyphOrder([".notdef", "cat"])
    builder.setupCharacterMap({ord("猫"): "cat"})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "cat": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "cat": (1000, 0)})
    builder.setupHorizontalHeader(ascent=1000, descent=0)
    builder.setupNameTable({"familyName": "Block Cats", "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=1000, usWeightClass=400)
    builder.setupPost()
    builder.save(tmp_path / "cats.ttf")
    known = list(fontManager.ttflist)
    fontManager.addfont(tmp_path / "cats.ttf")
    caches = (picture_blocks._fonts, picture_blocks._family_with)
    for cache in caches:
        cache.cache_clear()
    yield
    fontManager.ttflist[:] = known
    for cache in caches:
        cache.cache_clear()


def test_text_of_any_script(block_font):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cat, both = ink("猫"), ink("a猫é")
    assert cat.sum() > 45 * 45, "a filled square of the size of the letters"
    assert both.sum() > cat.sum() + 200
    assert not np.array_equal(ink("Ünï"), ink("Uni"))
    assert not np.array_equal(ink("Привет"), ink("Ελλάδα"))


def test_letters_that_no_font_has_become_boxes_without_a_word(capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(ink("猫 \ud83d x"), ink("□ □ x"))
        assert np.array_equal(ink("a\x00b\u200db\ufe0f"), ink("abb"))
    assert capfd.readouterr() == ("", "")


def test_dollars_are_no_formula():
    assert width_of("$x^2$", 24) > width_of("x^2", 24)
    assert ink("$x^2$")[:, 100:140].any()
    assert not np.array_equal(ink("$x^2$"), ink("x2"))
    assert not line("$x$").get_parse_math()


def test_text_is_wrapped():
    text = "a small striped red star left of a very large blue ring " * 2
    lines = wrapped(text, 24, 300)
    assert len(lines) > 3 and " ".join(lines).split() == text.split()
    assert all(width_of(words, 24) <= 300 for words in lines)
    cut = wrapped("x" * 100 + " end", 24, 300)
    assert "".join(cut).replace(" ", "") == "x" * 100 + "end"
    assert all(width_of(words, 24) <= 300 for words in cut) and len(cut) < 8
    assert wrapped("", 24, 300) == wrapped(" \n ", 24, 300) == [""]
    assert wrapped("a  b\n\tc", 24, 300) == ["a b c"]


@pytest.mark.parametrize("text", ["word " * 500, "w" * 3000, "a" + " " * 2000 + "b"])
def test_long_texts_end(text):
    lines = wrapped(text, 24, 300)
    assert len(lines) <= MOST_LINES and lines[-1].endswith(" …")
    assert all(width_of(words, 24) <= 300 for words in lines)
    assert not any(line.endswith("…") for line in lines[:-1])
    assert wrapped(text, 24, 300, most=1)[0].endswith(" …")


# Files


@pytest.mark.parametrize("name", ["picture.png", "picture.jpg", "picture.WEBP"])
def test_saved_pictures_can_be_read(tmp_path, name):
    assert save_picture(tmp_path / name, [grey(30, 20)]) == [tmp_path / name]
    with Image.open(tmp_path / name) as image:
        assert image.size == (30, 20)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_pages_are_files(tmp_path):
    names = ["a.b.png", "a.b-2.png", "a.b-3.png"]
    path, most = tmp_path / "a.b.png", REGIONS_PER_PAGE
    assert [len(page_paths(path, n)) for n in (0, 1, most, most + 1, 2 * most)] == [1, 1, 1, 2, 2]
    paths = save_picture(path, [grey(10 + n, 10) for n in range(3)])
    assert paths == page_paths(path, 2 * most + 1) == [tmp_path / name for name in names]
    assert [Image.open(place).width for place in paths] == [10, 11, 12]
    (tmp_path / "b-2.png").mkdir()
    check_picture_path(tmp_path / "b.png", most)
    with pytest.raises(OSError, match=r"b-2\.png is a folder"):
        check_picture_path(tmp_path / "b.png", most + 1)


def test_a_failed_save_leaves_the_old_picture(tmp_path, monkeypatch):
    path = tmp_path / "picture.png"
    save_picture(path, [grey(30, 20)])
    before = path.read_bytes()

    def fail(self, part):
        part.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save_picture(path, [grey(10, 10)])
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["picture.png"]


def test_a_page_that_the_format_cannot_hold(tmp_path):
    with pytest.raises(ValueError, match=r"16384 x 1 pixels; \.webp takes 16383 a side"):
        save_picture(tmp_path / "a.webp", [grey(16384, 1)])
    save_picture(tmp_path / "a.webp", [grey(16383, 1)])


def test_paths_that_cannot_be_written(tmp_path):
    with pytest.raises(ValueError, match=r"suffix '.gif'; valid: .png"):
        check_picture_path(tmp_path / "picture.gif")
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere"):
        check_picture_path(tmp_path / "nowhere" / "picture.png")
