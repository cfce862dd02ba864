"""Tags, attributes and classes: phrases as the published code wrote them, and refused files."""

import json

import numpy as np
import pytest

from dynrefer.metrics.attributes import attribute_metrics
from dynrefer.vocabulary import (
    best_attributes,
    load_attributes,
    load_classes,
    load_tags,
    read_json,
)
from tests.shared import shared_path

# Attributes and phrases of shared/parity/official_tiny, written by the published code.
PUBLISHED = [
    ("cleanliness:clean/neat", "is", ["the clean", "the  is clean", "the neat", "the  is neat"]),
    ("color:red", "is", ["the red", "the  is red"]),
    ("clothes color:black", "has", ["the black clothes color", "the  has black clothes color"]),
    (
        "hair tone:light/bright",
        "has",
        ["the light hair", "the  has light hair", "the bright hair", "the  has bright hair"],
    ),
    (
        "maturity:young/baby",
        "is",
        [
            phrase
            for word in ("young", "baby", "kid", "kids", "child", "toddler", "boy", "girl")
            for phrase in (f"the {word}", f"the  is {word}")
        ],
    ),
    (
        "maturity:adult/old/aged",
        "is",
        [
            phrase
            for word in ("adult", "old", "aged", "teen", "elder")
            for phrase in (f"the {word}", f"the  is {word}")
        ],
    ),
]


def attribute(position, name, is_has_att="is", **changes):
    kind = name.split(":")[0]
    entry = {"id": position, "name": name, "type": kind, "parent_type": kind.split()[-1]}
    return {**entry, "is_has_att": is_has_att, "freq_set": "head", **changes}


def write_json(path, content):
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def published_attributes():
    return [attribute(i, name, is_has) for i, (name, is_has, _) in enumerate(PUBLISHED)]


@pytest.mark.parametrize("wrapped", [True, False])
def test_attribute_phrases_are_the_published_ones(tmp_path, published_attributes, wrapped):
    content = {"attributes": published_attributes} if wrapped else published_attributes
    vocabulary = load_attributes(write_json(tmp_path / "ovad.json", content))
    assert vocabulary.phrases == [phrase for _, _, phrases in PUBLISHED for phrase in phrases]
    assert vocabulary.phrase_counts == [4, 2, 2, 4, 16, 10]
    assert vocabulary.names == tuple(name for name, _, _ in PUBLISHED)
    assert len(vocabulary) == 6
    assert vocabulary.entries[3].parent_type == "tone"


def test_phrases_agree_with_the_parity_case():
    folder = "parity/official_tiny"
    case = json.loads(shared_path(f"{folder}/case.json").read_text())
    attributes = load_attributes(shared_path(f"{folder}/attributes.json"))
    assert attributes.phrases == case["attribute_phrases"]
    assert attributes.phrase_counts == case["attribute_synonym_counts"]
    tags = load_tags(shared_path(f"{folder}/tags.txt"))
    assert list(tags.names) == tags.phrases == case["config"]["tags"]
    assert load_classes(shared_path(f"{folder}/classes.json")).phrases[0] == "the person"


def test_the_117_attributes_of_ovad():
    path = shared_path("data/coco_sample/annotations/ovad_sample.json")
    vocabulary = load_attributes(path)
    assert len(vocabulary) == 117
    assert sum(vocabulary.phrase_counts) == len(vocabulary.phrases)
    assert vocabulary.entries[64].phrases == ["the dark hair", "the  has dark hair"]


def test_the_tag_list_of_ram():
    vocabulary = load_tags(shared_path("data/ram_tag_list.txt"))
    assert len(vocabulary) == len(vocabulary.phrases) == 4585
    assert vocabulary.names[-1] == "zoo"


def test_tags_are_stripped_and_a_last_line_break_is_no_tag(tmp_path):
    path = tmp_path / "tags.txt"
    path.write_bytes(b"\xef\xbb\xbfdog\r\nice cream \nzoo\n\n")
    assert load_tags(path).names == ("dog", "ice cream", "zoo")


def test_class_phrases_are_lower_case_and_names_are_kept(tmp_path):
    names = ["Person", "cat", "Dining Table"]
    vocabulary = load_classes(write_json(tmp_path / "classes.json", names))
    assert vocabulary.phrases == ["the person", "the cat", "the dining table"]
    assert vocabulary.names == tuple(names)
    assert len(vocabulary) == 3


def test_classes_are_the_categories_of_coco_or_ovad(tmp_path):
    categories = [{"id": 1, "name": "person"}, {"id": 90, "name": "Toothbrush"}]
    path = write_json(tmp_path / "ovad2000.json", {"attributes": [], "categories": categories})
    assert load_classes(path).names == ("person", "Toothbrush")
    published = json.loads(shared_path("data/coco_80_class_names.json").read_text())
    annotations = shared_path("data/coco_sample/annotations")
    for name in ("ovad_sample.json", "instances_val2017.json"):
        assert list(load_classes(annotations / name).names) == published


