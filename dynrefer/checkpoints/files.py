"""Reading checkpoint files: tensors by name, each read when it is asked for.

Whatever the format, memory holds one tensor at a time besides what the reader keeps; nothing that
a file holds is ever executed.
"""

import argparse
import json
import pathlib
import re
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dynrefer.checkpoints.folders import verify_file

# Parts of a checkpoint folder of our own.
TRAINABLE, FROZEN = "trainable", "frozen"

# In a safetensors file's metadata: parts (first words of own names) that hold what they began with.
UNTRAINED = "untrained"

# What a folder in another format holds, in the order in which they are preferred.
_STEMS = (
    "model.safetensors",
    "pytorch_model.bin",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
    "adapter_model.safetensors",
    "adapter_model.bin",
)

# Keys under which training programs store the state dict.
_STATE_KEYS = ("model", "state_dict", "module", "model_state_dict")
# Levels that wrappers (DistributedDataParallel, torch.compile, FSDP, ...) put into names.
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# Of a run's folder, in the order in which they are preferred.
_RUN_LINKS = ("checkpoints/best", "checkpoints/last", "best", "last")

_NUMPY = ("numpy.core", "numpy._core")
# What stands beside weights in public files and is data: numbers of numpy by both of its names, and
# the arguments of a command line.
_DATA = [np.dtype, np.ndarray, argparse.Namespace, pathlib.PosixPath]
_DATA += [type(np.dtype(kind)) for kind in "?bBhHiIlLefdSU"]
for _function in (np._core.multiarray.scalar, np._core.multiarray._reconstruct):
    _DATA += [(_function, f"{core}.multiarray.{_function.__name__}") for core in _NUMPY]

# Bytes read from a mapped file before it is mapped anew: pages of a mapping count as memory.
_WINDOW = 2**28


class Checkpoint(Mapping[str, Tensor]):
    """Tensors of one or several files by name, without the levels that wrappers put into names.

    ``checkpoint[name]`` reads that tensor into memory of its own; ``described`` reads nothing.
    """

    def __init__(self, path: Path, files: Mapping[str, "_File"]) -> None:
        self.path = path
        self._files = files
        self._stored = {_unwrapped(name): name for name in files}
        if len(self._stored) < len(files):
            raise ValueError(f"{path} holds tensors under several names, such as module.x and x")

    def __getitem__(self, name: str) -> Tensor:
        stored = self._stored[name]
        return self._files[stored].read(stored)

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    @property
    def untrained(self) -> set[str]:
        """Parts of a model of which it says that they have learned nothing."""
        return {part for file in set(self._files.values()) for part in file.untrained}

    def described(self, name: str) -> Tensor:
        """A tensor on meta with the shape of one here, of floating-point numbers where that is.

        Raises KeyError for a name that is not there.
        """
        stored = self._stored[name]
        return self._files[stored].described[stored]

    def without_prefix(self, prefix: str) -> "Checkpoint":
        """The same tensors; names that begin with a prefix lose it."""
        shorter = Checkpoint(self.path, self._files)
        shorter._stored = {name.removeprefix(prefix): at for name, at in self._stored.items()}
        return shorter


def open_checkpoint(path: Path) -> Checkpoint:
    """Opens a checkpoint without reading its tensors.

    Args:
        path: a ``.pth``, ``.pt`` or ``.bin`` file of torch (tensors under "model", "state_dict" or
            "module", or the whole), a ``.safetensors`` file, an index file
            (``*.index.json``), or a folder that holds one of these under its usual name, or our
            own ``trainable`` and ``frozen`` files.

    Raises:
        FileNotFoundError: there is no checkpoint, or a shard is missing.
        ValueError: a file is broken, holds objects that could run code, or is not what the index
            says.
    """
    if path.is_dir():
        path = checkpoint_of_run(path)
        return Checkpoint(path, _folder(path))
    if path.name.endswith(".index.json"):
        return Checkpoint(path, _shards(path))
    return Checkpoint(path, _named(_open_file(path)))


def checkpoint_of_run(path: Path) -> Path:
    """The best checkpoint of a run, or else its last, where that is what a folder holds."""
    if any(path.glob(f"{TRAINABLE}*")):
        return path
    return next((path / link for link in _RUN_LINKS if (path / link).is_dir()), path)


