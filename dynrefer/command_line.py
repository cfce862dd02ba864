"""What every command shares: its arguments, and errors that the user can mend as one line.

Nothing here takes long to import, so that arguments are parsed (and ``--help`` is printed) before
the seconds that torch and the models take.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from dynrefer.registry import UnknownNameError

# What a user can mend (ConfigError and ImageError are ValueErrors); one message, no traceback.
USER_ERRORS = (ValueError, UnknownNameError, OSError, ImportError, FloatingPointError)


def plain_parser(usage: str | None) -> argparse.ArgumentParser:
    """A parser whose help shows the command's docstring as it is written."""
    return argparse.ArgumentParser(
        description=usage, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def config_parser(usage: str | None, required: bool = True) -> argparse.ArgumentParser:
    """A parser with ``--cfg-path`` and ``--options``."""
    parser = plain_parser(usage)
    parser.add_argument("--cfg-path", type=Path, required=required, help="YAML file")
    parser.add_argument(
        "--options", nargs="+", default=[], metavar="KEY=VALUE", help="overrides, a.b=c"
    )
    return parser


def entry_point(main: Callable[[argparse.Namespace], None], arguments: argparse.Namespace) -> None:
    """Runs a main function; an error that the user can mend ends it with exit code 2.

    ``DYNREFER_TRACEBACK=1`` shows where it was raised.
    """
    from dynrefer import distributed  # torch: only now that the arguments are known to be right

    try:
        main(arguments)
    except USER_ERRORS as error:
        if os.environ.get("DYNREFER_TRACEBACK"):
            raise
        print(f"error: {_message(error)}", file=sys.stderr)
        sys.exit(2)
    finally:
        distributed.stop()


def _message(error: Exception) -> str:
    """What the error says; of one from a DataLoader's worker, without the worker's traceback."""
    text = str(error)
    if text.startswith("Caught ") and " in DataLoader worker process" in text.splitlines()[0]:
        text = text.rpartition(f"\n{type(error).__name__}: ")[2]
    return text.strip()
