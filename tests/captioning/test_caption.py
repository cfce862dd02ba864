"""``dynrefer caption``: what it writes, what it takes, and what a kill leaves."""

import itertools
import json
import os
import signal
import time

import numpy as np
import pytest

from dynrefer.captioning import captioner as captioner_module
from dynrefer.captioning.output import ResumableLines, whole_lines
from dynrefer.command_line import entry_point
from dynrefer.commands import caption, parsers
from dynrefer.datasets.shards.writing import write_shards
from dynrefer.predictor import RegionPredictor
from tests.processes import ROOT, context, run_together


def words(photos, out, regions=None, **more):
    given = {
        "checkpoint": photos / "checkpoints/last",
        "images": photos / "images",
        "regions": regions or photos / "regions.jsonl",
        "out": out,
        "device": "cpu",
        **more,
    }
    return [str(w) for name, value in given.items() for w in (f"--{name}", value)]


def captioned(*given, **more):
    entry_point(caption.main, parsers.caption().parse_args(words(*given, **more)))


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(photos, tmp_path_factory):
    """The lines of a command that nothing disturbs."""
    out = tmp_path_factory.mktemp("whole") / "out.jsonl"
    captioned(photos, out)
    assert sorted(path.name for path in out.parent.iterdir()) == ["out.jsonl"]
    return out.read_bytes()


def assert_same(out, whole):
    """Equal lines in equal order; scores differ by the rounding of other batches."""
    lines, wanted = read(out), [json.loads(line) for line in whole.splitlines()]
    scores = [[line.pop("score") for line in part] for part in (lines, wanted)]
    assert lines == wanted
    np.testing.assert_allclose(*scores, atol=1e-5)


def test_a_line_a_region_in_their_order(photos, whole):
    lines = [json.loads(line) for line in whole.splitlines()]
    ids = [[10 * n, 10 * n + 1, f"many {n}/0", f"many {n}/1"] for n in range(6)]
    assert [line["id"] for line in lines] == sum(ids, [])
    predictor = RegionPredictor.from_checkpoint(photos / "checkpoints/last", "cpu")
    for number, request in enumerate(read(photos / "regions.jsonl")[:3]):
        boxes = request.get("boxes") or [request["box"]]
        expected = predictor.predict(photos / "images/0.png", boxes, decoders=["caption"])
        for line, result in zip(lines[number:], expected, strict=False):
            assert (line["box"], line["image"]) == (list(result.box), "0.png")
            assert (line["caption"], line["tags"]) == (
                result.prediction.caption,
                result.prediction.tags,
            )
            assert line["score"] == pytest.approx(result.prediction.score, abs=1e-5)
            assert set(line) == {"id", "image", "box", "caption", "score", "tags", "views"}


def test_bad_lines_are_reported_and_counted(photos, tmp_path, capsys):
    rows = [
        {"id": 1, "image": "0.png", "box": [1, 2, 20, 30], "controls": ["red"]},
        {"id": 2, "image": "none.png", "box": [1, 2, 20, 30]},
        {"id": 1, "image": "0.png", "box": [1, 2, 20, 31]},
        {"id": 3, "image": "0.png", "box": [30, 2, 20, 30]},
        {"id": 4, "image": "0.png", "mask": str(photos / "mask.png")},
        {"id": 5, "image": "0.png", "mask": {"size": [40, 50], "counts": [0, 2000]}},
        {"id": 6, "image": "0.png"},
        {"image": "0.png", "box": [1, 2, 20, 30]},
        {"id": 7, "box": [1, 2, 20, 30]},
        {"id": 8, "image": "0.png", "box": [1, 2, 20, 30], "controls": "red"},
        {"id": 9, "image": "0.png", "boxes": [[1, 2, 20, 30], [1, 2, 3]]},
        [1, 2],
    ]
    text = "\n".join(map(json.dumps, rows)) + '\n\n{"id": 10, "image"\n'
    (tmp_path / "in.jsonl").write_text(text)
    captioned(photos, tmp_path / "out.jsonl", tmp_path / "in.jsonl")
    lines = read(tmp_path / "out.jsonl")
    told = {line["id"] or line["line"]: line.get("error", line.get("box")) for line in lines}
    assert told[1] == [1, 2, 20, 30] and told["9/0"] == [1, 2, 20, 30]
    assert (told[4], told[5]) == ([5, 10, 25, 20], [0, 0, 50, 40])
    start = f"{tmp_path}/in.jsonl: line "
    wrong = {
        2: f"image file {photos}/images/none.png does not exist",
        3: f"{start}3: repeats the id 1 of line 1",  # lines that are none go by their number
        8: f"{start}8: 'id' is None; valid is a whole number or a text",
        9: f"{start}9: 'image' is None; valid is a file's name",
        7: f"{start}7: has no region; give one of box, boxes, mask",
        10: f"{start}10: 'controls' is 'red'; valid is a list of words",
        12: f"{start}12: is no object",
    }
    by_line = {line["line"]: line["error"] for line in lines if "line" in line}
    assert by_line == {n: e for n, e in wrong.items() if n != 2} | {14: by_line[14]}
    assert by_line[14].startswith(f"{start}14: Expecting") and told[2] == wrong[2]
    box_error = next(line["error"] for line in lines if line["id"] == 3)
    assert box_error.startswith("box [30.0, 2.0, 20.0, 30.0] has no area")
    assert next(line for line in lines if line["id"] == "9/1")["error"].startswith("box")
    assert len(lines) == 14
    told = capsys.readouterr().err
    assert "14 regions in" in told and "10 of the new ones could not be used" in told
    assert f"region None: {start}8: 'id' is None" in told


