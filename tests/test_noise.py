"""The constants are checked by simulation: of many series with a known noise the mean is right."""

from __future__ import annotations

import math
from statistics import fmean, stdev

import pytest

from lightning_doctor.history import Series
from lightning_doctor.noise import blocks, levels, noise, shift, stretch, trend
from tests.histories import gauss


def series_of(steps: list[int]) -> Series:
    series = Series()
    for step in steps:
        series.append(step, float(step))
    return series


def test_noise_is_the_standard_deviation_of_independent_normal_noise() -> None:
    # 300 series of 200 values: the mean of the estimates is known to about 0.5 %.
    assert fmean(noise(gauss(200, 3.0, seed)) for seed in range(300)) == pytest.approx(3.0, rel=0.02)


def test_noise_does_not_see_a_straight_trend() -> None:
    values = gauss(500)
    assert noise([5.0 * i + v for i, v in enumerate(values)]) == pytest.approx(noise(values), rel=1e-6)


def test_noise_does_not_see_single_spikes() -> None:
    values = gauss(500)
    spiked = [1e6 if i == 250 else v for i, v in enumerate(values)]
    assert noise(spiked) == pytest.approx(noise(values), rel=0.05)


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 2.0], [5.0] * 10])
def test_noise_is_never_below_what_float32_resolves(values: list[float]) -> None:
    assert noise(values) == pytest.approx(1e-6 * max(values, default=0.0))


def test_noise_of_heavy_tails_is_put_at_their_core() -> None:
    # Squares of normal numbers have standard deviation √2.
    estimate = fmean(noise([v * v for v in gauss(300, 1.0, seed)]) for seed in range(100))
    assert 0.55 < estimate / math.sqrt(2) < 0.75


def test_trend_of_a_line_is_its_rise_from_the_first_value_to_the_last() -> None:
    assert trend([0.5 * i for i in range(80)]).change == pytest.approx(0.5 * 79)
    assert trend([1.0, 2.0, 3.0]).change == pytest.approx(2.0)


def test_trend_of_noise_has_the_error_it_states() -> None:
    changes = [trend(gauss(200, 1.0, seed)) for seed in range(1500)]
    # The root mean square of the stated errors is the spread of the changes; 1500 runs know it to about 3 %.
    stated = math.sqrt(fmean(t.error**2 for t in changes))
    assert stdev(t.change for t in changes) == pytest.approx(stated, rel=0.08)


def test_trend_without_a_trend_seldom_exceeds_its_sigmas() -> None:
    far = [abs(trend(gauss(200, 1.0, seed)).sigmas) for seed in range(1500)]
    # Student's t with 6 degrees of freedom: 2.4 % over 3, 0.7 % over 4.
    assert 0.01 < fmean(s > 3 for s in far) < 0.04
    assert fmean(s > 4 for s in far) < 0.015


def test_trend_survives_huge_values_and_too_few() -> None:
    assert math.isfinite(trend([1e300, 1e301, 1e302, 1e303] * 4).change)
    assert trend([1.0, 2.0]).sigmas == 0.0
    assert trend([]).change == 0.0


def test_shift_of_noise_has_the_error_it_states() -> None:
    shifts = [shift(gauss(60, 1.0, 2 * seed), gauss(90, 1.0, 2 * seed + 1)) for seed in range(1500)]
    # The large-sample error of a median; at these sizes and 1500 runs right to some percent.
    assert stdev(s.change for s in shifts) == pytest.approx(fmean(s.error for s in shifts), rel=0.08)


def test_shift_is_the_difference_of_medians() -> None:
    assert shift([1.0, 2.0, 99.0], [5.0, 6.0, 7.0]).change == 4.0
    assert shift([5.0, 6.0], []).sigmas == 0.0


def test_stretch_counts_steps_not_points() -> None:
    # The first half of the run was thinned to every tenth step.
    series = series_of([*range(0, 100, 10), *range(100, 201)])
    assert stretch(series, 0.5) == [float(step) for step in range(100, 201)]
    assert stretch(series, 0.0, 0.25) == [0.0, 10.0, 20.0, 30.0, 40.0, 50.0]
    assert stretch(series, 0.0) == series.values


def test_stretch_of_nothing_is_nothing() -> None:
    assert stretch(Series(), 0.5) == []
    assert stretch(series_of([7]), 0.5) == [7.0]


def test_blocks_are_nearly_equal_and_never_empty() -> None:
    assert [len(block) for block in blocks(range(10), 4)] == [2, 3, 2, 3]
    assert [len(block) for block in blocks(range(3), 8)] == [1, 1, 1]
    assert blocks([], 8) == []


def test_levels_pass_over_spikes() -> None:
    assert levels([1.0, 1.0, 50.0, 2.0, 2.0, 2.0], 2) == [1.0, 2.0]
