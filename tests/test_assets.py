"""The table of published files; fetching them from their source, a mirror, a folder."""

import io
import subprocess
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlparse

import pytest
from omegaconf import OmegaConf

from dynrefer.assets import (
    ASSETS,
    Asset,
    DownloadError,
    fetch,
    fetch_hint,
    find_asset,
    local_path,
    verify,
)
from dynrefer.checksums import read_checksums, sha256_of
from dynrefer.config.schema import Config
from dynrefer.vocabulary import load_tags
from scripts.download_assets import KEYS
from tests.file_server import FileServer, file_server
from tests.shared import shared_path

each_asset = pytest.mark.parametrize("asset", ASSETS, ids=[asset.name for asset in ASSETS])


@each_asset
def test_every_asset_has_one_source_a_place_and_keys_that_exist(asset):
    sources = [asset.url, asset.repository, asset.page]
    assert sum(source is not None for source in sources) == 1
    assert urlparse(asset.source).scheme == "https"
    assert asset.target.startswith(("weights/", "data/")) and asset.holds and asset.licence
    assert asset.is_folder == (Path(asset.target).suffix not in (".pth", ".pt", ".txt", ".json"))
    assert asset.keys and set(asset.keys) <= set(KEYS)
    assert (asset.size is None) == (asset.sha256 is None)


def test_names_and_targets_are_told_apart():
    for values in ([asset.name for asset in ASSETS], [Path(a.target).name for a in ASSETS]):
        assert len(set(values)) == len(ASSETS)


def test_every_key_exists():
    schema = OmegaConf.structured(Config)
    for key in KEYS:
        parent, _, last = key.rpartition(".")
        section = OmegaConf.select(schema, parent)
        assert last in section.keys() or parent.endswith("options"), key  # noqa: SIM118


@each_asset
def test_an_asset_is_found_by_what_configurations_call_it(asset):
    for value in (asset.name, asset.target, f"/data/{Path(asset.target).name}", asset.url):
        assert value is None or find_asset(value) is asset
    if asset.is_folder:
        assert find_asset(asset.repository) is asset
        assert find_asset(asset.target + "/") is asset


def test_a_file_of_the_users_own_is_no_asset():
    assert find_asset("output/tower/vision.safetensors") is None
    assert fetch_hint("mine.pth").startswith("; `python scripts/download_assets.py` lists")
    hint = "; `python scripts/download_assets.py eva_vit_g` fetches it to weights/eva_vit_g.pth"
    assert fetch_hint("/elsewhere/eva_vit_g.pth") == hint


def test_urls_and_hub_names_mean_what_was_fetched(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    url = find_asset("eva_vit_g").url
    assert local_path("google/flan-t5-xl") == "google/flan-t5-xl" and local_path(url) == url
    (tmp_path / "weights/flan-t5-xl").mkdir(parents=True)
    (tmp_path / "weights/eva_vit_g.pth").touch()
    assert local_path("google/flan-t5-xl") == "weights/flan-t5-xl"
    assert local_path(url) == "weights/eva_vit_g.pth"
    assert local_path("/elsewhere/eva_vit_g.pth") == "/elsewhere/eva_vit_g.pth"
    (tmp_path / "google/flan-t5-xl").mkdir(parents=True)
    assert local_path("google/flan-t5-xl") == "google/flan-t5-xl"


def test_size_and_checksum_of_the_tag_list_are_right():
    path = shared_path("data/ram_tag_list.txt")
    asset = find_asset("ram_tag_list")
    assert (path.stat().st_size, sha256_of(path)) == (asset.size, asset.sha256)
    assert len(load_tags(path)) == 4585


ONE = Asset("tower", "weights/tower.pth", "a tower", "MIT", ["model.vision.checkpoint"])
FOLDER = replace(ONE, name="t5", target="weights/t5", repository="google/t5")
PIECES = {
    "config.json": b"{}",
    "model-00001-of-00002.safetensors": b"1" * 3000,
    "model-00002-of-00002.safetensors": b"2" * 2000,
    "model.safetensors.index.json": b'{"weight_map": {}}',
    "spiece.model": b"words" * 100,
}
SHARD = "google/t5/resolve/0123456789abcdef0123456789abcdef01234567/" + list(PIECES)[2]
UNWANTED = {"pytorch_model.bin": b"old", "README.md": b"# T5", "onnx/config.json": b"{}"}


def digest(content: bytes) -> str:
    return sha256(content).hexdigest()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(time, "sleep", lambda _: None)  # between attempts
    with file_server() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address + "/")
        yield server


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "weights" / "t5"


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def test_a_repository_becomes_a_folder(server, target):
    server.add_repository(PIECES | UNWANTED, "google/t5")
    digests = fetch(FOLDER, target)
    assert contents(target) == PIECES
    assert digests == {f"t5/{name}": digest(content) for name, content in PIECES.items()}
    assert sorted(file.name for file in target.parent.iterdir()) == ["t5", "t5.sha256"]
    check = ["sha256sum", "-c", "--quiet", "t5.sha256"]
    assert subprocess.run(check, cwd=target.parent, check=False).returncode == 0


