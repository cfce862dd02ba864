import pytest

from dynrefer.files import part_of, write_atomically


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
