from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import t as reference

from lightning_doctor.measure.evidence import evidence, student


@pytest.mark.parametrize("freedom", [*range(1, 12), 31])
@pytest.mark.parametrize("value", [-3.0, -0.2, 0.0, 0.7, 2.5, 9.0])
def test_tails_of_student_are_the_known_ones(value: float, freedom: int) -> None:
    # A sum of up to sixteen numbers under one, in float64, less one.
    assert student(value, freedom) == pytest.approx(float(reference.sf(value, freedom)), abs=1e-14)


def test_a_mean_of_noise_is_beyond_chance_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    chances = [evidence(torch.randn(8, generator=generator)).chance for _ in range(2000)]
    found = sum(chance < 0.05 for chance in chances) / 2000
    # √(0.05·0.95/2000) = 0.0049: four of them.
    assert found == pytest.approx(0.05, abs=0.02)


def test_the_error_is_that_of_the_mean() -> None:
    found = evidence(torch.tensor([1.0, 2.0, 3.0, 6.0]))
    # Squares about the mean of 3: 4 + 1 + 0 + 9, over three, over four.
    assert (found.mean, found.error) == (3, pytest.approx(math.sqrt(14 / 12)))


@pytest.mark.parametrize(("values", "chance"), [([0.5], 0), ([0.0], 1), ([-1.0], 1), ([2.0, 2.0], 0), ([0.0, 0.0], 1)])
def test_values_without_scatter_are_what_they_are(values: list[float], chance: float) -> None:
    assert evidence(torch.tensor(values)).chance == chance


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_no_evidence(value: float) -> None:
    assert evidence(torch.tensor([1.0, value])).chance == 1
