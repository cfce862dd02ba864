import signal
import threading

import pytest

from dynrefer.command_line import entry_point
from dynrefer.stopping import SIGNALS, Stopped, StopRequest, handling_signals


def test_a_request_waits_where_it_is_told_to():
    stop = StopRequest(insists=True)
    before = [signal.getsignal(number) for number in SIGNALS]
    with handling_signals(stop):
        with pytest.raises(Stopped, match="stopped by SIGTERM$"):
            signal.raise_signal(signal.SIGTERM)
        stop = StopRequest(insists=True)
    with handling_signals(stop):
        stop.waits = True
        signal.raise_signal(signal.SIGINT)
        assert stop.number == signal.SIGINT
        with pytest.raises(Stopped, match="stopped by SIGINT$"):  # the user insists
            signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_launcher_sends_a_signal_twice():
    stop = StopRequest(insists=False)
    stop.waits = True
    with handling_signals(stop):
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
    assert stop.number == signal.SIGINT


def test_other_threads_leave_signals_alone():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def run():
        with handling_signals(StopRequest(insists=True)):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_command_leaves_with_one_line(number, capsys):
    with pytest.raises(SystemExit) as left:
        entry_point(lambda _: signal.raise_signal(number), None)
    assert left.value.code == 128 + number
    assert capsys.readouterr().err == f"stopped by {signal.Signals(number).name}\n"


def test_an_error_says_what_is_kept(capsys):
    def fail(_):
        error = OSError("no disk")
        error.kept = "step-1 is whole"
        raise error

    with pytest.raises(SystemExit) as left:
        entry_point(fail, None)
    assert left.value.code == 2
    assert capsys.readouterr().err == "error: no disk; step-1 is whole\n"


def test_what_torch_says_of_a_killed_worker(capsys):
    def fail(_):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    with pytest.raises(SystemExit):
        entry_point(fail, None)
    assert capsys.readouterr().err.startswith("error: worker process 7 of the data loader was kil")
    with pytest.raises(RuntimeError, match="a fault of our own"):
        entry_point(lambda _: (_ for _ in ()).throw(RuntimeError("a fault of our own")), None)
