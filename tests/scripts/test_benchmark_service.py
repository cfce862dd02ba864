import re
import threading
import time
from contextlib import contextmanager

import pytest

pytest.importorskip("fastapi", reason="the service's libraries are missing: pip install -e .[app]")

import uvicorn

from dynrefer.app.batching import MicroBatcher
from dynrefer.app.server import Server, bound
from dynrefer.app.service import create_app
from scripts import benchmark_service
from tests.predictor.conftest import predictor

__all__ = ["predictor"]


@pytest.fixture
def in_this_process(predictor, monkeypatch):
    """Has the benchmark ask a service of the tiny model that costs no imports."""

    @contextmanager
    def service(arguments, most):
        listening = bound("127.0.0.1", 0)
        with listening, MicroBatcher(predictor, 0.02, most) as batcher:
            server = Server(uvicorn.Config(create_app(batcher), log_level="warning"))
            thread = threading.Thread(target=server.run, args=([listening],))
            thread.start()
            while not server.started:
                time.sleep(0.01)
            try:
                yield listening.getsockname()[1]
            finally:
                server.should_exit = True
                thread.join()

    monkeypatch.setattr(benchmark_service, "service", service)
    monkeypatch.setattr(benchmark_service, "IDLE_FIRST", 0)


def test_one_by_one_and_shared(in_this_process, capsys):
    benchmark_service.main(benchmark_service.parse(["--clients", "6", "--requests", "2"]))
    lines = capsys.readouterr().out.splitlines()
    rows = [re.split(r" *\| *", line)[1:-1] for line in lines if re.match(r"\| (one|shared)", line)]
    assert [row[0] for row in rows] == ["one by one", "shared"]
    assert float(rows[0][4]) == 1.0 < float(rows[1][4])
    for row in rows:
        assert 0 < float(row[2]) <= float(row[3])
        assert all(float(number) > 100 for number in row[5].split(", "))


def test_an_answer_that_is_none_is_an_error(in_this_process):
    arguments = benchmark_service.parse(["--clients", "1"])
    with benchmark_service.service(arguments, 1) as port:
        connection = benchmark_service.HTTPConnection("127.0.0.1", port)
        with pytest.raises(OSError, match="request 3 got 422"):
            benchmark_service.asked(connection, "AAAA", 3, (10, 10))
