"""Times the service under many clients at once, with and without shared batches.

    python scripts/benchmark_service.py [--checkpoint output/shapes/checkpoints/last]
    python scripts/benchmark_service.py --clients 50 --requests 4 --image photo.jpg

Every client sends its requests one after the other, an image with one region each, to a service in
a process of its own, over HTTP. Prints requests a second, the seconds in which half and 99 % of
the requests were answered, requests that the model took at once, and the memory of the service
before and after.
"""

import argparse
from pathlib import Path

from dynrefer.command_line import at_least, entry_point, plain_parser


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = plain_parser(__doc__)
    default = Path("output/shapes/checkpoints/last")
    parser.add_argument("--checkpoint", type=Path, default=default, help=f"default: {default}")
    parser.add_argument("--image", type=Path, help="an image file; made if not given")
    parser.add_argument("--clients", type=at_least(1), default=50)
    parser.add_argument("--requests", type=at_least(1), default=4, help="of each client")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    return parser.parse_args(arguments)


if __name__ == "__main__":  # before the imports that take seconds
    arguments = parse()

import base64
import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import Any

import numpy as np
from PIL import Image

PATH = "/v1/regions"
LIMIT = 600  # seconds for one answer
IDLE_FIRST = 2  # seconds; a service that is idle gives memory back


def main(arguments: argparse.Namespace) -> None:
    """Prints a Markdown table."""
    content = arguments.image.read_bytes() if arguments.image else made_image()
    width, height = Image.open(io.BytesIO(content)).size
    text = base64.b64encode(content).decode("ascii")
    print(f"{arguments.clients} clients, {arguments.requests} requests each\n")
    print("| batches | requests/s | p50 s | p99 s | at once | memory before, after MB |")
    print("|---|---|---|---|---|---|")
    for name, most in (("one by one", 1), ("shared", arguments.clients)):
        with service(arguments, most) as port:
            # Buffers of the largest batch are made once and kept; they are no loss of memory.
            measured(arguments, port, text, (width, height))
            time.sleep(IDLE_FIRST)
            before = numbers(port)
            begun = time.perf_counter()
            seconds = measured(arguments, port, text, (width, height))
            took = time.perf_counter() - begun
            time.sleep(IDLE_FIRST)
            after = numbers(port)
        batches = after["dynrefer_batch_requests_count"] - before["dynrefer_batch_requests_count"]
        p50, p99 = np.percentile(seconds, [50, 99])
        memory = [each["process_resident_memory_bytes"] / 1e6 for each in (before, after)]
        print(
            f"| {name} | {len(seconds) / took:.1f} | {p50:.2f} | {p99:.2f} | "
            f"{len(seconds) / batches:.1f} | {memory[0]:.0f}, {memory[1]:.0f} |",
            flush=True,
        )


@contextmanager
def service(arguments: argparse.Namespace, most: int) -> Iterator[int]:
    """A service in a process of its own, at the port that it says."""
    command = [sys.executable, "-m", "dynrefer.app.serve", "--port", "0"]
    command += ["--checkpoint", str(arguments.checkpoint), "--device", arguments.device]
    command += ["--max-batch", str(most), "--max-waiting", str(arguments.clients + 1)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            if not line.startswith("DynRefer answers at "):
                raise OSError(f"the service did not start: {' '.join(command)}")
            yield int(line.rpartition(":")[2])
        finally:
            process.terminate()
            if process.wait(LIMIT) != 0:
                raise OSError(f"the service ended with {process.returncode}")


def measured(
    arguments: argparse.Namespace, port: int, text: str, size: tuple[int, int]
) -> list[float]:
    """Seconds of every request of all clients."""
    seconds: list[float] = []
    begin = threading.Barrier(arguments.clients)

    def client(number: int) -> None:
        connection = HTTPConnection("127.0.0.1", port, timeout=LIMIT)
        begin.wait()
        for index in range(arguments.requests):
            seconds.append(asked(connection, text, number * arguments.requests + index, size))
        connection.close()

    threads = [threading.Thread(target=client, args=(n,)) for n in range(arguments.clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(seconds) != arguments.clients * arguments.requests:
        raise OSError(f"{len(seconds)} requests were answered")
    return seconds


def asked(connection: HTTPConnection, text: str, number: int, size: tuple[int, int]) -> float:
    """Seconds of one request, for a box that is another one for every number."""
    rng = np.random.default_rng(number)
    sides = rng.uniform(0.2, 0.5, 2)
    start = rng.random(2) * (1 - sides)
    box = (np.concatenate([start, start + sides]) * np.tile(size, 2)).tolist()
    body = json.dumps({"image": text, "boxes": [box], "id": number})
    begun = time.perf_counter()
    connection.request("POST", PATH, body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    content: dict[str, Any] = json.loads(answer.read())
    took = time.perf_counter() - begun
    if answer.status != 200 or content["id"] != number or len(content["regions"]) != 1:
        raise OSError(f"request {number} got {answer.status}: {content}")
    return took


def numbers(port: int) -> dict[str, float]:
    """The service's counters that have no labels."""
    connection = HTTPConnection("127.0.0.1", port, timeout=LIMIT)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    return {
        n: float(v)
        for n, v in (line.split() for line in lines if line[0] != "#" and "{" not in line)
    }


def made_image() -> bytes:
    """Noise, 320 x 240, as JPEG: what it shows hardly changes the time."""
    pixels = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


if __name__ == "__main__":
    entry_point(main, arguments)
