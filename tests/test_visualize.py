import numpy as np
import pytest
from PIL import Image

from dynrefer.models.dynrefer import RegionPrediction
from dynrefer.picture_blocks import INK, MOST_LINES, below, fitted, line, paragraph, wrapped
from dynrefer.visualize import (
    COLORS,
    VIEW_SIZE,
    attribute_label,
    best_attributes,
    check_picture_path,
    draw_boxes,
    draw_regions,
    draw_views,
    save_picture,
)

NAMES = ("color:red/crimson", "size:small/little", "pattern:striped")
GREY = (120, 120, 120)


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


def extent(image, color):
    """Box of the pixels of one colour, xyxy, end exclusive."""
    rows, columns = np.nonzero((np.asarray(image) == color).all(axis=2))
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_attribute_labels():
    assert attribute_label("color:red/crimson") == "color: red"
    assert attribute_label("pattern:striped") == "pattern: striped"


def test_best_attributes():
    assert best_attributes([0.1, 0.9, 0.5], NAMES, 2) == [
        ("size: small", 0.9),
        ("pattern: striped", 0.5),
    ]
    assert len(best_attributes([0.1, 0.9, 0.5], NAMES, 10)) == 3
    assert best_attributes([0.1, 0.9, 0.5], NAMES, 0) == []
    with pytest.raises(ValueError, match="2 attribute scores for 3 attribute names"):
        best_attributes([0.1, 0.9], NAMES, 2)


def test_boxes_stand_around_their_regions():
    picture = draw_boxes(grey(), [[100, 120, 300, 420], [400, 50, 500, 90]])
    assert picture.size == (720, 600)
    pixels = np.asarray(picture)
    assert (pixels[120:420, 100:300] == GREY).all(), "the region itself must stay visible"
    for x, y in [(98, 250), (302, 250), (200, 118), (200, 422)]:
        assert tuple(pixels[y, x]) == COLORS[0]
    assert tuple(pixels[70, 398]) == COLORS[1]


@pytest.mark.parametrize("size", [(1, 1), (6, 4), (3000, 40), (40, 3000), (2000, 1500)])
def test_images_of_any_size_are_scaled(size):
    box = [[0, 0, *size]]
    picture = draw_boxes(Image.new("RGB", size, GREY), box)
    assert 96 <= picture.width <= 720 and 96 <= picture.height <= 960
    assert max(picture.width / 720, picture.height / 960) == 1
    assert draw_regions(Image.new("RGB", size), [prediction()], box, NAMES).width > 1000


def test_numbers_of_equal_boxes_do_not_cover_one_another():
    picture = np.asarray(draw_boxes(grey(), [[0, 0, 700, 590]] * 8))
    for color in COLORS:
        assert (picture == color).all(axis=2).sum() > 500


def test_views_show_the_region_where_it_is():
    image = Image.new("RGB", (400, 200), GREY)
    image.paste((0, 0, 255), (100, 50, 200, 150))
    color = (1, 2, 3)
    strip = draw_views(image, np.array([100, 50, 200, 150], dtype=np.float32), [0, 0.5, 1], color)
    views = [strip.crop((x, 0, x + VIEW_SIZE[0], VIEW_SIZE[1])) for x in (0, 190, 380)]
    # The boxes of the views are 100 x 100, 250 x 150 and 400 x 200 pixels.
    np.testing.assert_allclose(extent(views[0], color), [0, 0, 176, 176], atol=1)
    across = 176 / 250
    frame = np.array([50, 25, 150, 125]) * across + [-3, -3 + 35, 3, 3 + 35]
    np.testing.assert_allclose(extent(views[1], color), frame, atol=2)
    across = 176 / 400
    frame = np.array([100, 50, 200, 150]) * across + [-3, -3 + 44, 3, 3 + 44]
    np.testing.assert_allclose(extent(views[2], color), frame, atol=2)
    inside = views[2].crop((50, 72, 80, 102))
    assert extent(inside, (0, 0, 255)) == [0, 0, 30, 30]


@pytest.mark.parametrize("count", [0, 1, 3, 8])
def test_a_row_for_each_region(count):
    boxes = [[10 + 20 * i, 10, 60 + 20 * i, 90] for i in range(count)]
    picture = draw_regions(grey(), [prediction(id=i) for i in range(count)], boxes, NAMES)
    right = np.asarray(picture)[:, 40 + 720 + 32 :]
    for number, color in enumerate(COLORS):
        assert (right == color).all(axis=2).any() == (number < count)
    row = draw_regions(grey(720, 100), [prediction()], [[10, 10, 60, 90]], NAMES).height - 80
    assert picture.height == 80 + max(600, count * row + (count - 1) * 32)


