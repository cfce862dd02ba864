"""The published files that DynRefer can use (assets.yaml): finding, fetching, verifying them.

``scripts/download_assets.py`` fetches them; nothing else does. Targets are relative to the working
directory, as the paths of configurations are.
"""

import os
import shutil
import zipfile
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import yaml

from dynrefer.checksums import checksum_lines, read_checksums, sha256_of
from dynrefer.files import part_of, put_in_place, write_text, writing
from dynrefer.progress import Progress

COMMAND = "python scripts/download_assets.py"

# What the names of files begin with that an installed Python package carries.
PACKAGE = "package://"

# Of a repository: small files that are wanted, and weights, of which the first kind that it has is.
_TEXTS = (".json", ".txt", ".model")
_WEIGHTS = (".safetensors", ".bin")

# Bytes and sha256 of a file by its name, None where they are not published.
Published = dict[str, tuple[int | None, str | None]]

# What the network, the disk and libraries raise; ValueError is pooch's for a wrong checksum.
_FAILURES = (OSError, ValueError)


class DownloadError(OSError):
    """A file that cannot be had; the message says what to do by hand."""


@dataclass(frozen=True)
class Asset:
    """One published file, or one folder of a Hugging Face repository.

    Exactly one of ``url``, ``repository`` and ``page`` is set.
    """

    name: str  # what the command line calls it
    target: str  # file or folder that it becomes
    holds: str
    licence: str  # as the source states it
    keys: list[str]  # configuration keys that take it
    url: str | None = None
    repository: str | None = None  # "owner/name" on the Hugging Face hub
    file: str | None = None  # the one wanted of the repository
    only: str = ""  # what names of wanted files begin with, where there are several
    page: str | None = None  # where people fetch it by hand
    member: str | None = None  # of a zip archive at the url
    size: int | None = None  # bytes, where published
    sha256: str | None = None

    @property
    def is_folder(self) -> bool:
        """Whether the target is a folder."""
        return self.repository is not None and self.file is None

    @property
    def source(self) -> str:
        """An address that a person can open."""
        if self.repository is None:
            return self.url or self.page or ""
        base = f"https://huggingface.co/{self.repository}"
        return f"{base}/resolve/main/{self.file}" if self.file else f"{base}/tree/main"


ASSETS: tuple[Asset, ...] = tuple(
    Asset(name, **fields)
    for name, fields in yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text()).items()
)


def find_asset(value: str) -> Asset | None:
    """The asset that a configuration's value means: its name, target, URL, repository or file."""
    for asset in ASSETS:
        if value.rstrip("/") in (asset.name, asset.target, asset.url, asset.repository):
            return asset
    name = Path(value).name
    return next((asset for asset in ASSETS if name == Path(asset.target).name), None)


def local_path(value: str) -> str:
    """Where a value that is a URL or a Hugging Face name was put; other values as they are.

    "google/flan-t5-xl" becomes "weights/flan-t5-xl" where that was fetched and the other is none.
    """
    asset = find_asset(value)
    if asset is None or value not in (asset.url, asset.repository) or Path(value).exists():
        return value
    return asset.target if Path(asset.target).exists() else value


def is_in_package(value: str) -> bool:
    """Whether a value means a file of an installed Python package, which is no path."""
    return value.startswith(PACKAGE)


def fetch_hint(value: str) -> str:
    """The end of the message that a file is missing: the command that fetches it."""
    asset = find_asset(value)
    if asset is None:
        return f"; `{COMMAND}` lists the published files and fetches them"
    return f"; `{COMMAND} {asset.name}` fetches it to {asset.target}"


def fetch(
    asset: Asset, target: Path, folder: Path | None = None, mirror: str | None = None
) -> dict[str, str]:
    """Puts an asset at its target, file or folder, which is there only when whole and checked.

    What arrives lies in a folder ``<target>.part`` until then. Where ``folder``, which holds a copy
    of it, or ``mirror``, the address of such a folder, is given, nothing else is tried. Returns the
    sha256 of each file, by its path relative to the target's folder.

    Raises DownloadError where it cannot be had; the message says what to do by hand.
    """
    work = part_of(target)
    try:
        with writing(target):
            work.mkdir(parents=True, exist_ok=True)
            address = f"{mirror.rstrip('/')}/{quote(target.name)}" if mirror else asset.url
            if folder is not None:
                published = _from_folder(asset, folder / target.name, work)
            elif mirror and asset.is_folder:
                published = _from_mirror(address, work)
            elif asset.repository and not mirror:
                published = _from_hub(asset, work, target.name)
            elif address:
                published = _from_url(asset, address, work / target.name)
            else:
                raise DownloadError("it cannot be fetched by a program")
            digests = {name: _check(work / name, *p, keep=False) for name, p in published.items()}
            shutil.rmtree(work / ".cache", ignore_errors=True)  # huggingface_hub's
            put_in_place(work if asset.is_folder else work / target.name, target)
    except _FAILURES as error:
        reason = (str(error) or repr(error)).splitlines()[0]
        raise DownloadError(f"{asset.name}: {reason}\n{_by_hand(asset, target)}") from error
    finally:
        if target.exists() or not any(file.is_file() for file in work.rglob("*")):
            shutil.rmtree(work, ignore_errors=True)
    if asset.is_folder:
        digests = {f"{target.name}/{name}": digest for name, digest in digests.items()}
    write_text(Path(f"{target}.sha256"), checksum_lines(digests))
    return digests