class Killed(BaseException):
    """Stands for what ends a process at once."""


def test_what_a_kill_leaves_is_gone_on_with(photos, whole, tmp_path, monkeypatch):
    """Ended after a few lines again and again, the last of them torn; nothing is done twice."""
    out, described, writes = tmp_path / "out.jsonl", [], itertools.count()
    own = tmp_path / "out.jsonl.parts/rank-00000.jsonl"
    write, line_of = ResumableLines.write, captioner_module.RegionCaptioner._line

    def counted(self, region, result):
        described.append(region.key)
        return line_of(self, region, result)

    def killed(self, lines):
        write(self, lines)
        if next(writes) % 2:
            raise Killed

    monkeypatch.setattr(captioner_module.RegionCaptioner, "_line", counted)
    monkeypatch.setattr(ResumableLines, "write", killed)
    torn = 0
    for _ in range(3):
        with pytest.raises(Killed):
            captioned(photos, out, **{"batch-size": 1})
        assert not out.exists()
        own.write_bytes(own.read_bytes()[:-5])
        torn += 1
    monkeypatch.setattr(ResumableLines, "write", write)
    captioned(photos, out)
    assert_same(out, whole)
    assert len(described) == 24 + torn
    before = out.read_bytes()
    captioned(photos, out)  # is done
    assert len(described) == 24 + torn and out.read_bytes() == before


def started(arguments):
    import sys

    sys.argv = ["dynrefer", *arguments]
    from dynrefer.commands.main import main

    main()


def test_sigkill(photos, whole, tmp_path):
    out, parts = tmp_path / "out.jsonl", tmp_path / "out.jsonl.parts/rank-00000.jsonl"
    given = ["caption", *words(photos, out, **{"batch-size": 1})]
    process = context.Process(target=started, args=(given,))
    process.start()
    while process.is_alive() and not (parts.is_file() and parts.stat().st_size):
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL and not out.exists()
    kept = len(list(whole_lines(parts)))
    assert 0 < kept < 24
    captioned(photos, out)
    assert_same(out, whole)


def test_processes_share_the_work_and_another_number_goes_on(photos, whole, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    one, two = run_together("-m", "dynrefer", "caption", *words(photos, out), cwd=ROOT)
    assert (one.returncode, two.returncode) == (0, 0), one.stderr + two.stderr
    assert "] 24 regions in" in one.stderr  # of both together
    assert_same(out, whole)
    # As two processes leave it that were killed, for one to go on with.
    lines = ResumableLines(out, {}, 0)
    out.unlink()
    arguments = parsers.caption().parse_args(words(photos, out))
    lines.job = caption._job(arguments)
    lines.begin()
    content = whole.splitlines(keepends=True)
    lines.own.write_bytes(b"".join(content[:3]) + content[3][:7])
    lines.own.with_name("rank-00001.jsonl").write_bytes(content[5] + content[9][:-1])
    captioned(photos, out)
    assert_same(out, whole)
    told = capsys.readouterr().err
    assert "] 20 regions in" in told and "), 4 before;" in told


def test_other_work_is_not_mixed_in(photos, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    arguments = parsers.caption().parse_args(words(photos, out))
    ResumableLines(out, caption._job(arguments), 0).begin()
    with pytest.raises(SystemExit):
        captioned(photos, out, top=7)
    assert "was begun with top: 5, this is 7; go on with the same" in capsys.readouterr().err
    out.write_text('{"id": 0}\n')
    with pytest.raises(SystemExit):
        captioned(photos, out)
    assert "is there and lacks 23 regions" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"images": "none"}, "no folder of images or shards at none"),
        ({"regions": "none.jsonl"}, "no file of regions at none.jsonl"),
        ({"out": "none/out.jsonl"}, "there is no folder none"),
        ({"decoders": "captions"}, "unknown decoders ['captions']"),
        ({"checkpoint": "none"}, "no checkpoint at none"),
    ],
)
def test_wrong_arguments(photos, tmp_path, monkeypatch, capsys, more, message):
    monkeypatch.chdir(tmp_path)
    given = {"checkpoint": photos / "checkpoints/last", "images": photos / "images"}
    given |= {"regions": photos / "regions.jsonl", "out": "out.jsonl", **more}
    arguments = [str(w) for name, value in given.items() for w in (f"--{name}", value)]
    with pytest.raises(SystemExit) as stop:
        entry_point(caption.main, parsers.caption().parse_args(arguments))
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_annotations_and_shards(photos, world, tmp_path):
    images, shards = world / "images/test", tmp_path / "shards"
    write_shards(world / "test.json", shards)
    outs = []
    for name, folder in {"files": world / "images/test", "shards": shards}.items():
        outs.append(tmp_path / f"{name}.jsonl")
        captioned(photos, outs[-1], world / "test.json", images=folder, decoders="tags")
    assert outs[0].read_bytes() == outs[1].read_bytes()
    content = json.loads((world / "test.json").read_text())
    lines = read(outs[0])
    assert [line["id"] for line in lines] == [a["id"] for a in content["annotations"]]
    boxes = np.array([a["bbox"] for a in content["annotations"]])
    boxes[:, 2:] += boxes[:, :2]
    np.testing.assert_allclose([line["box"] for line in lines], boxes, atol=0.01)
    assert (images / lines[0]["image"]).is_file()