def test_which_files_of_a_repository_are_wanted(server, target, tmp_path):
    files = {"config.json": b"{}", "pytorch_model.bin": b"weights", "tokenizer.model": b"words"}
    server.add_repository(files | {"flax_model.msgpack": b"flax"}, "google/t5")
    fetch(FOLDER, target)
    assert contents(target) == files
    clip = {"open_clip_config.json": b"{}", "open_clip_model.safetensors": b"clip"}
    server.add_repository(clip | {"model.safetensors": b"timm"}, "google/t5")
    fetch(replace(FOLDER, only="open_clip"), tmp_path / "clip")
    assert contents(tmp_path / "clip") == clip
    server.add_repository({"clip.pt": b"weights", "other.pt": b"other"}, "BAAI/EVA")
    one = replace(ONE, repository="BAAI/EVA", file="clip.pt")
    assert fetch(one, tmp_path / "mine.pt") == {"mine.pt": digest(b"weights")}
    assert (tmp_path / "mine.pt").read_bytes() == b"weights"
    with pytest.raises(DownloadError, match="tower: BAAI/EVA has no gone.pt\nBy hand: "):
        fetch(replace(one, file="gone.pt"), tmp_path / "gone.pt")


def test_a_folder_is_there_only_when_it_is_whole(server, target):
    server.add_repository(PIECES, "google/t5")
    content = server.files.pop(SHARD)
    with pytest.raises(DownloadError, match="t5: .*"):
        fetch(FOLDER, target)
    assert not target.exists() and (target.parent / "t5.part" / "config.json").exists()
    server.files[SHARD] = content
    server.requests.clear()
    fetch(FOLDER, target)
    fetched = [
        request.rpartition("/")[2]
        for request in server.requests
        if "GET" in request and "tree" not in request
    ]
    assert fetched == ["t5", *list(PIECES)[2:]]  # what was there is not fetched again
    assert contents(target) == PIECES


def test_a_connection_that_breaks_off(server, target, tmp_path):
    server.add_repository(PIECES, "google/t5")
    server.breaks = [10**9, 10**9, 1200]
    fetch(FOLDER, target)
    assert contents(target) == PIECES
    server.files["tower.pth"] = b"tower" * 100
    server.breaks = [30]
    fetch(replace(ONE, url=server.url("tower.pth")), tmp_path / "tower.pth")
    assert (tmp_path / "tower.pth").read_bytes() == b"tower" * 100


def test_another_file_than_the_published_one(server, target, tmp_path):
    server.add_repository(PIECES, "google/t5")
    content, server.files[SHARD] = server.files[SHARD], b"3" * 2000
    with pytest.raises(DownloadError, match=f"not the published file.*{digest(content)}"):
        fetch(FOLDER, target)
    assert not target.exists()
    server.files[SHARD] = content
    fetch(FOLDER, target)
    assert contents(target) == PIECES
    server.files["tower.pth"] = b"tower"
    for wrong in ({"sha256": digest(b"towel")}, {"size": 6}):
        with pytest.raises(DownloadError, match="hash of downloaded file|5 bytes.*published are 6"):
            fetch(replace(ONE, url=server.url("tower.pth"), **wrong), tmp_path / "tower.pth")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["weights"]
    server.files["tower.pth"], server.kind = b"<!DOCTYPE html><p>Log in", "text/html"
    with pytest.raises(DownloadError, match="a web page and not the file"):
        fetch(replace(ONE, url=server.url("tower.pth")), tmp_path / "tower.pth")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["weights"]


@pytest.mark.parametrize("listing", [b"<html>", b"{}", b"[1]", b'{"id": "x", "siblings": []}'])
def test_a_listing_that_is_none(server, target, listing):
    server.files["api/models/google/t5"] = listing
    with pytest.raises(DownloadError, match="^t5: .+\nBy hand: fetch the files of "):
        fetch(FOLDER, target)
    assert list(target.parent.iterdir()) == []


