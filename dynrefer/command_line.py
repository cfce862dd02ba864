"""What every command shares: its arguments, and errors that the user can mend as one line.

Nothing here takes long to import, so that arguments are parsed (and ``--help`` is printed) before
the seconds that torch and the models take.
"""

import argparse
import math
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

from dynrefer.registry import UnknownNameError
from dynrefer.stopping import Stopped, handling_signals, stop_at_once

# What a user can mend (ConfigError and ImageError are ValueErrors); one message, no traceback.
USER_ERRORS = (ValueError, UnknownNameError, OSError, ImportError, FloatingPointError)

# Where the quickstart leaves its model: what commands take without --checkpoint.
DEFAULT_CHECKPOINT = Path("output/shapes/checkpoints/last")

# What help calls the running command, for ``dynrefer`` (dynrefer.commands.main); None: its file.
called: str | None = None


def plain_parser(usage: str | None) -> argparse.ArgumentParser:
    """A parser whose help shows the command's docstring as it is written.

    It comes before all imports that take seconds: libraries find a home then, and their warnings
    about each other are not shown.
    """
    _have_home()
    warnings.filterwarnings("ignore", category=FutureWarning)
    return argparse.ArgumentParser(
        called, description=usage, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def config_parser(usage: str | None, required: bool = True) -> argparse.ArgumentParser:
    """A parser with ``--cfg-path`` and ``--options``."""
    parser = plain_parser(usage)
    parser.add_argument("--cfg-path", type=Path, required=required, help="YAML file")
    parser.add_argument(
        "--options", nargs="+", default=[], metavar="KEY=VALUE", help="overrides, a.b=c"
    )
    return parser


def at_least(least: float, kind: type = int) -> Callable[[str], float]:
    """An argument's ``type``: a finite number from ``least`` on."""

    def number(text: str) -> float:
        value = kind(text)
        if not (math.isfinite(value) and value >= least):
            raise argparse.ArgumentTypeError(f"{text}; valid is a number from {least} on")
        return value

    return number


def entry_point(main: Callable[[argparse.Namespace], None], arguments: argparse.Namespace) -> None:
    """Runs a main function; an error that the user can mend ends it with exit code 2.

    SIGTERM and Ctrl-C end it with a line and 128 + the signal's number.
    ``DYNREFER_TRACEBACK=1`` shows where an error was raised.
    """
    from dynrefer import distributed  # torch: only now that the arguments are known to be right

    try:
        with handling_signals(stop_at_once):
            main(arguments)
    except Stopped as stop:
        if distributed.is_main():
            print(stop, file=sys.stderr)
        sys.exit(128 + stop.number)
    except (*USER_ERRORS, RuntimeError) as error:
        message = _message(error)
        if message is None or os.environ.get("DYNREFER_TRACEBACK"):
            raise
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)
    finally:
        distributed.stop()


def _have_home() -> None:
    """Gives a user without a home, as in containers, one for the caches of libraries."""
    if os.path.expanduser("~") == "~":
        home = Path(tempfile.gettempdir()) / f"dynrefer-{os.getuid()}"
        home.mkdir(mode=0o700, exist_ok=True)
        os.environ["HOME"] = str(home)


def _message(error: Exception) -> str | None:
    """What the error says, and what is kept; None for one that no user can mend.

    Of an error from a DataLoader's worker it is without the worker's traceback.
    """
    text = str(error)
    if isinstance(error, RuntimeError):  # torch raises it wherever the main process just is
        from dynrefer.datasets.loading import killed_worker

        killed = killed_worker(error)
        if killed is None:
            return None
        text = str(killed)
    if text.startswith("Caught ") and " in DataLoader worker process" in text.splitlines()[0]:
        text = text.rpartition(f"\n{type(error).__name__}: ")[2]
    kept = getattr(error, "kept", None)
    return f"{text.strip()}; {kept}" if kept else text.strip()
