import pytest
import torch

from scripts import benchmark_full_size


def rows_of(text):
    """Cells of the table rows that begin with a name."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    return [row for row in rows if row and row[0] and not row[0].startswith("---")]


def test_tiny_models_go_through_the_whole_benchmark(capsys):
    benchmark_full_size.main(benchmark_full_size.parse(["--tiny"]))
    sections = capsys.readouterr().out.split("### ")[1:]
    assert [s.splitlines()[0] for s in sections] == ["dynrefer_flant5xl", "dynrefer_vicuna"]
    for section in sections:
        rows = rows_of(section)
        assert [row[0] for row in rows] == [
            "training step",
            "prediction",
            "queries",
            "tag logits",
            "attribute scores",
            "class similarities",
            "caption logits",
            "caption loss",
        ]
        assert {row[-1] for row in rows} == {"yes"}
        for name, regions, seconds, rate, peak, _ in rows[:2]:
            assert (regions, peak) == ("2", "-"), name
            assert float(rate) == pytest.approx(2 / float(seconds), rel=0.1)
        assert all(0 < float(row[3]) < 0.1 for row in rows[2:])


def test_values_that_are_not_finite_are_said(tmp_path):
    config = benchmark_full_size.full_config(
        "dynrefer_flant5xl", benchmark_full_size.TINY_T5, tmp_path / "files", tiny=True
    )
    bench = benchmark_full_size.Benchmark(config, torch.device("cpu"))
    batch = benchmark_full_size.random_batch(bench.model, 2, torch.device("cpu"))
    torch.nn.init.constant_(bench.model.caption_decoder.language_model.lm_head.weight, 1e38)
    rows = {row[0]: row[-1] for row in bench.precision(batch)}
    assert rows["queries"] == "yes" and rows["caption loss"] == "NO"


def test_out_of_memory_is_a_row():
    bench = object.__new__(benchmark_full_size.Benchmark)
    bench.is_cuda = False

    def work():
        raise torch.cuda.OutOfMemoryError

    row = bench.measure("training step", 64, work)
    assert row == ["training step", "64", "out of memory", "", "", ""]


def test_a_step_that_is_not_finite_is_a_row(tmp_path):
    config = benchmark_full_size.full_config(
        "dynrefer_vicuna", benchmark_full_size.TINY_LLAMA, tmp_path / "files", tiny=True
    )
    bench = benchmark_full_size.Benchmark(config, torch.device("cpu"))
    batch = benchmark_full_size.random_batch(bench.model, 2, torch.device("cpu"))
    torch.nn.init.constant_(bench.model.tag_decoder.classifier.weight, float("nan"))
    row = bench.measure("prediction", 2, lambda: bench.prediction(batch))
    assert row[:5] == ["prediction", "2", "", "", ""]
    assert row[5] == "NO: tag logits of region(s) [0, 1] are not finite"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu(capsys):
    arguments = benchmark_full_size.parse([])
    with pytest.raises(SystemExit) as ended:
        benchmark_full_size.entry_point(benchmark_full_size.main, arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "error: this needs an NVIDIA GPU; --tiny runs the same code on the CPU\n"
    )
