import json
import logging
import sys
import types

import pytest

from dynrefer.runners import logs
from dynrefer.runners.logs import (
    RunLog,
    make_output_dir,
    metric_table,
    set_up_logging,
    write_json,
)


def test_records_are_appended(tmp_path):
    for number in (1, 2):
        log = RunLog(tmp_path, {}, use_wandb=False)
        log.write({"step": number, "name": "ä"})
        log.close()
    lines = (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]


def test_only_the_main_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "is_main", lambda: False)
    log = RunLog(tmp_path, {}, use_wandb=True)
    log.write({"step": 1})
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
    log = RunLog(tmp_path, {"run": {"seed": 1}}, use_wandb=True)
    log.write({"step": 1})
    log.close()
    assert given["config"] == {"run": {"seed": 1}} and run == [{"step": 1}, "finished"]


def test_missing_wandb(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match="run.wandb is true but wandb is missing: pip install"):
        RunLog(tmp_path, {}, use_wandb=True)


def test_output_folder(tmp_path):
    folder = make_output_dir(tmp_path / "a" / "b")
    assert folder.is_dir() and not list(folder.iterdir())
    make_output_dir(folder)
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(PermissionError, match=rf"run.output_dir '{path}' cannot be written"):
            make_output_dir(path)


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


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
