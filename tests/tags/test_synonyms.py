from pathlib import Path

import pytest

from dynrefer.tags.synonyms import (
    BUILT_IN,
    SynonymError,
    load_synonyms,
    parse_synonyms,
)


def test_words_of_one_thing_stand_for_each_other() -> None:
    assert parse_synonyms("couch = sofa = settee") == [
        ("couch", ["sofa", "settee"]),
        ("sofa", ["couch", "settee"]),
        ("settee", ["couch", "sofa"]),
    ]


def test_a_kind_counts_as_the_thing_and_not_the_other_way_round() -> None:
    assert parse_synonyms("puppy, pup -> dog, animal") == [
        ("puppy", ["dog", "animal"]),
        ("pup", ["dog", "animal"]),
    ]


def test_comments_and_empty_lines_are_left_out() -> None:
    assert parse_synonyms("# people\n\n  \nguy -> man\n") == [("guy", ["man"])]


@pytest.mark.parametrize(
    "line", ["couch", "couch =", "-> dog", "puppy ->", "a = b -> c", "a,,b -> c"]
)
def test_a_wrong_line_is_named(line: str) -> None:
    with pytest.raises(SynonymError, match="own.txt: line 2"):
        parse_synonyms(f"guy -> man\n{line}", "own.txt")


def test_every_built_in_line_is_read_and_says_something() -> None:
    pairs = parse_synonyms(BUILT_IN)
    assert len(pairs) > 300
    assert all(targets for _, targets in pairs)


def test_a_file(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("gaffer -> man\n", encoding="utf-8")
    assert load_synonyms(tmp_path / "own.txt") == [("gaffer", ["man"])]


def test_wrong_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent.txt"):
        load_synonyms(tmp_path / "absent.txt")
    (tmp_path / "latin.txt").write_bytes("caf\xe9 = coffee".encode("latin-1"))
    with pytest.raises(SynonymError, match=r"latin.txt: is not UTF-8 at byte 3"):
        load_synonyms(tmp_path / "latin.txt")
