import json
import logging
import os
import re
import resource
import subprocess
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dynrefer.checkpoints.files import open_checkpoint
from dynrefer.checkpoints.folders import CHECKSUMS, new_folder, verify_folder, write_tensors


def test_one_shard_needs_no_index(tmp_path):
    write_tensors(tmp_path, "x", [("a", torch.arange(3)), ("b", torch.ones(2, 2).t())])
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]
    assert load_file(tmp_path / "x.safetensors")["a"].tolist() == [0, 1, 2]
    write_tensors(tmp_path, "y", [])
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_a_tensor_larger_than_a_shard_gets_a_file_of_its_own(tmp_path):
    tensors = {"a": torch.zeros(10), "b": torch.zeros(100), "c": torch.zeros(10)}
    write_tensors(tmp_path, "x", tensors.items(), max_shard_bytes=80)
    files = [f"x-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    assert [set(load_file(tmp_path / file)) for file in files] == [{"a"}, {"b"}, {"c"}]
    index = json.loads((tmp_path / "x.safetensors.index.json").read_text())
    assert index["weight_map"] == dict(zip("abc", files, strict=True))
    assert index["metadata"] == {"total_size": 480}


def test_memory_holds_one_shard(tmp_path):
    """Tensors are asked for one by one, and forgotten when their shard is written."""
    alive, most = weakref.WeakSet(), 0

    def tensors():
        nonlocal most
        for number in range(12):
            storage = torch.full((100,), float(number)).untyped_storage()
            alive.add(storage)
            most = max(most, len(alive))
            yield f"{number:02d}", torch.tensor([], dtype=torch.float32).set_(storage)
            del storage

    write_tensors(tmp_path, "x", tensors(), max_shard_bytes=800)
    assert most == 3  # a shard of two, and the first of the next
    assert len(list(tmp_path.glob("*.safetensors"))) == 6


def test_who_may_read_them(tmp_path):
    """Whoever may read other new files."""
    (tmp_path / "other").touch()
    write_tensors(tmp_path, "x", [("a", torch.zeros(1))])
    assert (tmp_path / "x.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_what_the_disk_refuses(tmp_path):
    """safetensors has an error class of its own for it."""
    (tmp_path / "x-00000").mkdir()
    with pytest.raises(OSError, match=f"{tmp_path} cannot be written"):
        write_tensors(tmp_path, "x", [("a", torch.zeros(1))])


def test_a_folder_appears_when_it_is_complete(tmp_path):
    with new_folder(tmp_path / "a" / "b") as part:
        (part / "file").write_text("content")
        assert not (tmp_path / "a" / "b").exists()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]
    assert (tmp_path / "a" / "b" / "file").read_text() == "content"


def test_a_folder_is_on_the_disk_before_its_name(tmp_path, monkeypatch):
    """Each file, then the folder, then the name, then the list that holds the name."""
    done = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor):
        done.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def replaced(path, target):
        done.append("rename")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    with new_folder(tmp_path / "a") as part:
        (part / "inner").mkdir()
        (part / "inner" / "file").write_text("content")
    before, after = done[: done.index("rename")], done[done.index("rename") + 1 :]
    assert sorted(before[:-1]) == [CHECKSUMS, "file", "inner"] and before[-1] == ".a.part"
    assert after == [tmp_path.name]


@pytest.fixture
def written(tmp_path):
    with new_folder(tmp_path / "a") as part:
        write_tensors(part, "trainable", [("x", torch.zeros(9)), ("y", torch.ones(5))], 36)
        torch.save({"z": torch.arange(3)}, part / "state.pt")
        for name in ("tags.txt", "tokenizer/words.json", "text_embeddings/kept", "config.yaml"):
            (part / name).parent.mkdir(exist_ok=True)
            (part / name).write_text(f"the {name}")
    return tmp_path / "a"


