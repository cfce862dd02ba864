"""Progress bars: on a terminal one that moves, elsewhere a line a minute."""

import sys
from typing import Any

from tqdm import tqdm

SECONDS_OF_A_LINE = 60


class Progress(tqdm):
    """tqdm on stderr of the main process; what takes less than a minute writes no lines to files.

    It has no thread (tqdm's), which a fork, of a DataLoader's workers, could catch with its lock.
    """

    monitor_interval = 0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.is_lines = not sys.stderr.isatty()
        if self.is_lines:
            options |= {"mininterval": SECONDS_OF_A_LINE, "delay": SECONDS_OF_A_LINE, "position": 0}
        options["disable"] = options.get("disable") or not _is_main()
        super().__init__(*arguments, **options)

    @staticmethod
    def status_printer(file: Any) -> Any:
        """What prints a state: over the last one, or as a line of its own."""
        if file.isatty():
            return tqdm.status_printer(file)

        def print_line(state: str) -> None:
            file.write(f"{state}\n")
            file.flush()

        return print_line

    def refresh(self, *arguments: Any, **options: Any) -> bool | None:
        """Shows the state; of lines once a minute, whatever asks for it."""
        if self.is_lines:
            now = self._time()
            if now - self.last_print_t < SECONDS_OF_A_LINE:
                return None
            self.last_print_t = now
        return super().refresh(*arguments, **options)

    def close(self) -> None:
        """Leaves the last state, of lines where an earlier one was printed."""
        if not self.is_lines:
            super().close()
        elif not self.disable:
            if self.last_print_t > self.start_t:
                self.display()
            self.disable = True
            self._decr_instances(self)


def _is_main() -> bool:
    """Whether this is the main process; who has joined others has imported what knows it."""
    distributed = sys.modules.get("dynrefer.distributed")
    return distributed is None or distributed.is_main()
