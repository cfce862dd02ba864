"""Writing folders of tensors: shard after shard, whole or not at all, with checksums.

``SHA256SUMS`` in a folder names its files as ``sha256sum -c`` reads them. Files of tensors are
compared with it when they are opened (``dynrefer.checkpoints.files``). Kept text embeddings are not
in it: they hold checksums of their own, and may be made anew.
"""

import errno
import json
import logging
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from dynrefer.checksums import checksum_lines, read_checksums, sha256_of
from dynrefer.files import put_in_place, writing

logger = logging.getLogger(__name__)

MAX_SHARD_BYTES = 2 * 1024**3
CHECKSUMS = "SHA256SUMS"
# The file that people may change by hand, and the folder of files with checksums of their own.
CONFIG, TEXT_EMBEDDINGS = "config.yaml", "text_embeddings"


@contextmanager
def new_folder(directory: Path) -> Iterator[Path]:
    """A folder to fill, which takes its name when it is complete and on the disk, with checksums.

    After an error none is left.

    Raises:
        FileExistsError: there is something of that name that is no empty folder.
        OSError: it cannot be written.
    """
    directory = directory.resolve()
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise FileExistsError(f"{directory} exists and is not an empty folder; choose another name")
    part = directory.with_name(f".{directory.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
    except OSError as error:
        raise OSError(f"{directory} cannot be written: {error}") from error
    try:
        with writing(directory):
            yield part
            _write_checksums(part)
            put_in_place(part, directory)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def verify_folder(directory: Path, without: tuple[str, ...] = ()) -> None:
    """Checks that the files of a folder are there and are what was written.

    A changed ``config.yaml`` is a warning; a folder without checksums passes.

    Args:
        without: ends of names of files that are left out.

    Raises:
        FileNotFoundError, ValueError: the message names the file.
    """
    for name, checksum in read_checksums(directory / CHECKSUMS).items():
        if not name.endswith(without):
            _verify(directory / name, checksum)


def verify_file(path: Path) -> None:
    """Checks one file, where its folder has checksums; see :func:`verify_folder`."""
    if checksum := read_checksums(path.parent / CHECKSUMS).get(path.name):
        _verify(path, checksum)


def _verify(path: Path, checksum: str) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; {CHECKSUMS} beside it names it")
    if sha256_of(path) == checksum:
        return
    if path.name != CONFIG:
        raise ValueError(
            f"{path} is broken: its content is not that whose checksum is in {CHECKSUMS} beside it "
            "(if it was changed on purpose, delete its line there)"
        )
    logger.warning("%s was changed after it was written", path)


def _write_checksums(folder: Path) -> None:
    names = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    kept = sorted(name for name in names if not name.startswith(TEXT_EMBEDDINGS))
    text = checksum_lines({name: sha256_of(folder / name) for name in kept})
    (folder / CHECKSUMS).write_text(text, encoding="utf-8")


def write_tensors(
    folder: Path,
    stem: str,
    tensors: Iterable[tuple[str, Tensor]],
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Writes tensors by name as safetensors, shard after shard; nothing where there are none.

    Where ``tensors`` reads them one by one, memory holds one shard and one tensor more. A tensor
    larger than ``max_shard_bytes`` gets a file of its own.
    """
    shards: list[list[str]] = []
    size = 0
    for shard in _shards(tensors, max_shard_bytes):
        _save(shard, folder / f"{stem}-{len(shards):05d}")
        shards.append(list(shard))
        size += sum(tensor.nbytes for tensor in shard.values())
        shard.clear()  # before the next one is read
    files = [f"{stem}-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    if len(files) == 1:
        files = [f"{stem}.safetensors"]
    for number, file in enumerate(files):
        (folder / f"{stem}-{number:05d}").replace(folder / file)
    if len(files) > 1:
        places = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
        write_json(folder / f"{stem}.safetensors.index.json", index)


def _shards(tensors: Iterable[tuple[str, Tensor]], max_bytes: int) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    for name, tensor in tensors:
        if shard and sum(t.nbytes for t in shard.values()) + tensor.nbytes > max_bytes:
            yield shard
            shard = {}
        shard[name] = tensor.detach().cpu().contiguous()
    if shard:
        yield shard


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(tensors, path)
        path.chmod(mode)  # safetensors makes files that their owner alone can read
    except SafetensorError as error:  # it tells the system's error in its text alone
        number = re.search(r"os error (\d+)", str(error))
        code = int(number[1]) if number else errno.EIO
        raise OSError(code, f"{path.parent} cannot be written: {error}") from error


def write_json(path: Path, content: Any) -> None:
    """Writes a value as JSON, indented."""
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
