import math

import pytest

from dynrefer.runners.schedules import Schedule, cosine_by_epoch, cosine_by_step

PUBLISHED = Schedule(1e-4, 0.0, -1, 5000, 5, 8000)


def test_published_warm_up_of_minus_one_is_no_ramp():
    rate = cosine_by_epoch(PUBLISHED)
    assert {rate(0, step) for step in (0, 1, 2500, 4999, 5000, 7999)} == {1e-4}


def test_published_cosine_steps_once_an_epoch():
    rate = cosine_by_epoch(PUBLISHED)
    for epoch in range(1, 5):
        expected = 0.5e-4 * (1 + math.cos(math.pi * epoch / 5))
        assert rate(epoch, 0) == rate(epoch, 7999) == pytest.approx(expected)


@pytest.mark.parametrize("schedule", [cosine_by_epoch, cosine_by_step])
def test_ramp(schedule):
    rate = schedule(Schedule(1e-3, 1e-5, 1e-6, 10, 3, 40))
    assert rate(0, 0) == 1e-6
    assert rate(0, 5) == pytest.approx((1e-3 + 1e-6) / 2)
    assert rate(0, 10) == pytest.approx(1e-3)
    assert rate(0, 9) < rate(0, 10)


def test_ramp_longer_than_the_first_epoch():
    """By epoch the ramp ends with epoch 0, as published; by step it goes on."""
    numbers = Schedule(1.0, 0.0, 0.0, 100, 4, 50)
    assert cosine_by_epoch(numbers)(1, 0) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert cosine_by_step(numbers)(1, 0) == pytest.approx(0.5)
    assert cosine_by_step(numbers)(2, 0) == pytest.approx(1.0)


def test_cosine_by_step_is_one_curve_to_the_minimum():
    rate = cosine_by_step(Schedule(1.0, 0.1, 0.0, 10, 3, 20))
    rates = [rate(epoch, step) for epoch in range(3) for step in range(20)]
    assert rates[10] == 1.0 and rates[35] == pytest.approx(0.55)
    assert all(a > b for a, b in zip(rates[10:], rates[11:], strict=False))
    assert 0.1 < rates[-1] < 0.11 and rate(3, 0) == pytest.approx(0.1)


@pytest.mark.parametrize("schedule", [cosine_by_epoch, cosine_by_step])
@pytest.mark.parametrize("warmup_steps", [0, 1, 10_000])
def test_every_rate_is_within_its_bounds(schedule, warmup_steps):
    rate = schedule(Schedule(1.0, 0.1, 0.2, warmup_steps, 3, 5))
    rates = [rate(epoch, step) for epoch in range(3) for step in range(5)]
    assert all(0.1 <= value <= 1.0 for value in rates)
    assert rates[0] == (1.0 if warmup_steps == 0 and schedule is cosine_by_step else 0.2)
