import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from dynrefer.runners.report import Section, ShownRegion, page

PICTURE = Image.fromarray(np.tile(np.arange(90, dtype=np.uint8)[None, :, None], (60, 1, 3)))
NASTY = "<script>alert('x')</script> & \"quoted\" <img src=http://a.b/c>"


class Reader(HTMLParser):
    """Tags that are open, those seen with their attributes, and the text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.text = [], [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def region(**changes):
    values = {
        "title": "region 7, 1.jpg",
        "score": 0.25,
        "picture": PICTURE,
        "note": "",
        "said": ["a dog"],
        "true": ["a cat"],
    }
    return ShownRegion(**(values | changes))


def made(*regions, facts=None, **names):
    groups = {"best": list(regions), "worst": []}
    section = Section(names.get("title", "captions"), names.get("line", "CIDEr 1"), groups)
    return page(names.get("title", "shapes val"), facts or {"regions": "3"}, [section])


def test_the_page_is_whole_and_needs_nothing_from_outside():
    text = made(region(), region(title="region 8, 2.jpg"), facts={"weights": "out/last"})
    reader = Reader(text)
    assert reader.open == []
    for word in ("region 7, 1.jpg", "region 8", "a dog", "a cat", "score 0.25", "out/last", "best"):
        assert word in reader.text
    assert "worst" not in reader.text  # a group without regions has no heading
    tags = {tag for tag, _ in reader.seen}
    assert not tags & {"script", "link", "iframe", "object", "a", "form"}
    addresses = [v for _, attributes in reader.seen for k, v in attributes.items() if k == "src"]
    assert len(addresses) == 2 and all(one.startswith("data:image/jpeg") for one in addresses)
    assert "http" not in text and "url(" not in text


def test_the_pictures_are_inside():
    (content,) = re.findall(r"base64,([^\"]+)", made(region()))
    picture = Image.open(io.BytesIO(base64.b64decode(content)))
    assert picture.size == PICTURE.size
    assert np.abs(np.asarray(picture).astype(int) - np.asarray(PICTURE)).mean() < 2
    assert '<img src="data' in made(region()) and 'width="60" height="40"' in made(region())


def test_text_from_models_and_files_is_escaped():
    nasty = region(title=NASTY, said=[NASTY], true=[NASTY], picture=None, note=NASTY)
    reader = Reader(made(nasty, region(title=NASTY), title=NASTY, line=NASTY, facts={NASTY: NASTY}))
    assert reader.text.count(NASTY) == 11  # 6 of the page and its section, 4 + 1 of the regions
    assert [tag for tag, _ in reader.seen if tag in ("script", "img")] == ["img"]
    assert [values["alt"] for tag, values in reader.seen if tag == "img"] == ["views of " + NASTY]


def test_lone_surrogates_and_long_texts():
    text = made(region(said=["half \ud83d emoji", "é 猫"], true=["word " * 500]))
    text.encode("utf-8")
    reader = Reader(text)
    assert "half ? emoji" in reader.text and "é 猫" in reader.text
    assert "..." in reader.text and reader.text.count("word") < 100


def test_many_lines_are_cut_and_counted():
    reader = Reader(made(region(said=[f"line{n}" for n in range(50)], true=[])))
    assert "line5" in reader.text and "line6" not in reader.text
    assert "... and 44 more" in reader.text and "(none)" in reader.text


def test_a_region_without_a_picture_says_why():
    reader = Reader(made(region(picture=None, note="image file 1.jpg does not exist")))
    assert "image file 1.jpg does not exist" in reader.text
    assert not [tag for tag, _ in reader.seen if tag == "img"]
