"""Downloads from a server that breaks off, repeats and lies, to disks that are full."""

import fcntl
import hashlib
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynrefer import transfers
from dynrefer.downloads import copy, download, read_small, sha256_of
from dynrefer.files import part_of
from dynrefer.transfers import DownloadError, notes_of
from tests.file_server import Answer, FileServer, file_server

CONTENT = random.Random(0).randbytes(100_000)
OTHER = random.Random(1).randbytes(90_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
SIZE = len(CONTENT)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with file_server() as server:
        server.files = {"a.pth": CONTENT}
        yield server


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "weights" / "a.pth"


def get(server: FileServer, target: Path, **options) -> str:
    return download(server.url("a.pth"), target, **{"attempts": 3, "pause": 0.0, **options})


def left_over(target: Path) -> list[str]:
    return sorted(file.name for file in target.parent.iterdir())


def test_a_whole_file(server, target):
    assert get(server, target) == SHA256 == sha256_of(target)
    assert target.read_bytes() == CONTENT and left_over(target) == ["a.pth"]
    assert server.ranges == [None]


def test_a_connection_that_breaks_off_is_gone_on_with(server, target):
    server.answers = [Answer(breaks_after=n) for n in (30_000, 0, 20_000, 1, 10_000)]
    assert get(server, target, size=SIZE, sha256=SHA256) == SHA256
    starts = [None, 30_000, 30_000, 50_000, 50_001, 60_001]
    assert server.ranges == [start and f"bytes={start}-" for start in starts]
    assert target.read_bytes() == CONTENT


def test_without_progress_it_gives_up_and_the_next_call_goes_on(server, target):
    server.answers = [Answer(breaks_after=40_000), *[Answer(breaks_after=0)] * 2]
    with pytest.raises(DownloadError, match="broke off after 40,000 of 100,000 .* 3 attempts"):
        get(server, target)
    assert not target.exists() and part_of(target).read_bytes() == CONTENT[:40_000]
    get(server, target)
    assert server.ranges[-1] == "bytes=40000-"
    assert target.read_bytes() == CONTENT and left_over(target) == ["a.pth"]


@pytest.mark.parametrize("whole", [True, False])
def test_a_part_that_another_program_left(server, target, whole):
    target.parent.mkdir()
    part_of(target).write_bytes(CONTENT if whole else CONTENT[:500])
    assert get(server, target) == SHA256
    assert server.ranges == [f"bytes={SIZE if whole else 500}-"]


@pytest.mark.parametrize(("part", "requests"), [(CONTENT, []), (CONTENT + OTHER, [None])])
def test_a_part_of_the_published_size_or_more(server, target, part, requests):
    target.parent.mkdir()
    part_of(target).write_bytes(part)
    assert get(server, target, size=SIZE) == SHA256
    assert server.ranges == requests


def test_a_server_that_sends_all_again(server, target):
    server.answers = [Answer(breaks_after=60_000), Answer(ignores_range=True, breaks_after=50_000)]
    server.answers += [Answer(ignores_range=True)]
    assert get(server, target) == SHA256
    assert server.ranges == [None, "bytes=60000-", "bytes=50000-"]


def test_a_server_that_sends_another_part(server, target):
    server.answers = [Answer(breaks_after=60_000), Answer(shifts=-7)]
    assert get(server, target) == SHA256
    assert server.ranges == [None, "bytes=60000-", None]


def test_a_server_that_repeats_the_beginning_is_found_out_by_the_checksum(server, target):
    server.answers = [Answer(breaks_after=60_000)]
    with pytest.raises(DownloadError):
        get(server, target, sha256=SHA256, attempts=1)
    server.answers = [Answer(repeats=True)]
    assert get(server, target, sha256=SHA256) == SHA256
    assert server.ranges == [None, "bytes=60000-", None]


@pytest.mark.parametrize("tag_header", ["ETag", "Last-Modified"])
@pytest.mark.parametrize("other", [OTHER, OTHER + CONTENT[:10_000]])
def test_a_file_that_changes_in_between(server, target, other, tag_header):
    server.tag_header = tag_header
    server.answers = [Answer(breaks_after=60_000)]
    with pytest.raises(DownloadError):
        get(server, target, attempts=1)
    server.files["a.pth"] = other
    assert get(server, target) == hashlib.sha256(other).hexdigest()


def test_a_file_that_changes_on_a_server_without_tags(server, target):
    server.tag_header = None
    server.answers = [Answer(breaks_after=60_000)]
    with pytest.raises(DownloadError):
        get(server, target, attempts=1)
    server.files["a.pth"] = OTHER
    assert get(server, target) == hashlib.sha256(OTHER).hexdigest()


def test_a_file_that_became_shorter_than_its_part(server, target):
    target.parent.mkdir()
    part_of(target).write_bytes(CONTENT)
    server.files["a.pth"] = OTHER
    assert get(server, target) == hashlib.sha256(OTHER).hexdigest()


@pytest.mark.parametrize("off", [-1000, 1000])
def test_a_length_that_is_not_the_published_one(server, target, off):
    server.answers = [Answer(length_off=off)]
    message = f"the server's file has {SIZE + off:,} bytes, the published one {SIZE:,}"
    with pytest.raises(DownloadError, match=message):
        get(server, target, size=SIZE)
    assert left_over(target) == [] and len(server.requests) == 1


@pytest.mark.parametrize("off", [-1000, 1000])
def test_a_total_that_is_not_the_published_one(server, target, off):
    server.answers = [Answer(breaks_after=60_000), Answer(total_off=off)]
    with pytest.raises(DownloadError, match="the published one"):
        get(server, target, size=SIZE)
    assert not target.exists()


@pytest.mark.parametrize("off", [-1000, 1000])
def test_a_total_that_changes(server, target, off):
    server.answers = [Answer(breaks_after=60_000), Answer(total_off=off)]
    assert get(server, target) == SHA256
    assert server.ranges == [None, "bytes=60000-", None]


def test_a_length_that_is_too_long(server, target):
    server.answers = [Answer(length_off=1000, ignores_range=True) for _ in range(9)]
    with pytest.raises(DownloadError, match="broke off after 100,000 of 101,000 .* gave up"):
        get(server, target)
    assert not target.exists()


def test_a_length_that_is_too_long_once(server, target):
    server.answers = [Answer(length_off=1000)]
    assert get(server, target) == SHA256
    assert server.ranges == [None, f"bytes={SIZE}-"]


def test_a_length_that_is_too_short_is_found_out_by_the_checksum(server, target):
    server.answers = [Answer(length_off=-1000)]
    with pytest.raises(DownloadError, match=f"not the published file: sha256 .* {SHA256}"):
        get(server, target, sha256=SHA256)
    assert left_over(target) == []


def test_another_file(server, target):
    server.files["a.pth"] = OTHER
    with pytest.raises(DownloadError, match="is not the published file"):
        get(server, target, sha256=SHA256)
    assert left_over(target) == [] and len(server.requests) == 1


def test_more_than_the_published_size(server, target):
    server.answers = [Answer(length="chunked")]
    with pytest.raises(DownloadError, match=r"sends more than the 50,000 bytes"):
        get(server, target, size=50_000)
    assert left_over(target) == []


def test_chunks_that_break_off(server, target):
    server.answers = [Answer(length="chunked", breaks_after=9_000), Answer(length="chunked")]
    assert get(server, target) == SHA256


def test_a_server_that_does_not_say_how_long_the_file_is(server, target):
    server.answers = [Answer(length="none")]
    with pytest.raises(DownloadError, match="does not say how long"):
        get(server, target)
    server.answers = [Answer(length="none", breaks_after=10), Answer(length="none")]
    assert get(server, target, size=SIZE) == SHA256


def test_a_web_page_in_place_of_the_file(server, target):
    server.answers = [Answer(kind="text/html; charset=utf-8")]
    with pytest.raises(DownloadError, match="a web page and not the file"):
        get(server, target)
    assert left_over(target) == []


def test_what_the_server_refuses(server, target):
    with pytest.raises(DownloadError, match="the server says 404"):
        download(server.url("b.pth"), target, pause=0)
    assert len(server.requests) == 1 and left_over(target) == []
    server.answers = [Answer(status=503), Answer(status=429)]
    assert get(server, target) == SHA256


def test_a_server_that_falls_silent(server, target, monkeypatch):
    monkeypatch.setattr(transfers, "TIMEOUT", 0.2)
    server.answers = [Answer(stalls=1.0)]
    assert get(server, target) == SHA256
    assert len(server.requests) == 2


def test_a_server_out_of_reach(tmp_path, monkeypatch):
    with file_server() as server:
        address = server.address
    with pytest.raises(DownloadError, match="cannot be reached: .*refused.*after 2 attempts"):
        download(f"{address}/a", tmp_path / "a", attempts=2, pause=0)
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    with pytest.raises(DownloadError, match="nowhere.invalid/a: cannot be reached"):
        download("http://nowhere.invalid/a", tmp_path / "a")
    assert pauses == []  # a name that nobody knows will not be known in a minute
    with pytest.raises(DownloadError, match="no address"):
        download("nowhere/a", tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seed", range(40))
def test_whatever_the_server_does_the_file_is_right_or_not_there(server, target, seed):
    draw = random.Random(seed)
    for _ in range(draw.randrange(8)):
        answer = Answer()
        for name, value in (
            ("status", draw.choice([500, 503, 429])),
            ("breaks_after", draw.randrange(SIZE)),
            ("ignores_range", True),
            ("repeats", True),
            ("shifts", draw.randrange(-9, 9)),
            ("total_off", draw.randrange(-9, 9)),
            ("length_off", draw.randrange(-9, 9)),
            ("length", draw.choice(["chunked", "none"])),
        ):
            if draw.random() < 0.2:
                setattr(answer, name, value)
        server.answers.append(answer)
    server.tag_header = draw.choice([None, "ETag", "Last-Modified"])
    for _ in range(8):
        try:
            get(server, target, sha256=SHA256)
            break
        except DownloadError:
            assert not target.exists()
    assert target.read_bytes() == CONTENT and left_over(target) == ["a.pth"]


def test_a_disk_that_fills_up(server, target):
    target.parent.mkdir()
    part_of(target).symlink_to("/dev/full")
    with pytest.raises(DownloadError, match="cannot write .*a.pth.part: No space left on device"):
        get(server, target)
    assert not target.exists()


def test_a_disk_without_room_is_seen_before(server, target, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=60_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DownloadError, match="0.0 GB are to come, 0.0 GB are free"):
        get(server, target)
    assert left_over(target) == []
    part_of(target).write_bytes(CONTENT[:50_000])
    assert get(server, target) == SHA256


def test_a_target_that_cannot_be_written(server, tmp_path):
    (tmp_path / "weights").write_text("a file")
    with pytest.raises(DownloadError, match="cannot write .*weights/a.pth.part"):
        get(server, tmp_path / "weights" / "a.pth")
    assert server.requests == []


def test_only_one_process_fetches_a_file(server, target):
    target.parent.mkdir()
    with part_of(target).open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DownloadError, match="another process fetches this file"):
            get(server, target)
    assert get(server, target) == SHA256


def test_notes_that_cannot_be_read_do_no_harm(server, target):
    target.parent.mkdir()
    part_of(target).write_bytes(CONTENT[:500])
    notes_of(part_of(target)).write_text("[")
    assert get(server, target) == SHA256
    assert left_over(target) == ["a.pth"]


def test_copying_a_local_file(tmp_path, target):
    source = tmp_path / "a.pth"
    source.write_bytes(CONTENT)
    assert copy(source, target, SIZE, SHA256) == SHA256
    assert target.read_bytes() == CONTENT and left_over(target) == ["a.pth"]
    source.write_bytes(CONTENT[:-1])
    target.unlink()
    with pytest.raises(DownloadError, match="has 99,999 bytes, the published file has 100,000"):
        copy(source, target, SIZE)
    assert left_over(target) == []


def test_small_files(server):
    server.answers = [Answer(status=500), Answer(breaks_after=3, length="chunked")]
    assert read_small(server.url("a.pth"), pause=0) == CONTENT
    server.answers = [Answer(status=500)] * 2
    with pytest.raises(DownloadError, match="says 500 .* 2 attempts"):
        read_small(server.url("a.pth"), attempts=2, pause=0)
