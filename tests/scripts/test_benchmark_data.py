import re
import sys

import pytest

from scripts import benchmark_data
from tests import processes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


def test_all_figures_are_printed(monkeypatch, capsys, tmp_path):
    options = "--regions 300 --files 6 --workers 1 --batches 2".split()  # noqa: SIM905
    monkeypatch.setattr(sys, "argv", ["benchmark_data.py", *options, "--folder", str(tmp_path)])
    monkeypatch.setattr(benchmark_data, "BATCH_SIZE", 8)
    monkeypatch.setattr(
        benchmark_data.multiprocessing, "get_context", lambda kind: processes.context
    )
    benchmark_data.main(benchmark_data.parse())
    printed = capsys.readouterr().out
    assert "300 regions of 6 images" in printed and "6 images in 1 shards" in printed
    for pattern in (
        r"index made: [\d.]+ s, \d+ MB",
        r"opened for training, index there: [\d.]+ s",
        r"300 regions, 1 worker\(s\): USS \d+ MB, PSS \d+ MB",
        r"files, cold +[\d,]+ +[\d,]+ +[1-9]",
        r"shards, warm +[\d,]+ +[\d,]+ +[1-9]",
    ):
        assert re.search(pattern, printed), pattern
    assert not list(tmp_path.iterdir())


def test_made_annotations_spread_the_regions(tmp_path):
    names = ["a.jpg", "b.jpg"]
    benchmark_data.make_annotations(tmp_path / "file.json", names, 5, 23)
    index = benchmark_data.AnnotationIndex.open(tmp_path / "file.json", require_caption=True)
    assert index.region_counts.tolist() == [5, 5, 4, 5, 4] and len(index) == 23
    assert [index.image(j).file_name for j in range(5)] == ["a.jpg", "b.jpg"] * 2 + ["a.jpg"]
