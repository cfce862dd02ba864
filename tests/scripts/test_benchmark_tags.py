import pytest

from scripts import benchmark_tags


def test_prints_both_tables(capsys: pytest.CaptureFixture[str]) -> None:
    benchmark_tags.main(benchmark_tags.parse(["--count", "300", "--processes", "1"]))
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines if line.startswith(benchmark_tags.HALVES)]
    assert [(row[0], row[2]) for row in rows] == [
        (half, side) for half in benchmark_tags.HALVES for side in benchmark_tags.SIDES
    ]
    assert all(90 < float(cell.rstrip("%")) <= 100 for row in rows for cell in row[3:])
    assert lines[-1].split()[0] == "1"
    assert float(lines[-1].split()[1].replace(",", "")) > 530  # 3.8 M in an hour on two cores


def test_as_many_annotations_as_wanted() -> None:
    rows = [{"phrase": "a dog"}, {"phrase": "a cat"}]
    made = list(benchmark_tags.annotations(rows, 5))
    assert [record["id"] for record in made] == [0, 1, 2, 3, 4]
    assert [record["caption"] for record in made] == ["a dog", "a cat"] * 2 + ["a dog"]
