"""Tries what can end a training run, and compares it with the run that nothing ended.

python scripts/check_survival.py [--kills 25] [--kills-of-two 10] [--damages 10] [--signals 9]
    [--power-cuts 4] [--out output/survival]

A small model trains on a small shapes world. Runs of one and of two processes are killed at random
moments, in training, while a checkpoint is written and in evaluations; newest checkpoints are
damaged; runs get SIGTERM or SIGINT; the disk is copied as a power cut would leave it (by a loop
device, which needs root); a second run enters a folder. After each the same command, with
run.resume=auto, goes on, and every weight, moment, random number and log line must be that of the
uninterrupted run. The last line says how many survived; the exit code is 1 where one did not.
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dynrefer.command_line import plain_parser

MODEL = """
model:
  image_size: 32
  vision:
    name: vit_tiny_patch16_224
    drop_last_blocks: 0
    options: {patch_size: 8, embed_dim: 64, depth: 1, num_heads: 2}
    freeze: false
    precision: fp32
  qformer: {num_query_tokens: 4, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2,
            intermediate_size: 64, freeze_query_tokens: false}
  tag_decoder: {width: 32, heads: 2, layers: 1, intermediate: 64}
  region_text_decoder: {width: 32, heads: 2, layers: 1, intermediate: 64}
  text_encoder: {name: word_features, options: {width: 32}}
  caption_decoder:
    config: {d_model: 32, d_kv: 8, d_ff: 64, num_heads: 2, num_layers: 1}
    tokenizer: WORLD/tokenizer
    freeze: false
    precision: fp32
  vocabulary: {tags: WORLD/tags.txt, attributes: WORLD/attributes.json, classes: WORLD/classes.json}
datasets:
  shapes:
    build_info:
      annotations: {train: [WORLD/train.json], val: [WORLD/val.json], test: [WORLD/test.json]}
run:
  tasks: [attribute_detection, region_recognition]
  batch_size_train: 4
  batch_size_eval: 4
  num_workers: 0
  max_epoch: 3
  warmup_steps: 5
  init_lr: 1.0e-3
  save_every: 3
  log_freq: 1
  report_regions: 0
  precision: fp32
  device: cpu
  threads: 1
  resume: auto
  test_splits: [test]
"""
CONFIG = "run.yaml"
LIMIT = 300  # seconds that a run may take
IMAGE_MEGABYTES = 96  # of the disk that loses power

processes = multiprocessing.get_context("forkserver")  # it imports the libraries once
processes.set_forkserver_preload(["dynrefer.runners.entry", "transformers"])


class Run:
    """A training run in processes of its own: a group as torchrun starts it, or one alone."""

    def __init__(self, config: Path, folder: Path, size: int, workers: int = 0) -> None:
        self.folder, self.told = folder, folder.with_name(f"{folder.name}.txt")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        options = [
            f"run.output_dir={folder}",
            f"run.batch_size_train={4 // size}",
            f"run.num_workers={workers}",
        ]
        self.ranks = []
        for rank in range(size):
            group = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
            address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            given = {**group, **address} if size > 1 else {}
            self.ranks.append(
                processes.Process(target=_train, args=(config, options, given, self.told))
            )
        for rank in self.ranks:
            rank.start()

    def kill(self, rng: random.Random) -> None:
        """Kills one of the processes, and a moment later, as torchrun does, the others."""
        for rank in rng.sample(self.ranks, len(self.ranks)):
            rank.kill()
            time.sleep(rng.uniform(0, 0.05))
        self.end()

    def send(self, number: int) -> None:
        """Sends a signal to every process."""
        for rank in self.ranks:
            if rank.is_alive():
                os.kill(rank.pid, number)

    def end(self) -> list[int]:
        """Waits for all processes; returns how they ended."""
        limit = time.monotonic() + LIMIT
        for rank in self.ranks:
            rank.join(max(limit - time.monotonic(), 1))
            if rank.is_alive():
                rank.kill()
                rank.join()
                print(f"{self.folder}: still running after {LIMIT} s")
        return [rank.exitcode for rank in self.ranks]

    @property
    def is_alive(self) -> bool:
        return any(rank.is_alive() for rank in self.ranks)

    def wait_until(self, reached: Callable[[], bool]) -> None:
        """Waits for something to happen in the folder, or for the run's end."""
        while self.is_alive and not reached():
            time.sleep(0.001)


