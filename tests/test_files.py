from pathlib import Path

import pytest
import torch

from dynrefer import files
from dynrefer.files import (
    check_writable,
    file_stem,
    part_of,
    put_in_place,
    whole_file,
    write_atomically,
    write_text,
)


def test_a_file_is_put_in_place_when_whole(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")

    def write(part):
        part.write_text("new")
        assert path.read_text() == "old"

    write_atomically(path, write)
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_after_an_error_the_old_file_stays(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")

    def fail(part):
        part.write_text("ha")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert part_of(path).read_text() == "ha"


def test_a_whole_file_is_put_in_place_at_the_end(tmp_path):
    path = tmp_path / "a.png"
    path.write_text("old")
    with whole_file(path) as part, whole_file(path) as other:
        part.write_text("first")
        other.write_text("second")
        assert part.suffix == ".png" and path.read_text() == "old"
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("written", [False, True])
def test_nothing_of_half_a_file_stays(tmp_path, written):
    path = tmp_path / "a.png"
    path.write_text("old")
    with pytest.raises(OSError, match="disk full"), whole_file(path) as part:
        if written:
            part.write_text("ha")
        raise OSError("disk full")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def order(monkeypatch):
    """What is synced and renamed, in that order, by the file's or folder's name."""
    calls = []
    sync, replace = files.sync, files.Path.replace
    monkeypatch.setattr(files, "sync", lambda path: calls.append(path.name) or sync(path))
    monkeypatch.setattr(
        files.Path, "replace", lambda self, to: calls.append(f"-> {to.name}") or replace(self, to)
    )
    return calls


def test_what_is_put_in_place_is_on_the_disk_first(tmp_path, order):
    write_text(tmp_path / "a", "text")
    assert order == ["a.part", "-> a", tmp_path.name]
    order.clear()
    with whole_file(tmp_path / "b.png") as part:
        part.touch()
    assert order == [part.name, "-> b.png", tmp_path.name]
    order.clear()
    (tmp_path / "new" / "inner").mkdir(parents=True)
    (tmp_path / "new" / "inner" / "file").touch()
    put_in_place(tmp_path / "new", tmp_path / "folder")
    assert {*order[:2]} == {"inner", "file"} and order[2:] == ["new", "-> folder", tmp_path.name]


@pytest.mark.parametrize(
    "fill", [lambda full: full.write(b"text"), lambda full: torch.save(torch.zeros(9**5), full)]
)
def test_a_full_disk_is_one_line_with_the_path(tmp_path, fill):
    """A write of Python names no path, and torch.save raises an error about its own format."""

    def write(part):
        with open("/dev/full", "wb") as full:
            fill(full)

    with pytest.raises(OSError, match="a.json cannot be written: no space left on the disk$"):
        write_atomically(tmp_path / "a.json", write)


def test_what_can_be_written_is_checked_without_a_trace(tmp_path, monkeypatch):
    check_writable(tmp_path / "a.json")
    (tmp_path / "b.json").write_text("old")
    check_writable(tmp_path / "b.json")
    assert [path.name for path in tmp_path.iterdir()] == ["b.json"]
    with pytest.raises(OSError, match=f"{tmp_path} is a folder"):
        check_writable(tmp_path)
    with pytest.raises(OSError, match="/dev/null is no file"):
        check_writable(Path("/dev/null"))
    with pytest.raises(FileNotFoundError, match="c.json: there is no folder .*b.json"):
        check_writable(tmp_path / "b.json" / "c.json")
    with pytest.raises(OSError, match="cannot be written: File name too long"):
        check_writable(tmp_path / ("n" * 240 + ".png"))

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(OSError, match="a.json cannot be written: Permission denied"):
        check_writable(tmp_path / "a.json")


@pytest.mark.parametrize("name", ["vg1.2-val-epoch3", "Bilder_ü 中 (1)", "a+b=c@d,e [f]"])
def test_common_names_are_files_names(name):
    assert file_stem(name) == name


def test_names_of_any_characters_and_length_become_files(tmp_path):
    names = [
        "../../etc/passwd",
        "a/b",
        "a%2Fb",
        ".hidden",
        "a\0b",
        "\n",
        "*?",
        "x" * 300,
        "x" * 301,
    ]
    names += ["中" * 200, "\ud83d", "a:b", ".", ".."]
    stems = [file_stem(name) for name in names]
    assert len(set(stems)) == len(names)
    for stem in stems:
        path = tmp_path / f"{stem}-with-a-suffix.jsonl.part"
        path.write_text(stem)
        assert path.parent == tmp_path and not path.name.startswith(".")
