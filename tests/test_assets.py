"""The table of published files."""

from pathlib import Path
from urllib.parse import urlparse

import pytest
from omegaconf import OmegaConf

from dynrefer.assets import ASSETS, fetch_hint, find_asset, local_path
from dynrefer.config_schema import Config
from dynrefer.downloads import check
from dynrefer.vocabulary import load_tags
from scripts.download_assets import KEYS
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
    assert check(path, asset.size, asset.sha256, "ram_tag_list") == asset.sha256
    assert len(load_tags(path)) == 4585
