import pytest

from scripts import benchmark_predict


def test_all_ways_say_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--tiny", "--regions", "24", "--single", "8", "--device", "cpu"]
    benchmark_predict.main(benchmark_predict.parse(words))
    text = capsys.readouterr().out
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ")][2:]
    assert [(row[0].strip(), int(row[1])) for row in rows] == [
        ("region by region", 8),
        ("image by image", 8),
        ("stream", 24),
    ]
    assert all(float(row[2]) > 0 for row in rows)
    assert "0 of 8 captions differ" in text and "captions: " in text