def _train(config: Path, options: list[str], environment: dict[str, str], told: Path) -> None:
    from dynrefer.command_line import entry_point
    from dynrefer.runners.entry import train_main

    multiprocessing.set_start_method("fork", force=True)  # of a loader's workers, as by itself
    os.environ.update(environment)
    with told.open("a") as out:
        for stream in (1, 2):
            os.dup2(out.fileno(), stream)
    entry_point(train_main, argparse.Namespace(cfg_path=config, options=options))


class Check:
    """Compares runs with the uninterrupted ones and counts what survived."""

    def __init__(self, out: Path, seed: int) -> None:
        from dynrefer.datasets.shapes import make_shapes

        self.out, self.rng = out.resolve(), random.Random(seed)
        shutil.rmtree(out, ignore_errors=True)
        make_shapes(self.out / "world", 12, 4, 3, progress=False)
        self.config = self.out / CONFIG
        self.config.write_text(MODEL.replace("WORLD", str(self.out / "world")))
        self.seconds: dict[int, float] = {}
        self.survived = self.tried = 0

    def start(self, name: str, size: int = 1, workers: int = 0, folder: Path | None = None) -> Run:
        """Starts the command in a folder of that name, or has it go on there."""
        return Run(self.config, (folder or self.out) / name, size, workers)

    def reference(self, size: int) -> Path:
        """The folder of the uninterrupted run of so many processes; the first call makes it."""
        folder = self.out / f"whole-{size}"
        if size not in self.seconds:
            began = time.perf_counter()
            if any(self.start(folder.name, size).end()):
                raise RuntimeError(f"the uninterrupted run fails: {folder}.txt")
            self.seconds[size] = time.perf_counter() - began
        return folder

    def count(self, what: str, fault: str, number: int = 1) -> None:
        """Counts ``number`` trials; an empty ``fault`` means that they were survived."""
        self.tried += number
        self.survived += 0 if fault else number
        print(f"{what}: {fault or 'the same run'}", flush=True)

    def finish(self, run: Run, size: int = 1) -> str:
        """Has a run go on to its end; returns what differs from the uninterrupted one."""
        codes = self.start(run.folder.name, size, folder=run.folder.parent).end()
        if any(codes):
            return f"exit codes {codes}; see {run.told}"
        return difference(self.reference(size), run.folder)

    def kills(self, number: int, size: int) -> None:
        """SIGKILL again and again, until the run is through or ``number`` is reached."""
        self.reference(size)
        done = chain = 0
        while done < number:
            chain += 1
            name, killed = f"killed-{size}-{chain}", []
            while done + len(killed) < number:
                run = self.start(name, size, workers=self.rng.choice([0, 0, 1]))
                moment = self.rng.choice(["any", "writing", "evaluation"])
                self._wait(run, moment, size)
                if not run.is_alive:
                    break
                run.kill(self.rng)
                killed.append(moment)
            fault = self.finish(run, size)
            done += len(killed)
            if killed:
                what = f"{len(killed)} kills of {size} ({', '.join(killed)})"
                self.count(what, fault, len(killed))

    def _wait(self, run: Run, moment: str, size: int) -> None:
        """Waits for a random moment of a kind."""
        checkpoints = run.folder / "checkpoints"
        begun = time.monotonic() + self.rng.uniform(0, self.seconds[size])
        run.wait_until(lambda: time.monotonic() > begun or moment != "any")
        if moment == "writing":
            past = self.rng.randrange(3)
            seen: set[str] = set()

            def is_written() -> bool:
                seen.update(path.name for path in checkpoints.glob(".step-*.part"))
                return len(seen) > past

            run.wait_until(is_written)
            time.sleep(self.rng.uniform(0, 0.01))
        elif moment == "evaluation":
            results = run.folder / "results"
            before = len(list(results.glob("*"))) + self.rng.randrange(2)
            log = run.folder / "log.jsonl"
            run.wait_until(lambda: log.is_file() and len(list(results.glob("*"))) > before)
            time.sleep(self.rng.uniform(0, 0.02))

    def _stopped(self, name: str) -> Run:
        """A run that was killed with two checkpoints or more."""
        run = self.start(name)
        previous = run.folder / "checkpoints" / "previous"
        run.wait_until(previous.exists)
        time.sleep(self.rng.uniform(0, self.seconds[1] / 5))
        run.kill(self.rng)
        return run

    def damages(self, number: int) -> None:
        """A file of the newest checkpoint is cut, overwritten, emptied or deleted."""
        self.reference(1)
        for trial in range(number):
            run = self._stopped(f"damaged-{trial}")
            last = (run.folder / "checkpoints" / "last").resolve()
            path = last / self.rng.choice(["trainable.safetensors", "state.pt", "SHA256SUMS"])
            how = damage(path, self.rng)
            run.told.write_text("")
            fault = self.finish(run)
            if not fault and f"{last} is passed over" not in run.told.read_text():
                fault = f"it was not said that {last.name} is damaged"
            self.count(f"{path.name} of the newest checkpoint {how}", fault)

    def signals(self, number: int) -> None:
        """SIGTERM or SIGINT; a checkpoint has to stand at the last step that was taken."""
        self.reference(1)
        for trial in range(number):
            size = 2 if trial % 3 == 2 else 1
            self.reference(size)
            sent = self.rng.choice([signal.SIGTERM, signal.SIGINT])
            run = self.start(f"signalled-{trial}", size, workers=trial % 2)
            log, number = run.folder / "log.jsonl", self.rng.randrange(1, 30)  # of 39 lines
            run.wait_until(
                lambda log=log, number=number: (
                    log.is_file() and len(log.read_bytes().splitlines()) >= number
                )
            )
            time.sleep(self.rng.uniform(0, 0.1))
            run.send(sent)
            codes = run.end()
            told = run.told.read_text()
            fault = "" if codes == [128 + sent] * size else f"exit codes {codes}"
            if not fault and (told.count(f"stopped by {sent.name}; ") != 1 or "Trace" in told):
                fault = f"no line, or more than one: {run.told}"
            steps = sum("step" in record for record in records_of(run.folder))
            last = (run.folder / "checkpoints" / "last").resolve().name
            if not fault and last != f"step-{steps:08d}":
                fault = f"{steps} steps were taken, the checkpoint is {last}"
            self.count(f"{sent.name} to {size}", fault or self.finish(run, size))

    def two_in_one_folder(self) -> None:
        """The second is refused, the first is not disturbed."""
        self.reference(1)
        first = self.start("shared")
        first.wait_until((first.folder / "log.jsonl").is_file)
        second = Run(self.config, first.folder, 1)
        second.told = first.told
        codes = second.end(), first.end()
        fault = "" if codes == ([2], [0]) else f"exit codes {codes}"
        if "another run is at work in" not in first.told.read_text():
            fault = f"it was not said why: {first.told}"
        self.count("two runs in one folder", fault or difference(self.reference(1), first.folder))

    def power_cuts(self, number: int) -> None:
        """Copies of the disk at random moments; files that it did not get are lost or empty."""
        reason = "needs root" if os.geteuid() else missing_tool("mkfs.ext4", "mount", "cmp")
        if reason:
            print(f"power cuts: not tried ({reason})")
            return
        self.reference(1)
        disk = self.out / "disk"
        disk.write_bytes(b"")
        os.truncate(disk, IMAGE_MEGABYTES * 2**20)
        subprocess.run(["mkfs.ext4", "-q", "-F", disk], check=True)
        with mounted(disk, self.out / "mounted") as place:
            for trial in range(number):
                run = self.start(f"cut-{trial}", folder=place)
                run.wait_until((run.folder / "checkpoints" / "previous").exists)
                time.sleep(self.rng.uniform(0, 1.2 * self.seconds[1]))
                copy_disk(disk, self.out / f"disk-{trial}")
                run.kill(self.rng)
        for trial in range(number):
            with mounted(self.out / f"disk-{trial}", self.out / "mounted") as place:
                files = [path for path in (place / f"cut-{trial}").rglob("*") if path.is_file()]
                empty = sum(path.stat().st_size == 0 for path in files)
                run = self.start(f"cut-{trial}", folder=place)
                run.end()
                what = f"power cut ({len(files)} files, {empty} of them empty)"
                self.count(what, self.finish(run))


