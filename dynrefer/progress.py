"""Progress bars: on a terminal one that moves, elsewhere a line a minute."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

SECONDS_OF_A_LINE = 60


def progress(items: Iterable[Any] | None = None, /, disable: bool = False, **options: Any) -> tqdm:
    """A bar over ``items``, or one to ``update``; the main process alone shows it, on stderr.

    Args:
        items: what is iterated over; None for a bar that is updated by hand.
        disable: True for no bar.
        options: of tqdm, e.g. ``desc``, ``total``, ``unit``, ``delay``.
    """
    disable = disable or not _is_main()
    if sys.stderr.isatty():
        return _Bar(items, disable=disable, **options)
    options |= {"mininterval": SECONDS_OF_A_LINE, "delay": SECONDS_OF_A_LINE, "position": 0}
    return _Lines(items, disable=disable, **options)


def _is_main() -> bool:
    """Whether this is the main process; who has joined others has imported what knows it."""
    distributed = sys.modules.get("dynrefer.distributed")
    return distributed is None or distributed.is_main()


class _Bar(tqdm):
    """Without tqdm's thread, which a fork (a DataLoader's workers) could catch with its lock."""

    monitor_interval = 0


class _Lines(_Bar):
    """Lines for files and pipes; what takes less than a minute shows none."""

    @staticmethod
    def status_printer(file: Any) -> Any:
        """What prints a state: as a line of its own."""

        def print_line(state: str) -> None:
            file.write(f"{state}\n")
            file.flush()

        return print_line

    def close(self) -> None:
        """Prints the last state, where an earlier one was printed."""
        if not self.disable:
            if self.last_print_t > self.start_t:
                self.display()
            self.disable = True
            self._decr_instances(self)
