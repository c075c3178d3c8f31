from __future__ import annotations

import math
import random

import pytest

from lightning_doctor.gradient_noise import noise_scale


def norms(signal: float, noise: float, size: float) -> float:
    """The squared norm of a gradient of so many samples, on average."""
    return signal + noise / size


def test_norms_as_they_are_on_average_give_signal_and_noise_exactly() -> None:
    found = noise_scale([norms(4.0, 100.0, 8)] * 3, [norms(4.0, 100.0, 64)] * 3, 8, 64)
    # A few operations in float64.
    assert (found.signal, found.noise, found.samples) == pytest.approx((4, 100, 25), rel=1e-12)
    assert found.error == pytest.approx(0, abs=1e-12)
    assert (found.pairs, found.reason) == (3, "")


def test_the_error_is_how_far_estimates_scatter() -> None:
    source = random.Random(0)
    estimates, errors = [], []
    for _ in range(300):
        small = [norms(4.0, 100.0, 8) * source.gauss(1, 0.05) for _ in range(20)]
        big = [norms(4.0, 100.0, 64) * source.gauss(1, 0.05) for _ in range(20)]
        found = noise_scale(small, big, 8, 64)
        assert found.samples is not None
        assert found.error is not None
        estimates.append(found.samples)
        errors.append(found.error)
    mean = sum(estimates) / 300
    scatter = math.sqrt(sum((value - mean) ** 2 for value in estimates) / 299)
    # The jackknife of twenty pairs tells a scatter to √(1/40), and their mean over 300 far better; its bias is a few %.
    assert sum(errors) / 300 == pytest.approx(scatter, rel=0.15)


def test_a_signal_that_is_not_positive_beyond_its_noise_is_none() -> None:
    found = noise_scale([12.5, 12.4, 12.6], [1.5, 1.6, 1.4], 8, 64)
    assert found.samples is None
    assert found.signal < 0
    assert "is not over zero beyond its noise" in found.reason
    found = noise_scale([10.0, 14.0, 12.0], [3.0, 0.5, 2.2], 8, 64)
    assert found.signal > 0
    assert found.samples is None


@pytest.mark.parametrize(
    ("small", "big", "reason"),
    [
        ([16.5], [5.5], "a single pair"),
        ([math.nan, 1.0], [1.0, 1.0], "not finite"),
        ([1.0, 1.0], [math.inf, 1.0], "not finite"),
        ([1.0, 1.0], [1.1, 1.1], "the noise came out negative"),
    ],
)
def test_other_reasons_to_have_none(small: list[float], big: list[float], reason: str) -> None:
    found = noise_scale(small, big, 8, 64)
    assert found.samples is None
    assert reason in found.reason


def test_without_noise_the_scale_is_zero() -> None:
    assert noise_scale([2.0, 2.0], [2.0, 2.0], 8, 64).samples == 0


@pytest.mark.parametrize(("small", "big", "sizes"), [([1.0], [], (1, 2)), ([], [], (1, 2)), ([1.0], [1.0], (2, 2))])
def test_pairs_that_are_none_raise(small: list[float], big: list[float], sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="must"):
        noise_scale(small, big, *sizes)