def damage(path: Path, rng: random.Random) -> str:
    """Harms a file; says how."""
    content = bytearray(path.read_bytes())
    how = rng.choice(["cut", "emptied", "overwritten", "deleted"])
    if how == "deleted":
        path.unlink()
        return how
    place = rng.randrange(1, len(content))
    if how == "overwritten":
        content[place] ^= 0xFF
    path.write_bytes(content[: {"cut": place, "emptied": 0}.get(how, len(content))])
    return how


def difference(whole: Path, folder: Path) -> str:
    """What differs between two finished runs; an empty text where nothing does."""
    import torch
    from safetensors.torch import load_file

    places = [path / "checkpoints" / "last" for path in (whole, folder)]
    weights = [load_file(place / "trainable.safetensors") for place in places]
    states = [torch.load(place / "state.pt", weights_only=True) for place in places]
    for state in states:
        del state["config"]
    for name, (one, other) in {"weights": weights, "state": states}.items():
        if not is_same(one, other):
            return f"{name} differ"
    if records_of(whole) != records_of(folder):
        return "log.jsonl differs"
    metrics = [
        {path.name: json.loads(path.read_text())["metrics"] for path in run.glob("metrics-*.json")}
        for run in (whole, folder)
    ]
    return "" if metrics[0] == metrics[1] else "metrics differ"


