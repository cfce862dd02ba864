"""scripts/download_assets.py: what a configuration needs, and fetching it."""

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest

from dynrefer import assets
from dynrefer.assets import ASSETS, find_asset
from dynrefer.config import load_config
from scripts import download_assets
from tests.file_server import FileServer, file_server

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
model:
  pretrained: {url}
  vision: {{checkpoint: ckpts/eva_vit_g.pth}}
  text_encoder: {{name: eva_clip, options: {{checkpoint: weights/eva_clip_psz14.pt}}}}
  caption_decoder: {{language_model: google/flan-t5-xl}}
  vocabulary: {{tags: data/ram_tag_list.txt, attributes: mine.txt, classes: data/ovad2000.json}}
run: {{load_ckpt_path: [weights/vg1.2_5e.pth]}}
"""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FileServer]:
    """A server that stands for all others, the working directory being empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "sleep", lambda _: None)  # between attempts
    with file_server() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        table = [
            replace(asset, url=asset.url and server.url(asset.name), sha256=None, size=None)
            for asset in ASSETS
        ]
        monkeypatch.setattr(assets, "ASSETS", tuple(table))
        monkeypatch.setattr(download_assets, "ASSETS", tuple(table))
        yield server


@pytest.fixture
def config_file(server: FileServer, tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(CONFIG.format(url=server.url("blip2_pretrained_flant5xl")))
    return path


def run(*arguments: str | Path) -> int:
    return download_assets.main(download_assets.parse([str(a) for a in arguments]))


def test_what_a_configuration_needs(config_file):
    needs = download_assets.needs_of(load_config(config_file))
    assert {(need.key, str(need.target), need.asset and need.asset.name) for need in needs} == {
        (
            "model.pretrained",
            "weights/blip2_pretrained_flant5xl.pth",
            "blip2_pretrained_flant5xl",
        ),
        ("model.vision.checkpoint", "ckpts/eva_vit_g.pth", "eva_vit_g"),
        (
            "model.text_encoder.options.checkpoint",
            "weights/eva_clip_psz14.pt",
            "eva_clip_psz14",
        ),
        ("model.caption_decoder.language_model", "weights/flan-t5-xl", "flan-t5-xl"),
        ("model.vocabulary.tags", "data/ram_tag_list.txt", "ram_tag_list"),
        ("model.vocabulary.attributes", "mine.txt", None),
        ("model.vocabulary.classes", "data/ovad2000.json", "ovad2000"),
        ("run.load_ckpt_path", "weights/vg1.2_5e.pth", "vg1.2_5e"),
    }
    assert not any(need.is_there for need in needs)
    twice = load_config(config_file, ["model.vocabulary.attributes=data/ovad2000.json"])
    keys = {need.value: need.key for need in download_assets.needs_of(twice)}
    assert keys["data/ovad2000.json"] == "model.vocabulary.attributes, model.vocabulary.classes"


def test_listing_fetches_nothing(config_file, server, capsys):
    Path("mine.txt").write_text("red\n")
    assert run("--cfg-path", config_file, "--list") == 0
    text = capsys.readouterr().out
    assert "missing weights/flan-t5-xl\n        flan-t5-xl: FLAN-T5-XL and its tokenizer\n" in text
    assert "model.caption_decoder.language_model; licence: Apache-2.0" in text
    assert "there   mine.txt\n        a file of your own\n" in text
    assert run() == 0
    text = capsys.readouterr().out
    assert all(asset.name in text for asset in ASSETS)
    assert server.requests == []


def test_fetching_what_is_missing(config_file, server, capsys):
    server.add_repository({"eva_clip_psz14.pt": b"clip"}, "BAAI/EVA")
    server.add_repository({"config.json": b"{}"}, "google/flan-t5-xl")
    for name in ("blip2_pretrained_flant5xl", "ram_tag_list"):
        server.files[name] = name.encode()
    Path("ckpts").mkdir()
    Path("ckpts/eva_vit_g.pth").write_bytes(b"mine")
    assert run("--cfg-path", config_file) == 1
    errors = capsys.readouterr().err
    assert "error: model.vocabulary.attributes: there is no mine.txt" in errors
    assert "By hand: fetch ovad2000.json out of http" in errors  # the server does not have it
    assert "error: vg1.2_5e: it cannot be fetched by a program" in errors
    assert Path("weights/blip2_pretrained_flant5xl.pth").read_bytes() == (
        b"blip2_pretrained_flant5xl"
    )
    assert Path("ckpts/eva_vit_g.pth").read_bytes() == b"mine"
    assert Path("weights/flan-t5-xl/config.json").is_file()
    server.requests.clear()
    Path("mine.txt").write_text("red\n")
    options = ["--options", "run.load_ckpt_path=null", "model.vocabulary.classes=mine.txt"]
    assert run("--cfg-path", config_file, *options) == 0
    assert server.requests == []  # all is there


def test_names_and_checksums(server, capsys):
    server.files["eva_vit_g"] = b"tower"
    assert run("eva_vit_g") == 0
    assert f"{Path('weights/eva_vit_g.pth')}\n" in capsys.readouterr().out
    assert run("eva_vit_g", "--verify") == run("--verify") == 0
    Path("weights/eva_vit_g.pth").write_bytes(b"towel")
    assert run("--verify") == 1
    assert "weights/eva_vit_g.pth is not the published file" in capsys.readouterr().err
    with pytest.raises(ValueError, match="'eva_vit' is no published file; valid: blip2_pretrained"):
        run("eva_vit")


def test_from_a_folder_and_from_a_mirror(server, tmp_path):
    stick = tmp_path / "stick"
    stick.mkdir()
    (stick / "vg1.2_5e.pth").write_bytes(b"trained")
    assert run("vg1.2_5e", "--from", stick) == 0
    assert Path("weights/vg1.2_5e.pth").read_bytes() == b"trained"
    server.files["copy/eva_vit_g.pth"] = b"tower"
    assert run("eva_vit_g", "--mirror", server.url("copy")) == 0
    assert Path("weights/eva_vit_g.pth").read_bytes() == b"tower"
    with pytest.raises(SystemExit):
        run("eva_vit_g", "--mirror", "x", "--from", "y")


def test_a_language_model_in_the_hugging_face_cache_is_there(config_file, monkeypatch):
    calls = []
    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda *a: calls.append(a) or "/cache/config"
    )
    needs = {need.value: need for need in download_assets.needs_of(load_config(config_file))}
    assert needs["google/flan-t5-xl"].is_there
    assert calls == [("google/flan-t5-xl", "config.json")]
    assert not needs["weights/eva_clip_psz14.pt"].is_there


def test_as_a_script(tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text(CONFIG.format(url=find_asset("blip2_pretrained").url))
    script = [sys.executable, str(ROOT / "scripts/download_assets.py")]
    listed = subprocess.run(
        [*script, "--cfg-path", str(config), "--list"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert listed.returncode == 0 and listed.stdout.count("missing") == 8, listed.stderr
    wrong = subprocess.run(
        [*script, "nothing"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: 'nothing' is no published")
