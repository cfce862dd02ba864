import multiprocessing
import re

import pytest

from dynrefer.config import ConfigError, load_config
from dynrefer.runners.run_folder import begin, claimed_folder, make_output_dir


def test_output_folder(tmp_path):
    folder = make_output_dir(tmp_path / "a" / "b")
    assert folder.is_dir() and not list(folder.iterdir())
    make_output_dir(folder)
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(PermissionError, match=rf"run.output_dir '{path}' cannot be written"):
            make_output_dir(path)
    (folder / "results").touch()
    with pytest.raises(PermissionError, match="cannot be written .*results.*choose another folder"):
        make_output_dir(folder)


def test_a_folder_is_claimed_and_released(make_config, tmp_path):
    with claimed_folder(make_config()) as folder:
        assert folder == tmp_path / "output" and folder.is_dir()
    with claimed_folder(make_config()):
        pass


@pytest.mark.parametrize("name", ["checkpoints", "log.jsonl", "config.yaml"])
def test_a_folder_that_holds_a_run_is_refused_as_it_is(make_config, tmp_path, name):
    folder = tmp_path / "output"
    folder.mkdir()
    (folder / "metrics-shapes-test-eval.json").touch()  # evaluations do not make a run
    with claimed_folder(make_config()):
        pass
    (folder / name).touch()
    told = f"'{folder}' holds a run ({name}). Go on with it by run.resume=auto, choose another "
    with pytest.raises(ConfigError, match=re.escape(told)), claimed_folder(make_config()):
        pytest.fail("claimed")
    elsewhere = make_config(f"run.resume_ckpt_path={tmp_path}/other/checkpoints/last")
    with pytest.raises(ConfigError, match="holds a run"), claimed_folder(elsewhere):
        pytest.fail("claimed")
    own = f"run.resume_ckpt_path={folder}/checkpoints/previous"
    for option in ("run.resume=auto", "run.overwrite=true", own):
        with claimed_folder(make_config(option)) as found:
            assert found == folder


def test_settings_that_make_no_sense(make_config):
    with pytest.raises(ConfigError, match="run.resume: last; valid is auto"):
        make_config("run.resume=last")
    both = make_config("run.resume=auto", "run.overwrite=true")
    with pytest.raises(ConfigError, match="run.overwrite deletes the run"), claimed_folder(both):
        pytest.fail("claimed")


def _claim(config, told):
    try:
        with claimed_folder(config):
            told.put("claimed")
    except ConfigError as error:
        told.put(str(error))


def test_two_runs_at_once(make_config, tmp_path):
    config = make_config("run.resume=auto")
    processes = multiprocessing.get_context("fork")
    told = processes.SimpleQueue()
    with claimed_folder(config):
        before = sorted(tmp_path.rglob("*"))
        other = processes.Process(target=_claim, args=(config, told))
        other.start()
        other.join()
        assert re.match(r"another run is at work in .*/output' \(process \d+ on ", told.get())
        assert sorted(tmp_path.rglob("*")) == before
    again = processes.Process(target=_claim, args=(config, told))
    again.start()
    again.join()
    assert told.get() == "claimed"


def test_overwriting_deletes_a_run_and_nothing_else(make_config, tmp_path):
    folder = make_output_dir(tmp_path / "output")
    (folder / "checkpoints" / "step-1").mkdir(parents=True)
    (folder / "results").mkdir()
    for name in ("log.jsonl", "metrics-shapes-val-epoch9.md", "regions-x.html", "notes.txt"):
        (folder / name).touch()
    begin(make_config("run.resume=auto"), folder)
    assert len(list(folder.iterdir())) == 7
    begin(make_config("run.overwrite=true"), folder)
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "notes.txt"}
    assert load_config(folder / "config.yaml").run.overwrite
