import pytest

from dynrefer.files import part_of, whole_file, write_atomically


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