def read_checkpoint(path: Path) -> dict[str, object]:
    """Reads a PyTorch checkpoint without running code that it might hold.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is broken, or holds objects other than tensors and plain containers.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    verify_file(path)
    return _unpickled(path)


def _unpickled(path: Path) -> dict[str, object]:
    try:
        # Files of torch before 1.6 are no zip archives and cannot be mapped.
        mmap = zipfile.is_zipfile(path)
        with torch.serialization.safe_globals(_DATA):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except PermissionError:
        raise
    except Exception as error:  # a damaged stream can make the unpickler raise anything
        unknown = re.search(r"GLOBAL ([\w.]+) was not an allowed", str(error))
        held = f"it holds a {unknown[1]}, and" if unknown else "it is broken, or holds"
        raise ValueError(
            f"{path} is not a readable PyTorch checkpoint: {held} objects other than tensors and "
            "plain data, which could run code, are not read"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; a dictionary is expected")
    return content


class _File(ABC):
    """One file of tensors, by name ``described`` on meta."""

    path: Path
    described: dict[str, Tensor]
    untrained: Sequence[str] = ()

    @abstractmethod
    def read(self, name: str) -> Tensor:
        """The tensor, in memory that nothing else refers to."""


class _SafetensorsFile(_File):
    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # Read, not mapped: what has been copied from a mapping stays in memory beside the copy.
            self._file = safe_open(path, framework="pt", backend="pread")
            slices = {name: self._file.get_slice(name) for name in self._file.keys()}  # noqa: SIM118
            self.described = {
                name: _on_meta(part.get_shape(), "F" in part.get_dtype())
                for name, part in slices.items()
            }
            self.untrained = (self._file.metadata() or {}).get(UNTRAINED, "").split()
        except SafetensorError as error:
            raise ValueError(f"{path} is broken: {error}") from error

    def read(self, name: str) -> Tensor:
        try:
            return self._file.get_tensor(name)
        except SafetensorError as error:
            raise ValueError(f"{self.path} is broken at '{name}': {error}") from error


class _TorchFile(_File):
    def __init__(self, path: Path) -> None:
        self.path = path
        self._mapped = zipfile.is_zipfile(path)
        self._open()
        self.described = {
            name: _on_meta(tensor.shape, tensor.is_floating_point())
            for name, tensor in self._tensors.items()
        }

    def _open(self) -> None:
        self._tensors = _tensors_of(_unpickled(self.path), self.path)
        self._bytes_read = 0

    def read(self, name: str) -> Tensor:
        if not self._mapped:
            return self._tensors[name]
        if self._bytes_read > _WINDOW:
            self._open()
        tensor = self._tensors[name]
        self._bytes_read += tensor.nbytes
        return tensor.clone(memory_format=torch.contiguous_format)


def _open_file(path: Path) -> _File:
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    verify_file(path)
    return (_SafetensorsFile if path.suffix == ".safetensors" else _TorchFile)(path)


def _tensors_of(content: Mapping[str, object], path: Path) -> dict[str, Tensor]:
    """The state dict of a checkpoint: under one of the usual keys, or the whole."""
    key, state = None, content
    for _ in range(3):  # one state dict may lie in another
        if isinstance(state, Mapping) and any(inner in state for inner in _STATE_KEYS):
            key = next(inner for inner in _STATE_KEYS if inner in state)
            state = state[key]
    if not isinstance(state, Mapping):
        kind = type(state).__name__
        raise ValueError(f"{path}: '{key}' holds a {kind}; tensors by name are expected")
    for name, value in state.items():
        if not isinstance(name, str) or not torch.is_tensor(value):
            raise ValueError(f"{path}: '{name}' is no tensor; tensors by name are expected")
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            raise ValueError(f"{path}: '{name}' is sparse, quantised or without data")
    return dict(state)


def _on_meta(shape: Sequence[int], is_floating: bool) -> Tensor:
    dtype = torch.float32 if is_floating else torch.int64
    return torch.empty(tuple(shape), dtype=dtype, device="meta")


def _unwrapped(name: str) -> str:
    return ".".join(level for level in name.split(".") if level not in _WRAPPERS)


def _named(*files: _File) -> dict[str, _File]:
    return {name: file for file in files for name in file.described}


def _folder(path: Path) -> dict[str, _File]:
    for stem in _STEMS:
        if (path / f"{stem}.index.json").is_file():
            return _shards(path / f"{stem}.index.json")
        if (path / stem).is_file():
            return _named(_open_file(path / stem))
    parts = {stem: _own_part(path, stem) for stem in (TRAINABLE, FROZEN)}
    if not parts[TRAINABLE]:
        raise FileNotFoundError(
            f"no checkpoint at {path} ({TRAINABLE}.safetensors is missing, and so are "
            f"{', '.join(_STEMS)} and their index files)"
        )
    return parts[TRAINABLE] | parts[FROZEN]


def _own_part(path: Path, stem: str) -> dict[str, _File]:
    """One file, or shards with an index, or shards whose names tell how many there are."""
    index = path / f"{stem}.safetensors.index.json"
    if index.is_file():
        return _shards(index)
    if (path / f"{stem}.safetensors").is_file():
        return _named(_open_file(path / f"{stem}.safetensors"))
    found = sorted(path.glob(f"{stem}-*.safetensors"))
    if not found:
        return {}
    total = re.fullmatch(rf"{stem}-\d+-of-(\d+)\.safetensors", found[0].name)
    if total is None:
        raise ValueError(f"{found[0]}: a name like '{stem}-00001-of-00002.safetensors' is expected")
    width, count = len(total[1]), int(total[1])
    names = [f"{stem}-{i:0{width}}-of-{total[1]}.safetensors" for i in range(1, count + 1)]
    return _named(*(_shard(path / name, "the names of the others") for name in names))


def _shards(index: Path) -> dict[str, _File]:
    """The files of an index, by tensor name."""
    verify_file(index)
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = {name: str(places[name]) for name in places}
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{index} is no index of shards: a 'weight_map' is expected") from error
    outside = next((name for name in shards.values() if Path(name).name != name), None)
    if outside is not None:
        raise ValueError(f"{index}: '{outside}' is no file beside the index")
    files = {name: _shard(index.parent / name, str(index)) for name in sorted({*shards.values()})}
    for name, shard in shards.items():
        if name not in files[shard].described:
            raise ValueError(f"{index}: '{name}' is said to be in {shard}, which lacks it")
    return {name: files[shard] for name, shard in shards.items()}


def _shard(path: Path, named_by: str) -> _File:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; {named_by} names it as a shard")
    return _open_file(path)
