"""Checkpoints of one file or many: tensors by name, each read when it is asked for.

Whatever the format, memory holds one tensor at a time besides what the reader keeps.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from dynrefer.checkpoints.folders import verify_file
from dynrefer.checkpoints.tensor_files import TensorFile, open_file

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

# Levels that wrappers (DistributedDataParallel, torch.compile, FSDP, ...) put into names.
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# Of a run's folder, in the order in which they are preferred.
_RUN_LINKS = ("checkpoints/best", "checkpoints/last", "best", "last")


class Checkpoint(Mapping[str, Tensor]):
    """Tensors of one or several files by name, without the levels that wrappers put into names.

    ``checkpoint[name]`` reads that tensor into memory of its own; ``described`` reads nothing.
    """

    def __init__(self, path: Path, files: Mapping[str, TensorFile]) -> None:
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
        notes = (file.metadata.get(UNTRAINED, "") for file in set(self._files.values()))
        return {part for note in notes for part in note.split()}

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


def open_checkpoint(path: Path, verify: bool = True) -> Checkpoint:
    """Opens a checkpoint without reading its tensors.

    Args:
        path: a ``.pth``, ``.pt`` or ``.bin`` file of torch (tensors under "model", "state_dict" or
            "module", or the whole), a ``.safetensors`` file, an index file
            (``*.index.json``), or a folder that holds one of these under its usual name, or our
            own ``trainable`` and ``frozen`` files.
        verify: whether files of which the folder has checksums are compared with them.

    Raises:
        FileNotFoundError: there is no checkpoint, or a shard is missing.
        ValueError: a file is broken, holds objects that could run code, or is not what the index
            or the checksums say.
    """
    if path.is_dir():
        path = checkpoint_of_run(path)
        files = _folder(path)
    elif path.name.endswith(".index.json"):
        files = _shards(path)
    else:
        files = _named(open_file(path))
    if verify:
        for file in sorted({file.path for file in files.values()}):
            verify_file(file)
    return Checkpoint(path, files)


def checkpoint_of_run(path: Path) -> Path:
    """The best checkpoint of a run, or else its last, where that is what a folder holds."""
    if any(path.glob(f"{TRAINABLE}*")):
        return path
    return next((path / link for link in _RUN_LINKS if (path / link).is_dir()), path)


def _unwrapped(name: str) -> str:
    return ".".join(level for level in name.split(".") if level not in _WRAPPERS)


def _named(*files: TensorFile) -> dict[str, TensorFile]:
    return {name: file for file in files for name in file.described}


def _folder(path: Path) -> dict[str, TensorFile]:
    for stem in _STEMS:
        if (path / f"{stem}.index.json").is_file():
            return _shards(path / f"{stem}.index.json")
        if (path / stem).is_file():
            return _named(open_file(path / stem))
    parts = {stem: _own_part(path, stem) for stem in (TRAINABLE, FROZEN)}
    if not parts[TRAINABLE]:
        raise FileNotFoundError(
            f"no checkpoint at {path} ({TRAINABLE}.safetensors is missing, and so are "
            f"{', '.join(_STEMS)} and their index files)"
        )
    return parts[TRAINABLE] | parts[FROZEN]


def _own_part(path: Path, stem: str) -> dict[str, TensorFile]:
    """One file, or shards with an index, or shards whose names tell how many there are."""
    index = path / f"{stem}.safetensors.index.json"
    if index.is_file():
        return _shards(index)
    if (path / f"{stem}.safetensors").is_file():
        return _named(open_file(path / f"{stem}.safetensors"))
    found = sorted(path.glob(f"{stem}-*.safetensors"))
    if not found:
        return {}
    total = re.fullmatch(rf"{stem}-\d+-of-(\d+)\.safetensors", found[0].name)
    if total is None:
        raise ValueError(f"{found[0]}: a name like '{stem}-00001-of-00002.safetensors' is expected")
    width, count = len(total[1]), int(total[1])
    names = [f"{stem}-{i:0{width}}-of-{total[1]}.safetensors" for i in range(1, count + 1)]
    return _named(*(_shard(path / name, "the names of the others") for name in names))


def _shards(index: Path) -> dict[str, TensorFile]:
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


def _shard(path: Path, named_by: str) -> TensorFile:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; {named_by} names it as a shard")
    return open_file(path)
