"""Streaming JSON: equal to json.loads whatever the chunks, errors with file, key and place."""

import json
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dynrefer.datasets.annotations import json_stream
from dynrefer.datasets.annotations.json_stream import is_array, iterate_items, read_members

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda values: st.lists(values) | st.dictionaries(st.text("abé"), values),
    max_leaves=20,
)


@pytest.fixture
def write(tmp_path):
    def write_content(content, **options):
        path = tmp_path / "file.json"
        path.write_text(json.dumps(content, **options), encoding="utf-8")
        return path

    return write_content


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(VALUES), st.integers(1, 40), st.sampled_from([None, 1]), st.booleans())
def test_same_items_as_json_whatever_the_chunks(tmp_path_factory, items, chunk, indent, escaped):
    path = tmp_path_factory.mktemp("stream") / "file.json"
    options = {"indent": indent, "ensure_ascii": escaped}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "CHUNK", chunk)
        path.write_text(json.dumps(items, **options), encoding="utf-8")
        assert list(iterate_items(path)) == items
        whole = {"a": {"b": [1]}, "items": items, "é": -1.5e-7}
        path.write_text(json.dumps(whole, **options), encoding="utf-8")
        assert list(iterate_items(path, "items")) == items
        assert read_members(path) == whole
        assert read_members(path, without=("items", "a")) == {"é": -1.5e-7}


def test_a_byte_that_is_not_utf_8_stays_in_its_text(tmp_path):
    path = tmp_path / "latin.json"
    path.write_bytes(b'{"name": "caf\xe9", "texts": ["good", "caf\xe9", "\xc3"]}')
    assert read_members(path) == {"name": "caf\udce9", "texts": ["good", "caf\udce9", "\udcc3"]}
    assert list(iterate_items(path, "texts")) == ["good", "caf\udce9", "\udcc3"]


@pytest.mark.parametrize("without", [(), ("a",)])
def test_a_member_that_comes_twice_is_an_error(tmp_path, without):
    path = tmp_path / "twice.json"
    path.write_text('{"a": [1], "b": 2, "a": [3]}')
    with pytest.raises(ValueError, match=r"twice.json: 'a' comes twice \(at character 23\)"):
        read_members(path, without)


def test_not_a_number_and_a_byte_order_mark_are_read(tmp_path):
    path = tmp_path / "file.json"
    path.write_bytes(b"\xef\xbb\xbf[NaN, -Infinity]")
    first, second = iterate_items(path)
    assert first != first and second == float("-inf")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"[1]", True),
        (b"\xef\xbb\xbf" + b" \n\t" * 500 + b"[", True),
        (b'{"annotations": []}', False),
        (b"", False),
    ],
)
def test_arrays_are_told_from_objects(tmp_path, content, expected):
    (tmp_path / "a.json").write_bytes(content)
    assert is_array(tmp_path / "a.json") is expected


def test_a_missing_file_is_no_array(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file at .*a.json"):
        is_array(tmp_path / "a.json")


def test_empty_array_and_object(write):
    assert list(iterate_items(write([]))) == []
    assert list(iterate_items(write({"items": []}), "items")) == []
    assert read_members(write({})) == {}


def test_what_follows_the_array_of_a_key_is_not_read(tmp_path):
    path = tmp_path / "file.json"
    path.write_text('{"items": [1, 2], "rest": [broken')
    assert list(iterate_items(path, "items")) == [1, 2]


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_every_truncation_is_an_error(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    content = json.dumps([{"phrase": "a dög", "x": [1.5, -2e3], "known": True}, None]).encode()
    path = tmp_path / "cut.json"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="cut.json.*at character"):
            list(iterate_items(path))
        path.write_bytes(b'{"items": ' + content[:length])
        with pytest.raises(ValueError, match="cut.json"):
            list(iterate_items(path, "items"))
        with pytest.raises(ValueError, match="cut.json"):
            read_members(path)


@pytest.mark.parametrize(
    ("content", "key", "message"),
    [
        (b'[1, 2 "x"]', None, r"'\"' where ',' or '\]' must stand \(at character 6\)"),
        (b"[1, 2,]", None, r"Expecting value \(at character 6\)"),
        (b"[1] 2", None, r"text follows the end of the JSON \(at character 4\)"),
        (b'{"a": 1}', None, r"must be an array \(at character 0\)"),
        (b"", None, r"must be an array \(at character 0\)"),
        (b"[1]", "items", r"must be an object \(at character 0\)"),
        (b'{"a": 1, "b": []}', "items", r"has no key 'items'; its keys are \['a', 'b'\]"),
        (b'{"items": {"a": 1}}', "items", r"'items' must be an array \(at character 10\)"),
        (b'{"items": [1] 3', "items", r"'3' where ',' or '}' must stand \(at character 14\)"),
        (b"{a: 1}", "items", r"a key in double quotes is missing \(at character 1\)"),
        (b'["\xc3\xa9", x]', None, r"Expecting value \(at character 6\)"),
    ],
)
@pytest.mark.parametrize("chunk", [1, 3, 1 << 20])
def test_errors_name_file_and_byte(tmp_path, monkeypatch, chunk, content, key, message):
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    path = tmp_path / "wrong.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"wrong.json: {message}"):
        list(iterate_items(path, key))


def test_nesting_without_end_is_an_error(tmp_path):
    path = tmp_path / "deep.json"
    path.write_bytes(b"[" * 100_000)
    with pytest.raises(ValueError, match="deep.json: is nested too deeply"):
        list(iterate_items(path))


def test_a_mistake_early_in_a_long_file_is_found_without_reading_on(tmp_path):
    path = tmp_path / "wrong.json"
    path.write_bytes(b'[{"a" 1},' + b" " * 50_000_000 + b"2]")
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="at character 6"):
            list(iterate_items(path))
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_missing_file_is_reported_at_once(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file at .*none.json"):
        iterate_items(tmp_path / "none.json")
    with pytest.raises(FileNotFoundError, match="no file at .*none.json"):
        read_members(tmp_path / "none.json")


def test_memory_holds_a_chunk_not_the_file(write):
    path = write({"items": [{"number": n, "text": "x" * 1000} for n in range(30_000)]})
    assert path.stat().st_size > 30e6
    tracemalloc.start()
    try:
        assert sum(1 for _ in iterate_items(path, "items")) == 30_000
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
