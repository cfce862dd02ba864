import json
import logging
import sys
import types

import pytest

from dynrefer.runners import logs
from dynrefer.runners.logs import (
    RunLog,
    metric_table,
    set_up_logging,
)


def test_records_are_appended(tmp_path):
    path = tmp_path / "log.jsonl"
    log = RunLog(path, {}, use_wandb=False)
    for number in (1, 2):
        log.write({"step": number, "name": "ä"})
    log.sync()
    log.close()
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]


def test_steps_that_come_again_stand_once(tmp_path):
    """A run goes on at a step; a line that was cut off, or that repeats, does not stay."""
    places = [(0, 0), (0, 1), (0, None), (1, 0), (1, 1), (1, 2), (1, None)]
    records = [{"epoch": epoch, "split" if s is None else "step": s} for epoch, s in places]
    lines = [json.dumps(record) + "\n" for record in records]
    path = tmp_path / "log.jsonl"
    for begins_at, kept in {
        (0, 0): 0,
        (0, 2): 2,
        (1, 0): 3,
        (1, 1): 4,
        (1, 3): 6,
        (2, 0): 7,
    }.items():
        cut = (
            '{"epoch": 0, "step": 0}' if kept % 2 else '{"epoch": 0, "step"'
        )  # without a line's end
        path.write_text("".join(lines) + cut)
        log = RunLog(path, {}, False, begins_at)
        assert path.read_text() == "".join(lines[:kept])
        log.write({"epoch": 9})
        assert path.read_text() == "".join(lines[:kept]) + '{"epoch": 9}\n'


def test_a_full_disk_names_the_log(tmp_path):
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    log = RunLog(tmp_path / "log.jsonl", {}, use_wandb=False)
    with pytest.raises(OSError, match="log.jsonl cannot be written: no space left on the disk$"):
        log.write({"epoch": 0})


def test_only_the_main_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "is_main", lambda: False)
    log = RunLog(tmp_path / "log.jsonl", {}, use_wandb=True)
    log.write({"step": 1})
    log.sync()
    log.close()
    assert not list(tmp_path.iterdir())


def test_wandb_gets_configuration_and_records(tmp_path, monkeypatch):
    class Run(list):
        log = list.append

        def finish(self):
            self.append("finished")

    run, given = Run(), {}
    stand_in = types.SimpleNamespace(init=lambda **options: given.update(options) or run)
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    log = RunLog(tmp_path / "log.jsonl", {"run": {"seed": 1}}, use_wandb=True)
    log.write({"step": 1})
    log.close()
    assert (
        given["dir"] == tmp_path
        and given["config"] == {"run": {"seed": 1}}
        and run == [{"step": 1}, "finished"]
    )


def test_missing_wandb(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match="run.wandb is true but wandb is missing: pip install"):
        RunLog(tmp_path / "log.jsonl", {}, use_wandb=True)


def test_table_of_metrics():
    metrics = {"one": {"mAP": 12.345, "AP small": 1.0}, "two": {"CIDEr": 100.0}}
    lines = metric_table(metrics).splitlines()
    assert [line.split() for line in lines] == [
        ["one"],
        ["mAP", "12.35"],
        ["two"],
        ["CIDEr", "100.00"],
    ]
    assert "AP small" in metric_table(metrics, breakdown=True)


def test_published_numbers_beside_metrics():
    metrics = {"one": {"mAP": 12.345, "x": 1.0}, "two": {"CIDEr": 100.0}}
    assert metric_table(metrics, published={"two": {}}) == metric_table(metrics)
    lines = metric_table(metrics, published={"one": {"mAP": 47.6}, "two": {}}).splitlines()
    assert [line.split() for line in lines[:-1]] == [
        ["one", "published"],
        ["mAP", "12.35", "47.6"],
        ["x", "1.00"],
        ["two"],
        ["CIDEr", "100.00"],
    ]
    assert lines[0].endswith("published") and len(lines[0]) == len(lines[1])
    assert "arXiv 2405.16071" in lines[-1]


@pytest.mark.parametrize("main", [True, False])
def test_console(main, monkeypatch, capsys):
    monkeypatch.setattr(logs, "is_main", lambda: main)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        set_up_logging()
        logging.getLogger("dynrefer.test").info("a message")
        logging.getLogger("dynrefer.test").warning("a warning")
        printed = capsys.readouterr().err
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    assert ("a message" in printed) is main and "a warning" in printed
