"""Bars on terminals, lines in files."""

import io
import sys
import threading

import pytest
from tqdm import tqdm

from dynrefer import distributed, progress
from dynrefer.progress import Progress


class Output(io.StringIO):
    """A stream that says whether it is a terminal."""

    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self.is_terminal = is_terminal

    def isatty(self) -> bool:
        return self.is_terminal


class Clock:
    """Seconds that pass with every look at it."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def shown(monkeypatch, is_terminal: bool, seconds: float, postfix: bool = False) -> str:
    """What is written of 100 steps that take ``seconds`` altogether."""
    output = Output(is_terminal)
    monkeypatch.setattr(sys, "stderr", output)
    bar = Progress(range(100), desc="epoch 1")
    clock = bar._time = Clock(0)
    bar.start_t = bar.last_print_t = 0.0
    for step in bar:
        clock.now += seconds / 100
        if postfix:
            bar.set_postfix(loss=step)
    return output.getvalue()


def test_lines_a_minute_where_the_output_is_no_terminal(monkeypatch):
    for postfix in (False, True):
        lines = shown(monkeypatch, False, 600, postfix).splitlines()
        assert 9 <= len(lines) <= 11 and "\r" not in "".join(lines), lines
        assert all(line.startswith("epoch 1: ") for line in lines) and "100/100" in lines[-1]
    assert "loss=99" in lines[-1]


def test_nothing_of_what_takes_less_than_a_minute(monkeypatch):
    assert shown(monkeypatch, False, 50, postfix=True) == ""


def test_a_bar_that_moves_on_a_terminal(monkeypatch):
    text = shown(monkeypatch, True, 600)
    assert text.count("\r") > 50 and "100/100" in text


@pytest.mark.parametrize("is_terminal", [False, True])
def test_other_processes_show_nothing(monkeypatch, is_terminal):
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    assert shown(monkeypatch, is_terminal, 600) == ""


def test_no_thread_is_started(monkeypatch):
    monkeypatch.setattr(tqdm, "monitor", None)  # another library's bar may have started one
    threads = threading.active_count()
    monkeypatch.setattr(sys, "stderr", Output(True))
    with Progress(total=5) as bar:
        bar.update()
        assert threading.active_count() == threads
    assert progress.Progress.monitor is None
