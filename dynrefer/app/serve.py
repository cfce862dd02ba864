"""Answers over HTTP: regions of images in JSON or forms, and OpenAI's chat protocol.

    python -m dynrefer.app.serve [--checkpoint output/shapes/checkpoints/last] [--port 8000]

It answers programs on this machine; --host 0.0.0.0 opens it to others, who should need a key
(--api-key, or the environment's DYNREFER_API_KEY, which `ps` does not show). SIGTERM answers what
has arrived, then ends. docs/service.md shows requests and answers.
"""

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dynrefer.command_line import DEFAULT_CHECKPOINT, at_least, entry_point, plain_parser

if TYPE_CHECKING:  # they take seconds to import
    from dynrefer.app.limits import ServiceLimits
    from dynrefer.predictor import RegionPredictor

KEY = "DYNREFER_API_KEY"
LOCAL = ("127.0.0.1", "::1", "localhost")


def serve_parser() -> argparse.ArgumentParser:
    """The arguments of the service."""
    parser = plain_parser(__doc__)
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=DEFAULT_CHECKPOINT,
        help=f"checkpoint folder (default: {DEFAULT_CHECKPOINT})",
    )
    parser.add_argument(
        "--options", nargs="+", default=[], metavar="KEY=VALUE", help="overrides, a.b=c"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--host", default="127.0.0.1", help="address (default: 127.0.0.1)")
    parser.add_argument(
        "--port", type=at_least(0), default=8000, help="default: 8000; 0: a free one"
    )
    parser.add_argument("--api-key", help=f"that requests must bring (default: {KEY})")
    for name, value, what in (
        ("--batch-wait", 5, "milliseconds that a request waits for others"),
        ("--max-batch", 64, "requests that the model takes at once; 1 for none together"),
        ("--max-body", 20, "megabytes of a request"),
        ("--max-pixels", 25, "millions of pixels of an image"),
        ("--max-regions", 100, "regions of a request"),
        ("--max-waiting", 64, "requests at once; the next gets 429"),
        ("--grace", 60, "seconds in which SIGTERM answers what has arrived"),
    ):
        least = 0 if name == "--batch-wait" else 1
        parser.add_argument(
            name, type=at_least(least), default=value, help=f"{what} (default: {value})"
        )
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Loads the model, then answers until a signal comes."""
    key = api_key(arguments.api_key, os.environ)
    try:
        import uvicorn

        from dynrefer.app.server import Server, bound
        from dynrefer.app.service import create_app
    except ImportError as error:
        raise ImportError(f"{error}; the service needs: pip install 'dynrefer[app]'") from error
    from dynrefer.app.batching import MicroBatcher

    if key is None and arguments.host not in LOCAL:
        print(f"warning: {arguments.host} without --api-key: anyone can ask", file=sys.stderr)
    with bound(arguments.host, arguments.port) as listening:
        predictor = load_predictor(arguments)
        wait, most = arguments.batch_wait / 1000, arguments.max_batch
        with MicroBatcher(predictor, wait, most) as batcher:
            config = uvicorn.Config(
                create_app(batcher, limits_of(arguments), key),
                log_level="warning",
                timeout_graceful_shutdown=arguments.grace,
            )
            Server(config).run([listening])


def limits_of(arguments: argparse.Namespace) -> "ServiceLimits":
    """What the arguments allow."""
    from dynrefer.app.limits import ServiceLimits

    pixels = arguments.max_pixels * 1_000_000
    return ServiceLimits(
        body_bytes=arguments.max_body * 1_000_000,
        pixels=pixels,
        mask_pixels=8 * pixels,
        regions=arguments.max_regions,
        waiting=arguments.max_waiting,
    )


def api_key(given: str | None, environment: Mapping[str, str]) -> str | None:
    """The key of the command line, else of the environment; ValueError for one that is empty."""
    key = environment.get(KEY) if given is None else given
    if key is not None and (not key.strip() or not (key.isascii() and key.isprintable())):
        raise ValueError(f"--api-key or {KEY} is {key!r}; valid is printable ASCII, not empty")
    return key


def load_predictor(arguments: argparse.Namespace) -> "RegionPredictor":
    """The model of the checkpoint; FileNotFoundError says how to get one."""
    from dynrefer.predictor import RegionPredictor

    checkpoint = arguments.checkpoint
    if checkpoint == DEFAULT_CHECKPOINT and not checkpoint.is_dir():
        raise FileNotFoundError(
            f"no checkpoint at {checkpoint}; `bash scripts/quickstart.sh` trains one, "
            "--checkpoint DIR names another"
        )
    return RegionPredictor.from_checkpoint(checkpoint, arguments.device, arguments.options)


if __name__ == "__main__":
    entry_point(main, serve_parser().parse_args())