def test_checksums_of_every_file(written):
    """As the tool of the name reads them; kept embeddings have their own."""
    names = {str(path.relative_to(written)) for path in written.rglob("*") if path.is_file()}
    lines = (written / CHECKSUMS).read_text().splitlines()
    assert {line[66:] for line in lines} == names - {CHECKSUMS, "text_embeddings/kept"}
    subprocess.run(["sha256sum", "--strict", "-c", CHECKSUMS], cwd=written, check=True)
    verify_folder(written)


def test_files_that_were_verified_are_not_again(written):
    """Not what is read of them, as a resumed run does after one process has checked them all."""
    path = written / "trainable-00002-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert open_checkpoint(written, verify=False)["x"].tolist() == [0] * 9
    with pytest.raises(ValueError, match=f"is broken: .*{CHECKSUMS}"):
        open_checkpoint(written)


def overwritten(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncated(path):
    path.write_bytes(path.read_bytes()[:-3])


@pytest.mark.parametrize("damage", [overwritten, truncated, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize(
    "name",
    [
        "trainable-00002-of-00002.safetensors",
        "trainable.safetensors.index.json",
        "state.pt",
        "tags.txt",
        "tokenizer/words.json",
    ],
)
def test_a_damaged_file_is_named(written, name, damage):
    path = written / name
    damage(path)
    message = f"^{re.escape(str(path))} is broken: .*{CHECKSUMS}"
    with pytest.raises(ValueError, match=message):
        verify_folder(written)
    verify_folder(written, without=(name[-5:],))
    if name.startswith("trainable"):
        with pytest.raises(ValueError, match=f"^{re.escape(str(path))} is broken: "):
            open_checkpoint(written)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{path} is missing"):
        verify_folder(written)


def test_what_may_be_changed(written, caplog):
    """The configuration, with a warning; files that are not listed; kept embeddings."""
    for name in ("text_embeddings/kept", "notes.txt"):
        (written / name).write_text("other")
    with caplog.at_level(logging.WARNING):
        verify_folder(written)
        assert caplog.text == ""
        (written / "config.yaml").write_text("other")
        verify_folder(written)
    assert f"{written}/config.yaml was changed after it was written" in caplog.text
    (written / CHECKSUMS).write_text("half a li")
    with pytest.raises(ValueError, match=f"{CHECKSUMS} is broken"):
        verify_folder(written)
    (written / CHECKSUMS).unlink()
    verify_folder(written)
    assert set(open_checkpoint(written)) == {"x", "y"}


def test_what_stops_a_write_is_one_line(tmp_path):
    """A limit in place of a full disk; safetensors tells the system's reason in its text alone."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    message = f"^{tmp_path}/a cannot be written: the limit of file sizes is reached$"
    try:
        with pytest.raises(OSError, match=message), new_folder(tmp_path / "a") as part:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
            write_tensors(part, "x", [("a", torch.zeros(100_000))])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_an_error_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "a") as part:
        (part / "file").write_text("content")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_replaced(tmp_path):
    (tmp_path / ".a.part").mkdir()
    (tmp_path / ".a.part" / "half").write_text("")
    with new_folder(tmp_path / "a") as part:
        assert list(part.iterdir()) == []


def test_folders_with_content_are_left_alone(tmp_path):
    (tmp_path / "a").mkdir()
    with new_folder(tmp_path / "a"):
        pass
    (tmp_path / "a" / "file").write_text("mine")
    for path in (tmp_path / "a", tmp_path / "a" / "file"):
        message = f"{path} exists and is not an empty folder"
        with pytest.raises(FileExistsError, match=message), new_folder(path):
            raise AssertionError("nothing may be written")
    assert (tmp_path / "a" / "file").read_text() == "mine"


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file/a cannot be written: .*Not a directory"):
        new_folder(tmp_path / "file" / "a").__enter__()

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)  # tests may run as root, who may write anywhere
    with pytest.raises(OSError, match="a cannot be written: .*Permission denied"):
        new_folder(tmp_path / "a").__enter__()
