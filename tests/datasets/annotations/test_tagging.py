"""Tags of annotations: order, workers, what is kept, bad input."""

import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynrefer.datasets.annotations import tagging as tags
from dynrefer.datasets.annotations.tagging import (
    read_annotations,
    tag_annotations,
    write_annotations,
)
from dynrefer.registry import UnknownNameError
from dynrefer.tags import ParsedTags
from dynrefer.vocabulary import TagVocabulary

VOCABULARY = TagVocabulary(("dog", "red", "grass", "cat"))
CAPTIONS = ("a red dog", "cat on the grass", "nothing", "the dog is red")


class DyingParser:
    """Ends its process without a word, as one that is killed for memory does."""

    def __call__(self, phrase: str) -> ParsedTags:
        os._exit(9)


def annotations(count: int) -> Iterator[dict]:
    for i in range(count):
        yield {"id": i, "caption": f"{CAPTIONS[i % 4]}", "extra_info": {"note": i}}


def sets_of(annotation: dict) -> tuple[list[int], list[int]]:
    result = annotation["extra_info"]["parser_result"]
    return result["tag_set1"], result["tag_set2"]


def test_tags_are_filled_in_and_all_else_is_kept() -> None:
    given = {"id": 7, "bbox": [1, 2, 3, 4], "caption": CAPTIONS[1], "extra_info": {"score": 0.5}}
    (tagged,) = tag_annotations([given], VOCABULARY)
    assert sets_of(tagged) == ([3], [2])
    assert tagged["extra_info"].pop("parser_result")
    assert tagged == given
    assert "parser_result" not in given["extra_info"]


def test_tags_made_before_are_replaced() -> None:
    old = {"parser_result": {"tag_set1": [3], "tag_set2": [], "tag_set0": [1]}}
    (tagged,) = tag_annotations([{"id": 1, "caption": "a dog", "extra_info": old}], VOCABULARY)
    assert tagged["extra_info"] == {"parser_result": {"tag_set1": [0], "tag_set2": []}}


def test_several_captions_share_their_tags() -> None:
    record = {"id": 1, "caption": "a dog", "captions": ["a dog", " ", "red dog near a cat", "dog"]}
    (tagged,) = tag_annotations([record], VOCABULARY)
    assert sets_of(tagged) == ([0, 1], [3])


def test_captions_are_those_of_the_index() -> None:
    records = [
        {"id": 1, "caption": "a red dog", "captions": []},
        {"id": 2, "caption": "a red dog", "captions": ["a cat"]},
        {"id": 3, "caption": None, "captions": ["a cat"]},
        {"id": 4, "caption": "a cat", "captions": None, "extra_info": None},
    ]
    tagged = tag_annotations(records, VOCABULARY)
    assert [sets_of(record)[0] for record in tagged] == [[1, 0], [1, 0, 3], [3], [3]]


def test_regions_without_caption_are_left_as_they_are() -> None:
    records = [{"id": 1}, {"id": 2, "caption": None}, {"id": 3, "caption": " ", "extra_info": {}}]
    assert list(tag_annotations(records, VOCABULARY)) == records
    assert list(tag_annotations(records, VOCABULARY, processes=2)) == records


def test_workers_give_the_same_in_the_same_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tags, "CHUNK_REGIONS", 7)
    alone = list(tag_annotations(annotations(100), VOCABULARY))
    shared = list(tag_annotations(annotations(100), VOCABULARY, processes=2))
    assert [record["id"] for record in shared] == list(range(100))
    assert shared == alone


def test_annotations_are_not_read_far_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tags, "CHUNK_REGIONS", 5)
    read = itertools.count()
    source = (record for record in annotations(10_000) if next(read) is not None)
    tagged = tag_annotations(source, VOCABULARY, processes=2)
    next(tagged)
    assert next(read) <= 5 * (2 * tags.CHUNKS_AHEAD + 1)
    tagged.close()


def test_a_dying_worker_is_an_error() -> None:
    tagged = tag_annotations(annotations(10), VOCABULARY, DyingParser(), processes=2)
    with pytest.raises(ChildProcessError, match="a process that parses captions died"):
        list(tagged)


def test_an_error_in_a_worker_arrives() -> None:
    with pytest.raises(TypeError, match="object is not callable"):
        list(tag_annotations(annotations(3), VOCABULARY, b"not a parser", processes=2))


def test_wrong_arguments_are_named_at_once() -> None:
    with pytest.raises(ValueError, match="processes is 0; valid is 1 or more"):
        tag_annotations([], VOCABULARY, processes=0)
    with pytest.raises(UnknownNameError, match="no tag_parser is registered as 'none'"):
        tag_annotations([], VOCABULARY, "none")
    with pytest.raises(ValueError, match="vocabulary is empty"):
        tag_annotations([], TagVocabulary(()))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"id": 5, "caption": 3}, "annotation 5: wrong type: 'caption' is 3, must be a text"),
        (
            {"id": "x", "captions": "dog"},
            "annotation 'x': .*'captions' is 'dog', must be a list of texts",
        ),
        ({"id": 5, "captions": ["dog", None]}, "'captions' is .'dog', None."),
        ({"id": 5, "caption": "dog \ud83d"}, r"annotation 5: text is not UTF-8: .*dog \\ud83d"),
        (
            {"id": 5, "caption": "dog", "extra_info": []},
            "annotation 5: .*'extra_info' is .., must be an object",
        ),
    ],
)
def test_bad_records_are_named(record: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(tag_annotations([record], VOCABULARY))


def test_bad_records_are_named_where_workers_parse() -> None:
    with pytest.raises(ValueError, match="annotation 5: .*'caption' is 3"):
        list(tag_annotations([{"id": 5, "caption": 3}], VOCABULARY, processes=2))


def test_a_file_comes_out_whole_with_what_it_had(tmp_path: Path) -> None:
    path = tmp_path / "in.json"
    caption = "\u00e9t\u00e9 \ud83d half a surrogate pair, as JSON may hold it"
    content = {
        "dataset": {"image_root": "images"},
        "annotations": [{"id": 1, "caption": caption}, {"id": 2, "bbox": [0.5, 1, 2, 3]}],
        "images": [{"id": 1}],
    }
    path.write_text(json.dumps(content))
    members, records = read_annotations(path)
    write_annotations(tmp_path / "deep/out.json", members, records)
    assert json.loads((tmp_path / "deep/out.json").read_text(encoding="utf-8")) == content
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["out.json"]


def test_a_file_may_be_tagged_in_its_place(tmp_path: Path) -> None:
    path = tmp_path / "regions.json"
    path.write_text(json.dumps({"images": [], "annotations": list(annotations(50))}))
    for _ in range(2):
        members, records = read_annotations(path)
        write_annotations(path, members, tag_annotations(records, VOCABULARY))
        regions = json.loads(path.read_text())["annotations"]
        assert regions == list(tag_annotations(annotations(50), VOCABULARY))


def test_after_an_error_the_old_file_is_there(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    out.write_text("old")
    records = [{"id": 1, "caption": "a dog"}, {"id": 2, "caption": 2}]
    with pytest.raises(ValueError, match="annotation 2"):
        write_annotations(out, {}, tag_annotations(records, VOCABULARY))
    assert out.read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


def test_a_record_must_be_an_object(tmp_path: Path) -> None:
    (tmp_path / "in.json").write_text('{"annotations": [{"id": 1}, 5]}')
    _, records = read_annotations(tmp_path / "in.json")
    with pytest.raises(ValueError, match=r"in.json: annotations\[1\] is 5; valid is an object"):
        list(records)
