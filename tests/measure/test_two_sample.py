from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lightning_doctor.measure.two_sample import two_sample


def drawn(rows: int, columns: int, seed: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def heavy(rows: int, columns: int, seed: int) -> Tensor:
    """Lognormal columns that depend on each other: nothing about them is normal."""
    values = drawn(rows, columns, seed)
    return (values + values[:, :1]).exp()


@pytest.mark.parametrize("draw", [drawn, heavy])
def test_it_holds_its_level_whatever_the_distribution(draw: Callable[[int, int, int], Tensor]) -> None:
    # An exact test at 5 % finds 50 of 1,000 on average, more than 65 in 1.5 % of tries; the draws are fixed.
    found = sum(two_sample(draw(40, 5, 2 * n), draw(30, 5, 2 * n + 1), seed=n).p_value <= 0.05 for n in range(1000))
    # Far fewer would be a test that finds nothing: fewer than 30 in 0.1 % of tries.
    assert 30 <= found <= 65


@pytest.mark.parametrize("columns", [5, 30, 64])
def test_it_finds_one_of_many_columns_half_a_deviation_off(columns: int) -> None:
    found = 0
    for n in range(40):
        second = drawn(500, columns, 2 * n + 1)
        second[:, 1] += 0.5
        result = two_sample(drawn(500, columns, 2 * n), second, seed=n)
        found += result.p_value <= 0.05 and result.differences[0].column == 1
    # The shift is 8 standard errors of a difference of means: hardly ever is another column further off.
    assert found == 40


def test_it_finds_a_spread_that_differs_where_no_mean_does() -> None:
    second = drawn(300, 5, 1)
    second[:, 3] *= 1.6
    result = two_sample(drawn(300, 5, 0), second)
    assert result.p_value <= 0.01
    assert result.differences[0].column == 3
    # The ratio of two standard deviations of 300 rows each is off by 6 % with one standard error.
    assert result.differences[0].ratio == pytest.approx(1.6, rel=0.2)


def test_it_finds_a_difference_that_no_column_shows() -> None:
    # Two columns add up to the label in one sample and are told apart by their difference alone.
    def pair(sign: float, seed: int) -> Tensor:
        values = drawn(400, 20, seed)
        values[:, 1] = 0.98 * values[:, 0] + 0.2 * values[:, 1]
        values[:, 1] += 0.09 * sign
        values[:, 0] -= 0.09 * sign
        return values

    result = two_sample(pair(-1, 0), pair(1, 1))
    assert result.p_value <= 0.01
    # Along the difference, of deviation 0.2, the means lie 0.36 apart.
    assert result.separation > 0.75


def test_what_differs_is_told_with_means_and_spreads_of_both_sides() -> None:
    first, second = torch.zeros(50, 2), torch.zeros(60, 2)
    first[:, 1] = torch.arange(50) % 2
    second[:, 1] = 82 + (torch.arange(60) % 2)
    most = two_sample(first, second).differences[0]
    assert most.column == 1
    # Means of 0.5 and 82.5 are exact in binary; a sample's deviation divides by one less.
    assert most.means == (0.5, 82.5)
    assert most.spreads[0] == pytest.approx((50 * 0.25 / 49) ** 0.5, rel=1e-12)
    assert most.spreads[1] == pytest.approx((60 * 0.25 / 59) ** 0.5, rel=1e-12)
    assert most.shift == pytest.approx(82 / ((most.spreads[0] ** 2 + most.spreads[1] ** 2) / 2) ** 0.5, rel=1e-12)


def test_rows_that_are_told_apart_every_time_have_a_separation_of_one_and_the_same_rows_none() -> None:
    first = drawn(100, 3, 0)
    assert two_sample(first, first + 20).separation == 1.0
    # Fitted on a row's copy from the other sample a classifier is wrong about it more often than by chance.
    assert two_sample(first, first).separation < 0.5


def test_constant_columns_say_nothing() -> None:
    result = two_sample(torch.full((20, 2), 0.1), torch.full((30, 2), 0.1))
    assert result.p_value == 1.0
    assert result.differences[0].shift == 0.0


def test_it_finds_columns_that_hang_together_in_one_sample_only() -> None:
    first, second = drawn(400, 4, 0), drawn(400, 4, 1)
    second[:, 1] = 0.9 * second[:, 0] + (1 - 0.9**2) ** 0.5 * second[:, 1]
    result = two_sample(first, second)
    assert result.p_value <= 0.01
    assert result.separation > 0.6


@pytest.mark.parametrize(
    ("first", "second", "complaint"),
    [
        (torch.zeros(20, 2), torch.zeros(20, 3), r"must be \[N, D\] and \[M, D\], got \[20, 2\] and \[20, 3\]"),
        (torch.zeros(20), torch.zeros(20), "must be"),
        (torch.zeros(20, 2), torch.zeros(7, 2), "8 rows or more, got 20 and 7"),
        (torch.zeros(20, 2), torch.full((20, 2), torch.nan), "every value must be finite"),
    ],
)
def test_what_cannot_be_tested_is_refused(first: Tensor, second: Tensor, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        two_sample(first, second)


def test_of_a_column_of_two_values_the_spread_says_nothing_that_the_mean_does_not() -> None:
    drawn = torch.rand(200, 2, generator=torch.Generator().manual_seed(0))
    first = torch.stack([(drawn[:, 0] < 0.15).float(), drawn[:, 1]], dim=1)
    second = torch.stack([torch.zeros(50), 0.1 * drawn[:50, 1]], dim=1)
    ratios = {each.column: each.ratio for each in two_sample(first, second).differences}
    assert ratios[0] == 1.0
    # Standard deviations of 200 and 50 rows: the ratio is off by 11 % with one standard error.
    assert ratios[1] == pytest.approx(0.1, rel=0.35)
