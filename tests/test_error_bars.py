from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
from scipy import stats

from lightning_doctor.error_bars import (
    hoeffding,
    metric_span,
    normal,
    paired,
    samples_needed,
    standard_error,
    student_quantile,
)


def test_hoeffding_is_its_formula() -> None:
    # √(ln(2 / 0.05) / (2 · 200)); ten candidates share the 5 % out; a range of 100 is per cent.
    assert hoeffding(200) == pytest.approx(math.sqrt(math.log(40) / 400), rel=1e-12)
    assert hoeffding(200, candidates=10) == pytest.approx(math.sqrt(math.log(400) / 400), rel=1e-12)
    assert hoeffding(200, span=100.0) == pytest.approx(100 * hoeffding(200), rel=1e-12)
    assert hoeffding(200, confidence=0.99) == pytest.approx(math.sqrt(math.log(200) / 400), rel=1e-12)


@pytest.mark.parametrize(("samples", "rate"), [(20, 0.5), (20, 0.95), (500, 0.5), (500, 0.9)])
def test_hoeffding_holds_for_every_count_of_a_binomial(samples: int, rate: float) -> None:
    # The exact chance that a mean of zeros and ones is further off than the bar: at most 5 %.
    bar = hoeffding(samples)
    missed = sum(
        stats.binom.pmf(count, samples, rate) for count in range(samples + 1) if abs(count / samples - rate) > bar
    )
    assert missed <= 0.05


def test_the_best_of_many_candidates_is_held_too() -> None:
    # 20 equal candidates of accuracy 0.5 on 50 samples, 500 times: the best lies over the bar of one figure far more
    # often than 5 %, and over that of 20 at most so often; the inequality is wide, so in fact nearly never.
    source = random.Random(0)
    best = [max(sum(source.random() < 0.5 for _ in range(50)) / 50 for _ in range(20)) - 0.5 for _ in range(500)]
    assert sum(luck > hoeffding(50) for luck in best) > 0
    assert sum(luck > hoeffding(50, candidates=20) for luck in best) <= 25


@pytest.mark.parametrize("difference", [0.3, 0.04, 0.01])
@pytest.mark.parametrize("candidates", [1, 2, 7])
def test_samples_needed_are_the_least_whose_bars_do_not_overlap(difference: float, candidates: int) -> None:
    needed = samples_needed(difference, candidates=candidates)
    assert 2 * hoeffding(needed, candidates=candidates) <= difference
    assert 2 * hoeffding(needed - 1, candidates=candidates) > difference
    assert samples_needed(-100 * difference, candidates=candidates, span=100.0) == pytest.approx(needed, abs=1)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 9, 10, 30, 101])
@pytest.mark.parametrize("probability", [0.6, 0.9, 0.975, 0.9995])
def test_students_quantiles_are_those_of_the_tables(freedom: int, probability: float) -> None:
    # Sixty halvings leave rounding only, which the flat tail of one degree of freedom enlarges.
    assert student_quantile(probability, freedom) == pytest.approx(stats.t.ppf(probability, freedom), rel=1e-9)


def test_a_paired_difference_is_students_with_a_wider_error() -> None:
    # Mean 0.1, s = 0.02, k = 4: 0.02 · √(1/4 + 1/3) · t(0.975, 3) = 0.02 · 0.76376 · 3.18245 = 0.048612.
    spread = 0.02 * math.sqrt(3) / 2
    interval = paired([0.1 - spread, 0.1 - spread, 0.1 + spread, 0.1 + spread])
    assert interval.half_width == pytest.approx(0.048612, abs=1e-6)
    assert (interval.low + interval.high) / 2 == pytest.approx(0.1)


def test_more_candidates_make_a_paired_difference_less_sure() -> None:
    assert paired([0.1, 0.12, 0.08], candidates=5).half_width > paired([0.1, 0.12, 0.08]).half_width


def test_a_mean_of_many_is_normal() -> None:
    assert normal(0.5) == pytest.approx(0.5 * stats.norm.ppf(0.975), rel=1e-12)
    assert normal(0.5, candidates=4) == pytest.approx(0.5 * stats.norm.ppf(1 - 0.05 / 8), rel=1e-12)


def test_a_standard_error_takes_two_finite_values() -> None:
    assert standard_error([1.0, 3.0]) == pytest.approx(1.0)
    assert math.isnan(standard_error([1.0]))
    assert math.isnan(standard_error([1.0, math.nan]))


@pytest.mark.parametrize(
    ("name", "values", "span"),
    [
        ("val_acc", [0.1, 0.9], 1.0),
        ("valid/Accuracy", [10.0, 90.0], 100.0),
        ("val_top1", [0.5], 1.0),
        ("val_err", [0.3], 1.0),
        ("val_loss", [0.3], 0.0),
        # A mean squared error has no limit.
        ("val_error", [0.3], 0.0),
        ("val_acc", [-0.1], 0.0),
        ("val_acc", [1000.0], 0.0),
        ("val_acc", [], 0.0),
        ("val_acc", [math.nan], 0.0),
    ],
)
def test_only_shares_have_a_known_range(name: str, values: list[float], span: float) -> None:
    assert metric_span(name, values) == span


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: hoeffding(0), "samples must be at least 1, got 0"),
        (lambda: hoeffding(10, candidates=0), "candidates must be at least 1, got 0"),
        (lambda: hoeffding(10, confidence=1.0), r"confidence must be in \(0, 1\), got 1.0"),
        (lambda: samples_needed(0.0), "difference must be a number other than 0, got 0.0"),
        (lambda: samples_needed(math.nan), "difference must be a number other than 0, got nan"),
        (lambda: paired([0.1]), "of at least 2 folds and finite"),
    ],
)
def test_what_cannot_be_is_refused(call: Callable[[], Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        call()
