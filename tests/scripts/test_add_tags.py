import json
from pathlib import Path

import pytest

from scripts.convert import add_tags
from tests.processes import run_script

REGIONS = [
    {"id": 1, "image_id": 1, "bbox": [0, 0, 5, 5], "caption": "a red dog on the grass"},
    {"id": 2, "image_id": 1, "bbox": [0, 0, 5, 5], "caption": "something else"},
    {"id": 3, "image_id": 1, "bbox": [0, 0, 5, 5]},
    {"id": 4, "image_id": 1, "bbox": [0, 0, 5, 5], "caption": "wearing red"},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tags.txt").write_text("dog\nred\ngrass\n")
    content = {"dataset": {"image_root": "."}, "images": [{"id": 1}], "annotations": REGIONS}
    (tmp_path / "in.json").write_text(json.dumps(content))
    return tmp_path


def run(folder: Path, *more: str, annotations: str = "in.json", tags: str = "tags.txt") -> int:
    files = {"annotations": annotations, "tags": tags, "out": "out.json"}
    words = [word for flag, name in files.items() for word in (f"--{flag}", str(folder / name))]
    return add_tags.main(add_tags.parse([*words, *more]))


def test_tags_and_counts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder) == 0
    regions = json.loads((folder / "out.json").read_text())["annotations"]
    assert regions[0]["extra_info"] == {"parser_result": {"tag_set1": [1, 0], "tag_set2": [2]}}
    assert regions[1]["extra_info"] == {"parser_result": {"tag_set1": [], "tag_set2": []}}
    assert regions[2] == REGIONS[2]
    printed = capsys.readouterr()
    lines = [line.split() for line in printed.out.splitlines()]
    assert [line[-1] for line in lines[1:]] == ["3", "1", "1", "0.67", "0.67"]
    assert printed.err == ""  # a bar is for terminals, and for what takes minutes


def test_it_runs_as_a_script_with_workers_and_own_synonyms(folder: Path) -> None:
    (folder / "own.txt").write_text("something -> dog, red\nelse -> grass\n")
    files = ["--annotations", "in.json", "--tags", "tags.txt", "--out", "in.json"]
    more = ["--processes", 2, "--synonyms", "own.txt"]
    done = run_script("scripts/convert/add_tags.py", *files, *more, cwd=folder)
    assert done.returncode == 0, done.stderr
    regions = json.loads((folder / "in.json").read_text())["annotations"]
    assert regions[1]["extra_info"]["parser_result"]["tag_set1"] == [2]


def test_the_estimate_counts_across_chunks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for size in (1, 5, 13, 1 << 20):
        monkeypatch.setattr(add_tags, "_CHUNK_BYTES", size)
        assert add_tags.about_how_many(folder / "in.json") == 4


def write(folder: Path, content: bytes) -> None:
    (folder / "in.json").write_bytes(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "in.json"),
        (b"[]", "in.json: must be an object"),
        (b'{"images": []}', "in.json: has no key 'annotations'"),
        (b'{"annotations": [{"id": 1, "caption": "do', "cut off"),
        (b'{"annotations": [{"id": 1, "caption": "caf\xe9"}]}', "is not UTF-8"),
        (b'{"annotations": [{"id": 1, "caption": 4}]}', "annotation 1: wrong type: 'caption' is 4"),
        (b'{"annotations": [null]}', r"annotations[0] is None"),
    ],
)
def test_bad_files_are_one_line_and_leave_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], content: bytes, message: str
) -> None:
    (folder / "out.json").write_text("old")
    write(folder, content)
    assert run(folder) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert (folder / "out.json").read_text() == "old"
    assert {path.name for path in folder.iterdir()} == {"in.json", "out.json", "tags.txt"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"annotations": "absent.json"}, "absent.json"),
        ({"tags": "absent.txt"}, "absent.txt"),
    ],
)
def test_missing_files(
    folder: Path, capsys: pytest.CaptureFixture[str], more: dict[str, str], message: str
) -> None:
    assert run(folder, **more) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--parser", "rule"], "did you mean 'rules'?"),
        (["--synonyms", "/absent/own.txt"], "/absent/own.txt"),
    ],
)
def test_wrong_arguments(
    folder: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert run(folder, *flags) == 1
    assert message in capsys.readouterr().err
