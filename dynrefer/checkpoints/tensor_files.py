"""One file of tensors, of torch or of safetensors, read tensor by tensor.

Nothing that a file holds is ever executed.
"""

import argparse
import pathlib
import re
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

# Keys under which training programs store the state dict.
_STATE_KEYS = ("model", "state_dict", "module", "model_state_dict")

_NUMPY = ("numpy.core", "numpy._core")
# What stands beside weights in public files and is data: numbers of numpy by both of its names, and
# the arguments of a command line.
_DATA = [np.dtype, np.ndarray, argparse.Namespace, pathlib.PosixPath]
_DATA += [type(np.dtype(kind)) for kind in "?bBhHiIlLefdSU"]
for _function in (np._core.multiarray.scalar, np._core.multiarray._reconstruct):
    _DATA += [(_function, f"{core}.multiarray.{_function.__name__}") for core in _NUMPY]

# Bytes read from a mapped file before it is mapped anew: pages of a mapping count as memory.
_WINDOW = 2**28


def read_checkpoint(path: Path) -> dict[str, object]:
    """Reads a PyTorch checkpoint without running code that it might hold.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is broken, or holds objects other than tensors and plain containers.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
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


class TensorFile(ABC):
    """One file of tensors, by name ``described`` on meta, and the texts that it holds besides."""

    path: Path
    described: dict[str, Tensor]
    metadata: Mapping[str, str] = MappingProxyType({})

    @abstractmethod
    def read(self, name: str) -> Tensor:
        """The tensor, in memory that nothing else refers to."""


class _SafetensorsFile(TensorFile):
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
            self.metadata = self._file.metadata() or {}
        except SafetensorError as error:
            raise ValueError(f"{path} is broken: {error}") from error

    def read(self, name: str) -> Tensor:
        try:
            return self._file.get_tensor(name)
        except SafetensorError as error:
            raise ValueError(f"{self.path} is broken at '{name}': {error}") from error


class _TorchFile(TensorFile):
    def __init__(self, path: Path) -> None:
        self.path = path
        self._mapped = zipfile.is_zipfile(path)
        self._open()
        self.described = {
            name: _on_meta(tensor.shape, tensor.is_floating_point())
            for name, tensor in self._tensors.items()
        }

    def _open(self) -> None:
        self._tensors = _tensors_of(read_checkpoint(self.path), self.path)
        self._bytes_read = 0

    def read(self, name: str) -> Tensor:
        if not self._mapped:
            return self._tensors[name]
        if self._bytes_read > _WINDOW:
            self._open()
        tensor = self._tensors[name]
        self._bytes_read += tensor.nbytes
        return tensor.clone(memory_format=torch.contiguous_format)


def open_file(path: Path) -> TensorFile:
    """Opens a file of tensors without reading them; raises what :func:`read_checkpoint` raises."""
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
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
