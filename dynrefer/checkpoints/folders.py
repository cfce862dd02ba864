"""Writing folders of tensors: shard after shard, whole or not at all."""

import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

MAX_SHARD_BYTES = 2 * 1024**3


@contextmanager
def new_folder(directory: Path) -> Iterator[Path]:
    """A folder to fill, which takes its name when it is complete; after an error none is left.

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
        yield part
        part.replace(directory)
    except BaseException:
        shutil.rmtree(part)
        raise


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
    except SafetensorError as error:
        raise OSError(f"{path.parent} cannot be written: {error}") from error


def write_json(path: Path, content: Any) -> None:
    """Writes a value as JSON, indented."""
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
