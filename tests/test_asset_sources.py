"""Assets from their own source, a mirror and a folder: whole, checked, recorded."""

import hashlib
import io
import json
import subprocess
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dynrefer.asset_sources import fetch, read_record, verify
from dynrefer.assets import Asset
from dynrefer.transfers import DownloadError
from tests.file_server import Answer, FileServer, file_server

ONE = Asset("tower", "weights/tower.pth", "a tower", "MIT", ("model.vision.checkpoint",))
FOLDER = replace(ONE, name="t5", target="weights/t5", repository="google/t5")
PIECES = {
    "config.json": b"{}",
    "spiece.model": b"words" * 100,
    "model-00001-of-00002.safetensors": b"1" * 3000,
    "model-00002-of-00002.safetensors": b"2" * 2000,
    "model.safetensors.index.json": b'{"weight_map": {}}',
}
UNWANTED = {"pytorch_model.bin": b"old", "tf_model.h5": b"tf", "README.md": b"# T5"}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    with file_server() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address + "/")
        yield server


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "weights" / "t5"


def serve_repository(server: FileServer, files: dict[str, bytes], repository: str) -> None:
    """As the Hugging Face hub does; its ids of large files are their sha256."""
    entries = [{"type": "directory", "oid": "0" * 40, "path": "onnx"}]
    for name, content in files.items():
        entry = {"type": "file", "oid": "1" * 40, "size": len(content), "path": name}
        if name.endswith((".safetensors", ".bin", ".pt")):
            entry["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 130}
        entries.append(entry)
        server.files[f"{repository}/resolve/main/{name}"] = content
    server.files[f"api/models/{repository}/tree/main"] = json.dumps(entries).encode()


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_repository_becomes_a_folder(server, target):
    serve_repository(server, PIECES | UNWANTED, "google/t5")
    digests = fetch(FOLDER, target)
    assert contents(target) == PIECES
    assert digests == {f"t5/{name}": sha256(content) for name, content in PIECES.items()}
    assert sorted(file.name for file in target.parent.iterdir()) == ["t5", "t5.sha256"]
    checked = subprocess.run(
        ["sha256sum", "-c", "t5.sha256"], cwd=target.parent, capture_output=True
    )
    assert checked.returncode == 0


def test_weights_of_torch_where_there_are_no_safetensors(server, target):
    files = {"config.json": b"{}", "pytorch_model.bin": b"weights", "tokenizer.model": b"words"}
    serve_repository(server, files | {"flax_model.msgpack": b"flax"}, "google/t5")
    fetch(FOLDER, target)
    assert contents(target) == files


def test_only_some_files_of_a_repository(server, target):
    files = {"open_clip_config.json": b"{}", "open_clip_model.safetensors": b"clip"}
    serve_repository(server, files | {"model.safetensors": b"timm"}, "google/t5")
    fetch(replace(FOLDER, only="open_clip"), target)
    assert contents(target) == files


def test_one_file_of_a_repository(server, tmp_path):
    serve_repository(server, {"clip.pt": b"weights", "other.pt": b"other"}, "BAAI/EVA")
    asset = replace(ONE, repository="BAAI/EVA", file="clip.pt")
    target = tmp_path / "weights" / "clip.pt"
    assert fetch(asset, target) == {"clip.pt": sha256(b"weights")}
    assert target.read_bytes() == b"weights"
    with pytest.raises(DownloadError, match="BAAI/EVA has no file gone.pt"):
        fetch(replace(asset, file="gone.pt"), tmp_path / "gone.pt")


def test_a_folder_is_there_only_when_it_is_whole(server, target):
    serve_repository(server, PIECES, "google/t5")
    shard = "google/t5/resolve/main/model-00002-of-00002.safetensors"
    content = server.files.pop(shard)
    with pytest.raises(DownloadError, match="says 404"):
        fetch(FOLDER, target)
    assert not target.exists() and (target.parent / "t5.part" / "config.json").exists()
    server.files[shard] = content
    server.requests.clear()
    fetch(FOLDER, target)
    names = [path.rpartition("/")[2] for path, _ in server.requests]
    assert names == ["main", *sorted(PIECES)[2:]]  # what was there is not fetched again
    assert contents(target) == PIECES


def test_a_piece_that_was_damaged_meanwhile_is_fetched_again(server, target):
    serve_repository(server, PIECES, "google/t5")
    first = target.parent / "t5.part" / "model-00001-of-00002.safetensors"
    first.parent.mkdir(parents=True)
    first.write_bytes(b"x" * 3000)
    fetch(FOLDER, target)
    assert contents(target) == PIECES


def test_a_server_that_sends_another_file_than_the_hub_lists(server, target):
    serve_repository(server, PIECES, "google/t5")
    server.files["google/t5/resolve/main/model-00001-of-00002.safetensors"] = b"3" * 3000
    with pytest.raises(DownloadError, match="is not the published file: sha256"):
        fetch(FOLDER, target)
    assert not target.exists()


@pytest.mark.parametrize("listing", [b"<html>", b"{}", b"[1]", b'{"error": "gated"}', b"[]"])
def test_a_listing_that_is_none(server, target, listing):
    server.files["api/models/google/t5/tree/main"] = listing
    with pytest.raises(DownloadError, match="is no list of files|has no files"):
        fetch(FOLDER, target)
    assert not target.exists()


def test_a_mirror_is_a_copy_of_what_was_fetched(server, target, tmp_path):
    for name, content in PIECES.items():
        server.files[f"copy/t5/{name}"] = content
    record = "".join(f"{sha256(c)}  t5/{name}\n" for name, c in PIECES.items())
    server.files |= {"copy/t5.sha256": record.encode(), "copy/tower.pth": b"tower"}
    fetch(FOLDER, target, mirror=server.url("copy/"))
    assert contents(target) == PIECES
    asset = replace(ONE, url="http://nowhere.invalid/tower.pth", sha256=sha256(b"tower"))
    fetch(asset, tmp_path / "tower.pth", mirror=server.url("copy"))
    assert (tmp_path / "tower.pth").read_bytes() == b"tower"
    assert all(path.startswith("copy/") for path, _ in server.requests)


def test_a_mirror_with_another_file(server, target):
    server.files["t5.sha256"] = f"{'0' * 64}  t5/config.json\n".encode()
    server.files["t5/config.json"] = b"{}"
    with pytest.raises(DownloadError, match="is not the published file"):
        fetch(FOLDER, target, mirror=server.address)
    server.files["t5.sha256"] = b"moved to another place"
    with pytest.raises(DownloadError, match="no list of checksums"):
        fetch(FOLDER, target, mirror=server.address)


def test_files_from_a_local_folder(tmp_path, target):
    source = tmp_path / "stick" / "t5"
    source.mkdir(parents=True)
    for name, content in PIECES.items():
        (source / name).write_bytes(content)
    (source.parent / "tower.pth").write_bytes(b"tower")
    fetch(FOLDER, target, folder=source.parent)
    assert contents(target) == PIECES == contents(source)
    tower = tmp_path / "tower.pth"
    fetch(replace(ONE, page="https://example.org"), tower, folder=source.parent)
    assert tower.read_bytes() == b"tower"
    with pytest.raises(DownloadError, match="no file at .*stick/other.pth"):
        fetch(ONE, tmp_path / "other.pth", folder=source.parent)
    with pytest.raises(DownloadError, match="no folder at .*stick/other"):
        fetch(FOLDER, tmp_path / "other", folder=source.parent)


def test_a_damaged_copy_in_a_local_folder(tmp_path, target):
    source = tmp_path / "stick"
    (source / "t5").mkdir(parents=True)
    (source / "t5" / "config.json").write_bytes(b"{]")
    (source / "t5.sha256").write_text(f"{sha256(b'{}')} *t5/config.json\n")
    with pytest.raises(DownloadError, match="t5/config.json is not the published file"):
        fetch(FOLDER, target, folder=source)
    assert not target.exists()
    (source / "tower.pth").write_bytes(b"towel")
    (source / "tower.pth.sha256").write_text(f"{sha256(b'tower')}  tower.pth\n")
    with pytest.raises(DownloadError, match="tower.pth is not the published file"):
        fetch(ONE, tmp_path / "tower.pth", folder=source)


def archive(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as files:
        files.writestr("ovad/README.md", "about")
        files.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["ovad/ovad.json", "../../ovad.json", "ovad.json"])
def test_a_file_of_a_zip_archive(server, tmp_path, name):
    content = b'{"attributes": []}' * 500
    server.files["ovad.zip"] = archive(name, content)
    asset = replace(ONE, url=server.url("ovad.zip"), member="ovad.json")
    target = tmp_path / "data" / "ovad.json"
    server.answers = [Answer(breaks_after=100)]
    fetch(asset, target)
    assert target.read_bytes() == content
    assert sorted(f.name for f in target.parent.iterdir()) == ["ovad.json", "ovad.json.sha256"]


def test_archives_that_cannot_be_used(server, tmp_path):
    asset = replace(ONE, url=server.url("ovad.zip"), member="ovad.json")
    target = tmp_path / "ovad.json"
    whole = archive("ovad.json", bytes(range(256)) * 100)
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 255
    for content in (b"no archive", archive("other.json", b"{}"), bytes(damaged)):
        server.files["ovad.zip"] = content
        with pytest.raises(DownloadError, match="ovad.zip is no zip archive with ovad.json"):
            fetch(asset, target)
        assert list(tmp_path.iterdir()) == []
    server.files["ovad.zip"] = whole
    fetch(asset, target)


def test_an_error_says_what_to_do_by_hand(server, tmp_path):
    message = (
        "(?s)cannot be fetched by a program.By hand: fetch https://example.org/drive.and put it "
        "at .*weights/tower.pth; or name a folder that holds tower.pth with --from DIR.*"
        "--mirror URL.*HF_ENDPOINT"
    )
    with pytest.raises(DownloadError, match=message):
        fetch(replace(ONE, page="https://example.org/drive"), tmp_path / "weights/tower.pth")
    message = "the files of https://huggingface.co/google/t5/tree/main into a folder"
    with pytest.raises(DownloadError, match=message):
        fetch(FOLDER, tmp_path / "t5")
    asset = replace(ONE, url=server.url("ovad.zip"), member="ovad.json")
    with pytest.raises(DownloadError, match="fetch ovad.json out of http"):
        fetch(asset, tmp_path / "ovad.json")


def test_verifying_what_is_there(tmp_path, target):
    target.mkdir(parents=True)
    (target / "config.json").write_bytes(b"{}")
    assert verify(FOLDER, target) == []  # nothing known: it is recorded
    assert read_record((tmp_path / "weights/t5.sha256").read_text()) == {
        "t5/config.json": sha256(b"{}")
    }
    (target / "config.json").write_bytes(b"{]")
    assert "config.json is not the published file" in verify(FOLDER, target)[0]
    (target / "config.json").unlink()
    assert "No such file" in verify(FOLDER, target)[0]


def test_a_published_checksum_counts_more_than_a_recorded_one(tmp_path):
    file = tmp_path / "tower.pth"
    file.write_bytes(b"other")
    asset = replace(ONE, sha256=sha256(b"tower"))
    assert f"published {asset.sha256}" in verify(asset, file)[0]
    assert f"published {asset.sha256}" in verify(asset, file)[0]  # although it is recorded by now
