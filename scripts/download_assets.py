"""Lists the published files that a configuration needs, and fetches those that are missing.

    python scripts/download_assets.py                                    every published file
    python scripts/download_assets.py --cfg-path CONFIG.yaml --list      what a configuration needs
    python scripts/download_assets.py --cfg-path CONFIG.yaml             fetches what is missing
    python scripts/download_assets.py eva_vit_g flan-t5-xl               fetches these
    python scripts/download_assets.py --cfg-path CONFIG.yaml --from DIR  copies them from a folder

Files that arrived whole stay when a download of many is interrupted. The sha256 of each file is
written beside it; `sha256sum -c *.sha256` in that folder, or --verify here, compares it later.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf

from dynrefer.assets import ASSETS, Asset, fetch, find_asset, is_in_package, local_path, verify
from dynrefer.command_line import plain_parser
from dynrefer.config import load_config

# Configuration keys whose values are files or Hugging Face names.
KEYS = (
    "model.pretrained",
    "model.vision.checkpoint",
    "model.text_encoder.options.checkpoint",
    "model.text_encoder.options.tokenizer",
    "model.caption_decoder.language_model",
    "model.caption_decoder.tokenizer",
    "model.vocabulary.tags",
    "model.vocabulary.attributes",
    "model.vocabulary.classes",
    "run.load_ckpt_path",
)


@dataclass(frozen=True)
class Need:
    """A file or folder that a configuration names, and the keys where it does."""

    key: str
    value: str
    asset: Asset | None

    @property
    def target(self) -> Path:
        """Where it has to be: as named, or where a URL or a Hugging Face name is put."""
        if self.asset and self.value in (self.asset.url, self.asset.repository):
            return Path(self.asset.target)
        return Path(self.value)

    @property
    def is_there(self) -> bool:
        """Whether the configuration finds it."""
        if self.asset and self.value == self.asset.repository:
            from huggingface_hub import try_to_load_from_cache

            cached = try_to_load_from_cache(self.value, "config.json")
            return isinstance(cached, str) or Path(local_path(self.value)).exists()
        return self.target.exists()


def needs_of(config: DictConfig) -> list[Need]:
    """What a configuration names, each value once; pip installs what packages carry."""
    keys: dict[str, list[str]] = {}
    for key in KEYS:
        value = OmegaConf.select(config, key)
        for item in value if isinstance(value, ListConfig) else [value]:
            if isinstance(item, str) and item and not is_in_package(item):
                keys.setdefault(item, []).append(key)
    return [Need(", ".join(named_by), item, find_asset(item)) for item, named_by in keys.items()]


def named(name: str) -> Need:
    """A published file by its name; raises ValueError for an unknown one."""
    asset = find_asset(name)
    if asset is None:
        known = ", ".join(asset.name for asset in ASSETS)
        raise ValueError(f"'{name}' is no published file; valid: {known}")
    return Need(", ".join(asset.keys), asset.target, asset)


def show(need: Need) -> None:
    """Prints what it is, whether it is there, and its licence."""
    asset = need.asset
    about = f"{asset.name}: {asset.holds}" if asset else "a file of your own"
    print(f"{'there' if need.is_there else 'missing':8}{need.target}\n        {about}")
    print(f"        for {need.key}" + (f"; licence: {asset.licence}" if asset else ""))


def obtain(need: Need, arguments: argparse.Namespace) -> list[str]:
    """Fetches or verifies one file; returns what went wrong."""
    if need.is_there:
        is_checked = arguments.verify and need.target.exists()
        return verify(need.asset, need.target) if is_checked else []
    if need.asset is None:
        return [f"{need.key}: there is no {need.value}, and no published file of that name"]
    digests = fetch(need.asset, need.target, arguments.source, arguments.mirror)
    for name, digest in digests.items():
        print(f"sha256 {digest}  {need.target.parent / name}")
    return []


def main(arguments: argparse.Namespace) -> int:
    """Lists, fetches and verifies; returns the exit code, 1 where something is not as it should."""
    if arguments.cfg_path:
        needs = needs_of(load_config(arguments.cfg_path, arguments.options))
    else:
        needs = [named(name) for name in arguments.names or [asset.name for asset in ASSETS]]
    for need in needs:
        show(need)
    if arguments.list or not (arguments.cfg_path or arguments.names or arguments.verify):
        return 0
    if not (arguments.cfg_path or arguments.names):
        needs = [need for need in needs if need.is_there]
    problems = []
    for need in needs:
        try:
            problems += obtain(need, arguments)
        except OSError as error:
            problems.append(str(error))
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = plain_parser(__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="published files, by name")
    parser.add_argument("--cfg-path", type=Path, help="YAML file whose files are wanted")
    parser.add_argument("--options", nargs="+", default=[], metavar="KEY=VALUE", help="overrides")
    parser.add_argument("--list", action="store_true", help="only say what is needed")
    parser.add_argument("--verify", action="store_true", help="compare checksums of what is there")
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--from", dest="source", type=Path, metavar="DIR", help="take files here")
    place.add_argument("--mirror", metavar="URL", help="take files here, a copy of such a DIR")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    try:
        sys.exit(main(parse()))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
