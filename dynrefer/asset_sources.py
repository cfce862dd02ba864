"""Where the files of an asset are taken from: its own source, a mirror, or a local folder."""

import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from dynrefer.assets import Asset
from dynrefer.downloads import check, copy, download, read_small, sha256_of
from dynrefer.files import part_of, write_atomically
from dynrefer.transfers import DownloadError, writing

# Files of a Hugging Face repository that are wanted; of the weights the first kind that it has.
_WEIGHTS = (".safetensors", ".bin")
_TEXTS = (".json", ".txt", ".model")


@dataclass(frozen=True)
class Piece:
    """One file to take: its name in the asset's folder, "" for an asset of one file."""

    name: str
    location: str
    size: int | None = None
    sha256: str | None = None


def fetch(
    asset: Asset, target: Path, folder: Path | None = None, mirror: str | None = None
) -> dict[str, str]:
    """Puts an asset at its target.

    Args:
        target: file or folder to make; a folder is there only when all of its files are.
        folder: holds a copy of it; nothing else is tried then.
        mirror: address of a copy of such a folder; nothing else is tried then.

    Returns:
        sha256 of each file, by its path relative to the target's folder.

    Raises:
        DownloadError: it cannot be had; the message says what to do by hand.
    """
    try:
        if asset.is_folder:
            digests = _fetch_folder(asset, target, folder, mirror)
        elif asset.member and not (folder or mirror):
            digests = {target.name: _fetch_member(asset, target)}
        else:
            digests = {target.name: _take(next(_pieces(asset, target, folder, mirror)), target)}
        _record(target, digests)
    except DownloadError as error:
        raise DownloadError(f"{error}\n{by_hand(asset, target)}") from error
    return digests


def by_hand(asset: Asset, target: Path) -> str:
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
    """Compares a file or folder with the published or recorded sha256; records it where none is.

    Returns:
        What is wrong, a line each.
    """
    record = _record_of(target)
    if not record.is_file():
        files = sorted(f for f in target.rglob("*") if f.is_file()) if target.is_dir() else [target]
        names = [file.relative_to(target.parent).as_posix() for file in files]
        _record(target, dict(zip(names, map(sha256_of, files), strict=True)))
    problems = []
    for name, digest in read_record(record.read_text()).items():
        published = asset.sha256 if asset and not asset.is_folder else None
        try:
            check(target.parent / name, None, published or digest, str(target.parent / name))
        except OSError as error:
            problems.append(str(error))
    return problems


def read_record(text: str) -> dict[str, str]:
    """sha256 by file name, of what sha256sum or this module wrote; raises DownloadError."""
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    if not all(len(words) == 2 and len(words[0]) == 64 for words in lines):
        raise DownloadError(f"no list of checksums: {text[:80]!r}")
    return {name.lstrip("*"): digest for digest, name in lines}


def _record_of(target: Path) -> Path:
    return target.with_name(target.name + ".sha256")


def _record(target: Path, digests: dict[str, str]) -> None:
    """Writes checksums as sha256sum does, beside the file or folder."""
    record = _record_of(target)
    with writing(record):
        text = "".join(f"{digest}  {name}\n" for name, digest in digests.items())
        write_atomically(record, lambda part: part.write_text(text))


def _fetch_folder(
    asset: Asset, target: Path, folder: Path | None, mirror: str | None
) -> dict[str, str]:
    work, digests = part_of(target), {}
    for piece in _pieces(asset, target, folder, mirror):
        place = work / piece.name
        is_whole = place.exists()
        digest = sha256_of(place) if is_whole else _take(piece, place)
        if is_whole and piece.sha256 not in (None, digest):
            digest = _take(piece, place)
        digests[f"{target.name}/{piece.name}"] = digest
    if not digests:
        raise DownloadError(f"{asset.name} has no files there")
    with writing(target):
        work.replace(target)
    return digests


