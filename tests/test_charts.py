import numpy as np
import pytest

from dynrefer.charts import LEFT, SIZE, Curve, Level, _Area, _ticks, line_chart

RED, BLUE = (224, 49, 49), (25, 113, 194)


def count(picture, color):
    return int((np.asarray(picture) == color).all(axis=2).sum())


@pytest.mark.parametrize(
    ("least", "greatest", "ticks"),
    [
        (0.1, 1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (61.87, 62.57, [61.8, 62.0, 62.2, 62.4, 62.6]),
        (0, 1000, [0, 200, 400, 600, 800, 1000]),
        (-3, -1, [-3, -2.5, -2, -1.5, -1]),
        (1e-7, 5e-7, [1e-7, 2e-7, 3e-7, 4e-7, 5e-7]),
    ],
)
def test_ticks_are_round_and_enclose_the_values(least, greatest, ticks):
    assert _ticks(least, greatest) == pytest.approx(ticks)


@pytest.mark.parametrize("value", [0.0, 95.6, -2.0, 1e-9])
def test_ticks_around_a_single_value(value):
    ticks = _ticks(value, value)
    assert len(ticks) >= 2 and ticks[0] <= value <= ticks[-1]


def test_greater_values_lie_further_right_and_up():
    area = _Area([0, 1], [10, 20])
    assert area.place(0, 10)[0] == LEFT and area.place(1, 10)[0] == LEFT + SIZE[0]
    assert area.place(0, 10)[1] - area.place(0, 20)[1] == SIZE[1]
    assert area.place(0.5, 15) == (LEFT + SIZE[0] // 2, area.place(0, 20)[1] + SIZE[1] // 2)


def test_a_chart_shows_curves_dots_and_level():
    points = [(0.1, 1.0), (0.5, 3.0), (1.0, 2.0)]
    plain = line_chart("title", "x", [Curve("a", RED, points)])
    assert count(plain, RED) > 1000 and not count(plain, BLUE)
    two = line_chart("title", "x", [Curve("a", RED, points), Curve("b", BLUE, [(0.3, 2.5)])])
    assert count(two, BLUE) > 500
    dotted = line_chart("title", "x", [Curve("a", RED, points, [(0.7, 1.2)])])
    faded = tuple(round(part + (255 - part) * 0.6) for part in RED)
    assert count(dotted, faded) > 30 and not count(plain, faded)
    levelled = line_chart("title", "x", [Curve("a", RED, points)], Level("prior", 2.2))
    assert levelled.height > plain.height  # its line in the legend
    assert count(levelled, (125, 131, 139)) > count(plain, (125, 131, 139)) + 500


def test_a_level_outside_the_points_is_on_the_chart():
    chart = line_chart("t", "x", [Curve("a", RED, [(0, 1.0), (1, 1.1)])], Level("far", 9.0))
    rows = np.flatnonzero((np.asarray(chart) == RED).all(axis=2)[150:].any(axis=1))
    assert np.ptp(rows) < SIZE[1] / 8  # the curve is squeezed by the far level


@pytest.mark.parametrize("points", [[], [(0.1, float("nan"))], [(float("inf"), 1.0)]])
def test_nothing_to_show(points):
    with pytest.raises(ValueError, match="chart 'CIDEr': needs points that are finite"):
        line_chart("CIDEr", "ratio", [Curve("a", RED, points)])
