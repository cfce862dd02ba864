import re
import sys

import pytest

from scripts import benchmark_metrics
from tests.metrics.loops import WordOverlap


def run(monkeypatch, capsys, *options):
    monkeypatch.setattr(sys, "argv", ["benchmark_metrics.py", *options])
    benchmark_metrics.main(benchmark_metrics.parse())
    return capsys.readouterr().out


def test_map_by_metric_task_and_loops(monkeypatch, capsys):
    sizes = ("--predictions", "300", "--loop-predictions", "60", "--per-image", "20")
    printed = run(monkeypatch, capsys, *sizes, "--sentences", "0")
    assert re.search(r"vectorised +300 +[\d.]+ +[\d.]+ +0\.\d+", printed)
    assert re.search(r"task, from files +300 +[\d.]+ +[\d.]+ +0\.\d+", printed)
    small, loops = re.findall(r"(?:vectorised|loops) +60 +[\d.]+ +[\d.]+ +(0\.\d+)", printed)
    assert small == loops and float(small) > 0
    assert "METEOR" not in printed


class Counting(WordOverlap):
    """METEOR for the benchmark's own course, with as many processes as asked for."""

    def __init__(self, processes):
        super().__init__()
        self.processes = [None] * (processes or 3)


def test_meteor_by_one_process_and_by_all(monkeypatch, capsys):
    monkeypatch.setattr(benchmark_metrics, "Meteor", Counting)
    benchmark_metrics.time_meteor(50, seed=0)
    printed = capsys.readouterr().out
    assert "50 sentences, 1 process(es)" in printed and "50 sentences, 3 process(es)" in printed
    assert "all scores are equal" in printed


def test_unequal_scores_end_the_benchmark(monkeypatch):
    class Wrong(Counting):
        def scores(self, references, candidates):
            return len(self.processes), []

    monkeypatch.setattr(benchmark_metrics, "Meteor", Wrong)
    with pytest.raises(SystemExit, match="differ"):
        benchmark_metrics.time_meteor(50, seed=0)