def is_same(one: object, other: object) -> bool:
    """Whether nested values are equal, tensors bit by bit."""
    import torch

    if isinstance(one, dict):
        return one.keys() == other.keys() and all(is_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(is_same, one, other))
    return torch.equal(one, other) if torch.is_tensor(one) else one == other


def records_of(folder: Path) -> list[dict]:
    """The log of a run without its speed."""
    records = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [{k: v for k, v in one.items() if k != "regions_per_second"} for one in records]


def missing_tool(*names: str) -> str:
    """Names the first program that is not there."""
    missing = [name for name in names if shutil.which(name) is None]
    return f"{missing[0]} is missing" if missing else ""


@contextmanager
def mounted(disk: Path, place: Path) -> Iterator[Path]:
    """A disk image as a folder, by a loop device."""
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", disk, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def copy_disk(disk: Path, copy: Path) -> None:
    """What the disk holds at one moment: copied until nothing was written while it was copied."""
    while True:
        shutil.copyfile(disk, copy)
        if subprocess.run(["cmp", "-s", disk, copy]).returncode == 0:
            return


def main() -> None:
    """Runs all trials."""
    parser = plain_parser(__doc__)
    for name, number in (
        ("kills", 25),
        ("kills-of-two", 10),
        ("damages", 10),
        ("signals", 9),
        ("power-cuts", 4),
    ):
        parser.add_argument(f"--{name}", type=int, default=number, help=f"default: {number}")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument(
        "--out", type=Path, default=Path("output/survival"), help="is emptied first"
    )
    arguments = parser.parse_args()
    began = time.perf_counter()
    check = Check(arguments.out, arguments.seed)
    check.kills(arguments.kills, 1)
    check.kills(arguments.kills_of_two, 2)
    check.damages(arguments.damages)
    check.signals(arguments.signals)
    check.power_cuts(arguments.power_cuts)
    check.two_in_one_folder()
    print(f"({time.perf_counter() - began:.0f} s)")
    print(f"{check.survived} of {check.tried} survived")
    sys.exit(check.survived != check.tried)


if __name__ == "__main__":
    main()