def test_no_network_is_one_line_and_what_to_do(server, target, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("HF_ENDPOINT", "http://nowhere.invalid")
    message = (
        "t5: http://nowhere.invalid: .*[^\n]*\nBy hand: fetch the files of "
        "https://huggingface.co/google/t5/tree/main into a folder\nand put it at .*weights/t5; or "
        "name a folder that holds t5 with --from DIR.*\n.*--mirror URL.*HF_ENDPOINT"
    )
    with pytest.raises(DownloadError, match=message):
        fetch(FOLDER, target)
    asset = replace(ONE, url="http://nowhere.invalid/a.zip", member="ovad.json")
    with pytest.raises(DownloadError, match="tower: .*nowhere.*\nBy hand: fetch ovad.json"):
        fetch(asset, tmp_path / "ovad.json")
    with pytest.raises(DownloadError, match="it cannot be fetched by a program"):
        fetch(replace(ONE, page="https://example.org/drive"), tmp_path / "tower.pth")
    assert capfd.readouterr() == ("", "")
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]


def test_a_mirror_is_a_copy_of_what_was_fetched(server, target, tmp_path):
    for name, content in PIECES.items():
        server.files[f"copy/t5/{name}"] = content
    record = "".join(f"{digest(content)}  t5/{name}\n" for name, content in PIECES.items())
    server.files |= {"copy/t5.sha256": record.encode(), "copy/tower.pth": b"tower"}
    fetch(FOLDER, target, mirror=server.url("copy/"))
    assert contents(target) == PIECES
    asset = replace(ONE, url="http://nowhere.invalid/a.zip", member="a", sha256=digest(b"tower"))
    fetch(asset, tmp_path / "tower.pth", mirror=server.url("copy"))
    assert (tmp_path / "tower.pth").read_bytes() == b"tower"
    server.files["copy/t6.sha256"] = f"{'0' * 64}  t6/config.json\n".encode()
    server.files["copy/t6/config.json"] = b"{}"
    with pytest.raises(DownloadError, match="hash of downloaded file"):
        fetch(FOLDER, tmp_path / "t6", mirror=server.url("copy"))
    server.files["copy/t6.sha256"] = b"moved to another place"
    with pytest.raises(DownloadError, match="lines of a checksum and a file name are expected"):
        fetch(FOLDER, tmp_path / "t6", mirror=server.url("copy"))
    assert all("copy/" in request for request in server.requests)


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
    for asset, name in ((ONE, "other.pth"), (FOLDER, "other")):
        with pytest.raises(DownloadError, match=f"No such file .*stick/{name}"):
            fetch(asset, tmp_path / name, folder=source.parent)
    (source.parent / "t5.sha256").write_text(f"{digest(b'{]')} *t5/config.json\n")
    (source.parent / "tower.pth.sha256").write_text(f"{digest(b'towel')}  tower.pth\n")
    for asset, name in ((ONE, "new/tower.pth"), (FOLDER, "new/t5")):
        with pytest.raises(DownloadError, match="is not the published file"):
            fetch(asset, tmp_path / name, folder=source.parent)
        assert not (tmp_path / name).exists()


def archive(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as files:
        files.writestr("ovad/README.md", "about")
        files.writestr(name, content)
    return buffer.getvalue()


def test_a_file_of_a_zip_archive(server, tmp_path):
    asset = replace(ONE, url=server.url("ovad.zip"), member="ovad.json")
    target = tmp_path / "data" / "ovad.json"
    whole = archive("../../ovad/ovad.json", bytes(range(256)) * 100)
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 255
    for content in (b"no archive", archive("other.json", b"{}"), bytes(damaged)):
        server.files["ovad.zip"] = content
        with pytest.raises(DownloadError, match="ovad.zip is no zip archive with ovad.json"):
            fetch(asset, target)
        assert list(target.parent.iterdir()) == []
    server.files["ovad.zip"] = whole
    fetch(asset, target)
    assert target.read_bytes() == bytes(range(256)) * 100
    assert sorted(f.name for f in target.parent.iterdir()) == ["ovad.json", "ovad.json.sha256"]


def test_a_target_that_cannot_be_written(tmp_path):
    (tmp_path / "weights").write_text("a file")
    (tmp_path / "tower.pth").write_text("tower")
    with pytest.raises(DownloadError, match="tower: .*weights/tower.pth.part"):
        fetch(ONE, tmp_path / "weights" / "tower.pth", folder=tmp_path)


def test_verifying_what_is_there(tmp_path, target):
    target.mkdir(parents=True)
    (target / "config.json").write_bytes(b"{}")
    assert verify(FOLDER, target) == []  # nothing known: it is recorded
    record = tmp_path / "weights/t5.sha256"
    assert read_checksums(record) == {"t5/config.json": digest(b"{}")}
    (target / "config.json").write_bytes(b"{]")
    assert "config.json is not the published file" in verify(FOLDER, target)[0]
    (target / "config.json").unlink()
    assert "No such file" in verify(FOLDER, target)[0]
    file = tmp_path / "tower.pth"
    file.write_bytes(b"other")
    asset = replace(ONE, sha256=digest(b"tower"))
    for _ in range(2):  # the published checksum counts, although another one is recorded by now
        assert digest(b"tower") in verify(asset, file)[0]