@pytest.mark.parametrize("views", [1, 4, 5, 11])
def test_any_number_of_views(views):
    ratios = [0.1 * view for view in range(views)]
    strip = draw_views(grey(), np.array([10, 10, 60, 90], dtype=np.float32), ratios, COLORS[0])
    columns, rows = min(views, 4), -(-views // 4)
    assert strip.width == columns * 190 - 14
    assert strip.height == rows * (VIEW_SIZE[1] + 4 + line("t", 20, INK).height + 14) - 14


def test_every_field_is_drawn():
    def picture(reference=None, top=5, **changes):
        references = None if reference is None else [reference]
        one = [prediction(**changes)]
        drawn = draw_regions(grey(720, 100), one, [[1, 1, 9, 9]], NAMES, references, top)
        return drawn.tobytes()

    full = picture()
    assert full == picture()
    changed = [
        picture(caption="another"),
        picture(score=0.1),
        picture(tags=[]),
        picture(attributes=[0.1, 0.9, 0.5]),
        picture(class_name="ring"),
        picture(class_logits=[0.1, 0.2]),
        picture(ratios=[0.0, 0.1, 0.2]),
        picture(reference="the truth"),
        picture(top=1),
        *(picture(**{name: None}) for name in ("caption", "tags", "attributes", "class_name")),
    ]
    assert len({full, *changed}) == len(changed) + 1


def test_a_prediction_of_one_decoder():
    only_tags = RegionPrediction(id=0, image_id=0, tags=["star"], ratios=[0.0])
    assert draw_regions(grey(), [only_tags], [[1, 1, 9, 9]]).height >= 600


@pytest.mark.parametrize(
    ("count", "boxes", "references", "message"),
    [
        (1, [[1, 1, 9, 9]] * 2, None, "1 predictions, 2 boxes and 2 references"),
        (1, [[1, 1, 9, 9]], [], "1 predictions, 1 boxes and 0 references"),
        (1, [[900, 1, 990, 9]], None, "box 0 .* lies wholly outside"),
    ],
)
def test_bad_regions(count, boxes, references, message):
    with pytest.raises(ValueError, match=message):
        draw_regions(grey(), [prediction()] * count, boxes, NAMES, references)


def test_text_is_wrapped():
    text = "a small striped red star left of a very large blue ring " * 2
    lines = wrapped(text, 24, 300)
    assert len(lines) > 3 and " ".join(lines).split() == text.split()
    assert all(line(words, 24, INK).width <= 300 for words in lines)
    cut = wrapped("x" * 200 + " end", 24, 300)
    assert "".join(cut).replace(" ", "") == "x" * 200 + "end"
    assert all(line(words, 24, INK).width <= 300 for words in cut)
    assert wrapped("", 24, 300) == wrapped(" \n ", 24, 300) == [""]


def test_long_paragraphs_end():
    block = paragraph("word " * 500, 24, INK, 300)
    assert block.height == MOST_LINES * line("x", 24, INK).height and block.width <= 310


def test_text_of_other_scripts_is_replaced():
    assert line("café", 24, INK).tobytes() == line("cafe", 24, INK).tobytes()
    assert wrapped("naïve 星", 24, 300) == ["naive ?"]


def test_many_tags_are_counted():
    def height(tags):
        one = prediction(tags=[f"tag{number}" for number in range(tags)])
        return draw_regions(grey(720, 10), [one], [[0, 0, 9, 9]], NAMES).height

    assert height(10) < height(1000) == height(4000)


def test_blocks():
    blocks = [Image.new("RGB", (10, 5)), Image.new("RGB", (4, 7))]
    assert below(blocks, 3).size == (10, 15)
    assert below([], 3).size == (1, 1)
    assert fitted(Image.new("L", (10, 5)), (100, 100)).size == (100, 50)


@pytest.mark.parametrize("name", ["picture.png", "picture.jpg", "picture.WEBP"])
def test_saved_pictures_can_be_read(tmp_path, name):
    save_picture(tmp_path / name, grey(30, 20))
    with Image.open(tmp_path / name) as image:
        assert image.size == (30, 20)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_failed_save_leaves_the_old_picture(tmp_path, monkeypatch):
    path = tmp_path / "picture.png"
    save_picture(path, grey(30, 20))
    before = path.read_bytes()

    def fail(self, part):
        part.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save_picture(path, grey(10, 10))
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["picture.png"]


def test_paths_that_cannot_be_written(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"suffix '.gif'; valid: .png"):
        check_picture_path(tmp_path / "picture.gif")
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere"):
        check_picture_path(tmp_path / "nowhere" / "picture.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(PermissionError, match="is a folder"):
        check_picture_path(tmp_path / "folder.png")

    def refuse(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("dynrefer.visualize.tempfile.TemporaryFile", refuse)
    with pytest.raises(PermissionError, match=r"cannot be written \(Permission denied\)"):
        check_picture_path(tmp_path / "picture.png")
