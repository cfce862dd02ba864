"""The service as a process: docs/service.md's examples, the signal that ends it, its arguments."""

import re
import shutil
import socket
import threading
import time
from urllib.request import urlopen

import pytest

from dynrefer.app.serve import api_key, main, serve_parser
from dynrefer.command_line import entry_point
from dynrefer.runners.checkpointing import Position, save_checkpoint
from tests.app.conftest import regions_body
from tests.predictor.conftest import IMAGE
from tests.processes import ROOT, running_script
from tests.test_docs import BLOCK
from tests.tiny_model import tiny_model

httpx2 = pytest.importorskip("httpx2", reason="the client of the service's tests is missing")
PAGE = BLOCK.findall((ROOT / "docs/service.md").read_text())


@pytest.fixture
def home(config, tmp_path):
    """A working directory with a model where the quickstart has it, and an image."""
    save_checkpoint(
        tmp_path / "output/shapes/checkpoints", tiny_model(config), config, Position(), {}
    )
    IMAGE.resize((160, 150)).save(tmp_path / "image.jpg")
    return tmp_path


def address_of(process, printed):
    """Where the service listens, once it does."""
    until = time.monotonic() + 60
    while time.monotonic() < until and process.is_alive():
        text = printed.read_text() if printed.exists() else ""
        if found := re.search(r"answers at (http://127\.0\.0\.1:\d+)\n", text):
            return found[1]
        time.sleep(0.05)
    raise AssertionError(printed.read_text())


def test_the_page_s_examples_and_sigterm_while_requests_wait(home, monkeypatch, capsys):
    """SIGTERM comes while the model runs: all that has arrived is answered, the exit code is 0."""
    monkeypatch.chdir(home)
    start = next(
        block for kind, block in PAGE if kind == "console" and "app.serve" in block
    ).split()
    assert start[:2] == [".venv/bin/python", "-m"]
    with running_script(*start[1:-1], 0, "--batch-wait", 0, cwd=home) as (process, printed):
        address = address_of(process, printed)
        for kind, block in PAGE:
            if kind == "py":
                exec(block.replace("http://127.0.0.1:8000", address), {})
        said = capsys.readouterr().out
        assert len(said.splitlines()) == 3 and "[" in said

        many = regions_body(boxes=[[1, 2, 20 + n % 30, 30 + n % 10] for n in range(40)])
        statuses = []

        def ask():
            answer = httpx2.post(f"{address}/v1/regions", json=many, timeout=60)
            statuses.append((answer.status_code, len(answer.json()["regions"])))

        clients = [threading.Thread(target=ask) for _ in range(4)]
        for client in clients:
            client.start()
        while "dynrefer_waiting_requests 4.0" not in urlopen(f"{address}/metrics").read().decode():
            time.sleep(0.01)
        process.terminate()
        for client in clients:
            client.join(60)
        process.join(60)
        assert statuses == [(200, 40)] * 4
        assert process.exitcode == 0, printed.read_text()
        assert "Traceback" not in printed.read_text()


def error_of(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        entry_point(main, serve_parser().parse_args(arguments))
    assert end.value.code == 2
    return capsys.readouterr().err


def test_what_keeps_it_from_starting_is_said(home, monkeypatch, capsys):
    monkeypatch.chdir(home)
    monkeypatch.setenv("DYNREFER_API_KEY", "")
    assert "DYNREFER_API_KEY is ''" in error_of([], capsys)
    monkeypatch.delenv("DYNREFER_API_KEY")
    assert "--port 70000; valid is 0 to 65535" in error_of(["--port", "70000"], capsys)
    assert "valid is printable ASCII" in error_of(["--api-key", "naïve"], capsys)
    shutil.rmtree("output")
    assert "`bash scripts/quickstart.sh` trains one" in error_of(["--port", "0"], capsys)
    with pytest.raises(SystemExit):
        serve_parser().parse_args(["--max-waiting", "0"])
    assert "valid is a number from 1 on" in capsys.readouterr().err


def test_a_port_that_is_taken_is_said_before_the_model_is_loaded(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert f"cannot listen at --host 127.0.0.1 --port {port}: " in error_of(
            ["--port", port], capsys
        )


def test_the_key_of_the_command_line_comes_first():
    environment = {"DYNREFER_API_KEY": "a"}
    assert api_key("b", environment) == "b"
    assert api_key(None, environment) == "a"
    assert api_key(None, {}) is None