@pytest.mark.parametrize("name", ["mine.txt", "MINE.TXT"])
def test_lists_of_the_users_own(tmp_path, name):
    path = tmp_path / name
    path.write_text("Striped\npattern:dotted/spotted\n\n")
    attributes = load_attributes(path)
    assert attributes.names == ("Striped", "pattern:dotted/spotted")
    assert attributes.phrases == [
        "the Striped",
        "the  is Striped",
        "the dotted",
        "the  is dotted",
        "the spotted",
        "the  is spotted",
    ]
    assert attributes.phrase_counts == [2, 4]
    assert [entry.parent_type for entry in attributes.entries] == ["", "pattern"]
    assert [entry.freq_set for entry in attributes.entries] == ["", ""]
    path.write_text("Traffic Light\ndog\nflip-flop_(sandal)")  # LVIS has underscores
    assert load_classes(path).phrases == ["the traffic light", "the dog", "the flip-flop (sandal)"]
    assert load_classes(path).names[2] == "flip-flop_(sandal)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("red\n\nblue\n", "line 2 is ''"),
        ("red\nRed\n", "line 2 repeats line 1, 'Red'"),
        ("color:\n", "line 1 is 'color:', must be 'synonym/synonym' or 'type:synonym/synonym'"),
        ("red\nblue//green\n", "line 2 is 'blue//green', must be"),
    ],
)
def test_refused_attribute_lists(tmp_path, text, message):
    path = tmp_path / "mine.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"mine.txt: {message}"):
        load_attributes(path)


def test_metrics_of_attributes_from_a_list(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("red\npattern:dotted\n")
    entries = load_attributes(path).entries
    result = attribute_metrics(np.array([[0.9, 0.2], [0.1, 0.8]]), np.eye(2, dtype=int), entries)
    assert result["map"] == {"all": 100.0, "pattern": 100.0, "single": 100.0}


@pytest.mark.parametrize(
    ("load", "setting"),
    [
        (load_tags, "model.vocabulary.tags"),
        (load_attributes, "model.vocabulary.attributes"),
        (load_classes, "model.vocabulary.classes"),
    ],
)
def test_a_missing_file_names_itself_and_the_setting(tmp_path, load, setting):
    with pytest.raises(FileNotFoundError, match=f"absent.*'{setting}'.*download_assets.py"):
        load(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="download_assets.py ovad2000` fetches it to data/"):
        load(tmp_path / "ovad2000.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dog\ncat\ndog\n", "line 3 repeats line 1, 'dog'"),
        ("dog\n\ncat\n", "line 2 is ''"),
        ("", "line 1 is ''"),
        ('["dog", "cat"]', r"line 1 is '\[\"dog\", \"cat\"\]'; a name a line is expected"),
        ("dog\n\0\0\n", "line 2 is .*; a name a line is expected"),
    ],
)
def test_refused_tag_lists(tmp_path, text, message):
    path = tmp_path / "tags.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"tags.txt: {message}"):
        load_tags(path)


def test_a_tag_list_in_another_encoding_is_named(tmp_path):
    path = tmp_path / "tags.txt"
    path.write_bytes("crème brûlée".encode("latin-1"))
    with pytest.raises(ValueError, match="tags.txt: is not text in UTF-8"):
        load_tags(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "is empty"),
        ({"person": 0}, "needs a list of class names, .* found dict"),
        ({"categories": "cat"}, "needs a list of class names, .* found dict"),
        ({"categories": [{"name": "cat"}, {"id": 2}]}, "entry 1 is None"),
        ({"categories": [{"name": "cat"}, ["dog"]]}, r"entry 1 is \['dog'\]"),
        (["cat", 3], "entry 1 is 3"),
        (["Cat", "dog", "cat"], "entry 2 repeats entry 0, 'cat'"),
    ],
)
def test_refused_class_lists(tmp_path, content, message):
    with pytest.raises(ValueError, match=f"classes.json: {message}"):
        load_classes(write_json(tmp_path / "classes.json", content))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], "is empty"),
        (["color:red"], r"attributes\[0\]: lacks id, name"),
        ([{"id": 0, "name": "color:red"}], "lacks type, parent_type, is_has_att, freq_set; needs"),
        ([attribute(1, "color:red")], r"attributes\[0\]: id is 1, must be its position 0"),
        ([attribute(0, "color:red", "had")], "is_has_att is 'had', must be 'is' or 'has'"),
        ([attribute(0, "red", type="color")], "name is 'red', must be 'type:synonym/synonym'"),
        ([attribute(i, "color:red") for i in range(2)], "attributes 1 repeats attributes 0"),
    ],
)
def test_refused_attributes(tmp_path, entries, message):
    with pytest.raises(ValueError, match=message):
        load_attributes(write_json(tmp_path / "ovad.json", {"attributes": entries}))


def test_attributes_need_their_section(tmp_path):
    with pytest.raises(ValueError, match="ovad.json: needs a list, or an object with a list"):
        load_attributes(write_json(tmp_path / "ovad.json", {"images": []}))


def test_broken_json_names_line_and_column(tmp_path):
    path = tmp_path / "classes.json"
    path.write_text('["person",\n "cat" "dog"]')
    with pytest.raises(ValueError, match="classes.json: broken JSON at line 2, column 8"):
        read_json(path, "ov_file")


def test_best_attributes():
    names = ("color:red/crimson", "size:small/little", "pattern:striped")
    assert best_attributes([0.1, 0.9, 0.5], names, 2) == [
        ("size: small", 0.9),
        ("pattern: striped", 0.5),
    ]
    for top in (10, None):
        assert [name for name, _ in best_attributes([0.5, 0.9, 0.5], names, top)] == [
            *("size: small", "color: red", "pattern: striped")
        ]
    assert best_attributes([0.5], ("round",), 1) == [("round", 0.5)]
    assert best_attributes([0.1, 0.9, 0.5], names, 0) == []
    with pytest.raises(ValueError, match="2 scores for 3 names"):
        best_attributes([0.1, 0.9], names, 2)