def _by_hand(asset: Asset, target: Path) -> str:
    """What a person does without a network, or where only a browser can fetch a file."""
    what = f"the files of {asset.source} into a folder" if asset.is_folder else asset.source
    if asset.member:
        what = f"{asset.member} out of {what}"
    return (
        f"By hand: fetch {what}\n"
        f"and put it at {target}; or name a folder that holds {target.name} with --from DIR, its\n"
        "copy on a server with --mirror URL, or another Hugging Face server in HF_ENDPOINT."
    )


def verify(asset: Asset | None, target: Path) -> list[str]:
    """What differs from the published or recorded sha256, a line each; records it where none is."""
    record = Path(f"{target}.sha256")
    if not record.is_file():
        files = [file for file in (target, *sorted(target.rglob("*"))) if file.is_file()]
        digests = {f.relative_to(target.parent).as_posix(): sha256_of(f) for f in files}
        write_text(record, checksum_lines(digests))
    published = asset.sha256 if asset and not asset.is_folder else None
    problems = []
    for name, digest in read_checksums(record).items():
        try:
            _check(target.parent / name, None, published or digest)
        except OSError as error:
            problems.append(str(error))
    return problems


def _from_folder(asset: Asset, source: Path, work: Path) -> Published:
    """Copies what a local folder holds, which may have a record of checksums."""
    digests = read_checksums(Path(f"{source}.sha256"))
    if asset.is_folder:
        shutil.copytree(source, work, dirs_exist_ok=True)
        names = sorted(file.relative_to(source).as_posix() for file in source.rglob("*.*"))
        return {name: (None, digests.get(f"{source.name}/{name}")) for name in names}
    shutil.copyfile(source, work / source.name)
    return {source.name: (asset.size, asset.sha256 or digests.get(source.name))}


def _from_mirror(address: str, work: Path) -> Published:
    """Fetches a copy of a folder; its record of checksums tells which files it has."""
    record = _download(f"{address}.sha256", work / ".sha256")
    digests = read_checksums(record)
    record.unlink()
    for path, digest in digests.items():
        _download(f"{address.rpartition('/')[0]}/{quote(path)}", work / Path(path).name, digest)
    return {Path(path).name: (None, digest) for path, digest in digests.items()}


def _from_url(asset: Asset, address: str, place: Path) -> Published:
    """Fetches a file, or an archive and the one file wanted of it."""
    published = {place.name: (asset.size, asset.sha256)}
    if asset.member is None or address != asset.url:
        _download(address, place, asset.sha256)
        return published
    archive = _download(address, place.with_name("archive"))
    try:
        with zipfile.ZipFile(archive) as content, place.open("wb") as file:
            inside = {Path(name).name: name for name in content.namelist()}
            with content.open(inside[asset.member]) as member:
                shutil.copyfileobj(member, file)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        place.unlink(missing_ok=True)
        raise DownloadError(f"{address} is no zip archive with {asset.member}") from error
    finally:
        archive.unlink()
    return published


def _download(url: str, place: Path, sha256: str | None = None) -> Path:
    """Fetches a file; one with that checksum that lies there stays."""
    import pooch

    pooch.get_logger().setLevel("WARNING")
    bar = Progress(desc=place.name, total=1, unit="B", unit_scale=True)
    store = pooch.create(
        place.parent, "", registry={place.name: sha256}, urls={place.name: url}, retry_if_failed=2
    )
    store.fetch(place.name, downloader=pooch.HTTPDownloader(progressbar=bar))
    with place.open("rb") as file:
        is_page = file.read(64).lstrip().lower().startswith((b"<!doctype html", b"<html"))
    if is_page:
        place.unlink()
        raise DownloadError(f"{url} is a web page and not the file (a login page, a proxy's?)")
    return place


def _from_hub(asset: Asset, work: Path, name: str) -> Published:
    """Fetches what is wanted of a repository; whole files that lie there from before stay."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError

    hub = HfApi(os.environ.get("HF_ENDPOINT", "").rstrip("/") or None, library_name="dynrefer")
    try:
        info = hub.model_info(asset.repository, files_metadata=True, timeout=30)
        files = {file.rfilename: file for file in info.siblings or ()}
        names = _wanted(asset, files)
        options = {"revision": info.sha, "local_dir": work, "tqdm_class": Progress}
        for wanted in names:
            hub.hf_hub_download(asset.repository, wanted, **options)
    except (HTTPError, KeyError, TypeError) as error:  # two for answers of no repository
        raise DownloadError(f"{hub.endpoint}: {error}") from error
    # Large files have their sha256 there; the id of small ones is git's and another.
    published = {n: (files[n].size, files[n].lfs and files[n].lfs.sha256) for n in names}
    if asset.file:
        (work / asset.file).replace(work / name)
        return {name: published[asset.file]}
    return published


def _wanted(asset: Asset, files: Collection[str]) -> list[str]:
    """The names of the files to fetch of a repository."""
    names = [asset.file] if asset.file in files else []
    if not asset.file:
        known = [name for name in files if name.startswith(asset.only) and "/" not in name]
        kinds = {Path(name).suffix for name in known}
        weights = next((suffix for suffix in _WEIGHTS if suffix in kinds), None)
        names = sorted(name for name in known if Path(name).suffix in (weights, *_TEXTS))
    if not names:
        raise DownloadError(f"{asset.repository} has no {asset.file or 'files of a model'}")
    return names


def _check(path: Path, size: int | None, sha256: str | None, keep: bool = True) -> str:
    """The sha256 of a file; raises DownloadError where it is not the published one."""
    found, digest = path.stat().st_size, sha256_of(path)
    if size in (None, found) and sha256 in (None, digest):
        return digest
    if not keep:
        path.unlink()
    raise DownloadError(
        f"{path} is not the published file: {found:,} bytes, sha256 {digest}; published are "
        f"{'any' if size is None else format(size, ',')} bytes, sha256 {sha256 or 'any'}"
    )
