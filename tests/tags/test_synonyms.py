from pathlib import Path

import pytest

from dynrefer.tags.synonyms import SynonymError, Synonyms, load_synonyms


def read(folder: Path, text: str) -> Synonyms:
    (folder / "own.txt").write_text(text, encoding="utf-8")
    return load_synonyms(folder / "own.txt")


def test_words_of_one_thing_stand_for_each_other(tmp_path: Path) -> None:
    assert read(tmp_path, "couch = sofa = settee") == [
        ("couch", ["sofa", "settee"]),
        ("sofa", ["couch", "settee"]),
        ("settee", ["couch", "sofa"]),
    ]


def test_a_kind_counts_as_the_thing_and_not_the_other_way_round(tmp_path: Path) -> None:
    assert read(tmp_path, "puppy, pup -> dog, animal") == [
        ("puppy", ["dog", "animal"]),
        ("pup", ["dog", "animal"]),
    ]


def test_comments_and_empty_lines_are_left_out(tmp_path: Path) -> None:
    assert read(tmp_path, "# people\n\n  \nguy -> man\n") == [("guy", ["man"])]


@pytest.mark.parametrize(
    "line", ["couch", "couch =", "-> dog", "puppy ->", "a = b -> c", "a,,b -> c", "a -> b -> c"]
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(SynonymError, match=r"own.txt: line 2 is '.*'; valid is 'a = b' or 'a, b"):
        read(tmp_path, f"guy -> man\n{line}")


def test_every_built_in_line_is_read_and_says_something() -> None:
    pairs = load_synonyms()
    assert len(pairs) > 300
    assert all(targets for _, targets in pairs)


def test_wrong_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file at .*absent.txt"):
        load_synonyms(tmp_path / "absent.txt")
    (tmp_path / "latin.txt").write_bytes("caf\xe9 = coffee".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin.txt: is not text in UTF-8"):
        load_synonyms(tmp_path / "latin.txt")
