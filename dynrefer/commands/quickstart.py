"""The stages of the quickstart, from Python: what scripts/quickstart.sh does in a checkout."""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from dynrefer.datasets.annotations import AnnotationIndex
from dynrefer.files import shipped

RESULT = "metrics-shapes-test-last.json"  # what training writes last
FOLDERS = ("output/encoder", "output/shapes", "output/shapes_view0")
SHAPES, VIEW_0 = "configs/train/shapes.yaml", "configs/train/shapes_view0.yaml"


def stages(fresh: bool) -> dict[str, list[str] | None]:
    """Names and commands, in order; None in place of one whose results are there."""
    processes = min(2, os.cpu_count() or 1)
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    per_process = ("run.resume=auto", f"run.batch_size_train={16 // processes}")
    world = ["-m", "dynrefer.datasets.shapes", "--out", "data/shapes", "--images", "2400"]
    encoder = [str(shipped("scripts/pretrain_encoder.py")), "--cfg-path", SHAPES]
    is_pretrained = Path("output/encoder/trainable.safetensors").is_file()

    def train(config: str, folder: str) -> list[str] | None:
        command = [*torchrun, "-m", "dynrefer", "train", "--cfg-path", config]
        is_trained = Path(folder, RESULT).is_file()
        return None if is_trained and not fresh else [*command, "--options", *per_process]

    return {
        "render the shapes world": [*world, "--seed", "0", *(["--overwrite"] * fresh)],
        "pretrain the encoder": None
        if is_pretrained and not fresh
        else [*torchrun, *encoder, "--out", "output/encoder"],
        "train and evaluate DynRefer": train(SHAPES, "output/shapes"),
        "train and evaluate view 0 only": train(VIEW_0, "output/shapes_view0"),
        "compare": [
            *(str(shipped("scripts/compare_results.py")), "--truth", SHAPES, "--metrics"),
            f"view 0 only=output/shapes_view0/{RESULT}",
            *(f"DynRefer=output/shapes/{RESULT}", "--out", "output/shapes/results.md"),
        ],
    }


def picture() -> list[str]:
    """Draws the first held-out image with three regions or more, its first three."""
    index = AnnotationIndex.open(Path("data/shapes/test.json"))
    for number in range(index.num_images):
        places = list(index.regions_of_image(number))[:3]
        if len(places) == 3:
            break
    boxes = [["--box", *map(str, index.region(place).box)] for place in places]
    image = ["--image", str(index.image(number).path)]
    return ["-m", "dynrefer", "demo", *image, *sum(boxes, []), "--out", "output/shapes/demo.png"]


def main(arguments: argparse.Namespace) -> None:
    """Runs the stages; one that fails ends the command with its exit code."""
    times = []
    if arguments.fresh:
        for folder in FOLDERS:
            shutil.rmtree(folder, ignore_errors=True)

    def perform(name: str, command: list[str] | None) -> None:
        print(f"\n== {name}", flush=True)
        began = time.perf_counter()
        if command is None:
            print("done already (--fresh repeats it)")
        elif code := subprocess.run([sys.executable, *command]).returncode:
            sys.exit(code if code > 0 else 128 - code)
        times.append(f"{name:32}{time.perf_counter() - began:5.0f} s")

    for name, command in stages(arguments.fresh).items():
        perform(name, command)
    perform("picture", picture())
    print("\nresults: output/shapes/results.md    picture: output/shapes/demo.png\n")
    print("\n".join(times))