def _fetch_member(asset: Asset, target: Path) -> str:
    """Takes one file out of a zip archive; returns its sha256."""
    archive = target.with_name(f"{target.name}.zip")
    if not archive.exists():
        download(asset.url, archive)
    try:
        with zipfile.ZipFile(archive) as content, writing(target):
            names = [name for name in content.namelist() if Path(name).name == asset.member]
            with content.open(names[0]) as source, part_of(target).open("wb") as place:
                shutil.copyfileobj(source, place)
    except (zipfile.BadZipFile, zlib.error, EOFError, IndexError) as error:
        archive.unlink()
        part_of(target).unlink(missing_ok=True)
        raise DownloadError(f"{asset.url} is no zip archive with {asset.member}") from error
    digest = check(part_of(target), asset.size, asset.sha256, f"{asset.member} in {asset.url}")
    part_of(target).replace(target)
    archive.unlink()
    return digest


def _take(piece: Piece, target: Path) -> str:
    if "://" in piece.location:
        return download(piece.location, target, piece.size, piece.sha256)
    if not Path(piece.location).is_file():
        raise DownloadError(f"no file at {piece.location}")
    return copy(Path(piece.location), target, piece.size, piece.sha256)


def _pieces(asset: Asset, target: Path, folder: Path | None, mirror: str | None) -> Iterator[Piece]:
    if folder is not None:
        return _local_pieces(asset, folder / target.name)
    if mirror is not None:
        return _mirror_pieces(asset, f"{mirror.rstrip('/')}/{quote(target.name)}")
    if asset.repository is not None:
        return _hub_pieces(asset)
    if asset.url is not None:
        return iter([Piece("", asset.url, asset.size, asset.sha256)])
    raise DownloadError(f"{asset.name} cannot be fetched by a program")


def _local_pieces(asset: Asset, source: Path) -> Iterator[Piece]:
    record = _record_of(source)
    digests = read_record(record.read_text()) if record.is_file() else {}
    if not asset.is_folder:
        yield Piece("", str(source), asset.size, asset.sha256 or digests.get(source.name))
    elif not source.is_dir():
        raise DownloadError(f"no folder at {source}")
    else:
        for file in sorted(file for file in source.iterdir() if file.is_file()):
            yield Piece(file.name, str(file), None, digests.get(f"{source.name}/{file.name}"))


def _mirror_pieces(asset: Asset, base: str) -> Iterator[Piece]:
    """A copy of what this module has made; the record of a folder tells which files it has."""
    if not asset.is_folder:
        yield Piece("", base, asset.size, asset.sha256)
        return
    for path, digest in read_record(read_small(f"{base}.sha256").decode(errors="replace")).items():
        name = Path(path).name
        yield Piece(name, f"{base}/{quote(name)}", None, digest)


def _hub_pieces(asset: Asset) -> Iterator[Piece]:
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    listing = f"{endpoint}/api/models/{asset.repository}/tree/main"
    try:
        entries = {entry["path"]: entry for entry in json.loads(read_small(listing))}
    except (ValueError, TypeError, KeyError) as error:
        raise DownloadError(f"{listing} is no list of files: {error!r}") from error
    names = [asset.file] if asset.file else [name for name in entries if _is_wanted(asset, name)]
    kinds = {Path(name).suffix for name in names}
    weights = next((suffix for suffix in _WEIGHTS if suffix in kinds), None)
    for name in sorted(names):
        if name not in entries:
            raise DownloadError(f"{asset.repository} has no file {name}")
        if not asset.file and Path(name).suffix not in (weights, *_TEXTS):
            continue
        url = f"{endpoint}/{asset.repository}/resolve/main/{quote(name)}"
        # Large files have their sha256 as id there; that of small ones is git's and another.
        digest = (entries[name].get("lfs") or {}).get("oid")
        yield Piece("" if asset.file else name, url, entries[name].get("size"), digest)


def _is_wanted(asset: Asset, name: str) -> bool:
    return name.startswith(asset.only) and Path(name).suffix in (*_WEIGHTS, *_TEXTS)
