"""Stopping in order: SIGTERM and Ctrl-C end a command where it loses nothing."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(KeyboardInterrupt):
    """A signal ended the command; ``number`` is the signal's, the text says how to go on."""

    def __init__(self, number: int, text: str = "") -> None:
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name}{text and '; '}{text}")
        self.number = number


def stop_at_once(number: int, _: Any) -> None:
    """A handler of signals: raises Stopped wherever the program is."""
    raise Stopped(number)


class StopRequest:
    """A handler of signals that keeps them for later while ``waits`` is true, else raises Stopped.

    A second signal does not wait. Launchers send the same one twice, so it counts as a second one
    only where ``insists`` is true.
    """

    def __init__(self, insists: bool) -> None:
        self.number, self.waits, self.insists = 0, False, insists

    def __call__(self, number: int, _: Any) -> None:
        is_second, self.number = self.number != 0, number
        if not self.waits or (is_second and self.insists):
            raise Stopped(number)


@contextmanager
def handling_signals(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Has a handler take SIGTERM and SIGINT; only the main thread of a process can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)
