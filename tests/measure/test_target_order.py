from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lightning_doctor.measure.target_order import NumberTally


def drawn(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def compare(*batches: Tensor) -> tuple[list[float], list[float]]:
    run, drift = NumberTally().compare(batches).tolist()
    return run, drift


def test_run_and_drift_of_two_batches_by_hand() -> None:
    run, drift = compare(torch.tensor([0.0, 2.0]), torch.tensor([2.0, 4.0]))
    # One batch: variance 1, mean squared difference of its neighbours 4, in random order 2 · 1 · 2/1 = 4.
    assert run[0] == pytest.approx(0.0)
    assert math.isnan(drift[0])
    # Both: mean 2, variance 2, in random order 2 · 2 · 4/3; the second lies 1 off, and at random (4 − 2)/(4 − 1) · 2/2.
    assert run[1] == pytest.approx(1 - 4 / (16 / 3))
    assert drift[1] == pytest.approx(2 * 1 / 2 / (2 / 3))


def test_shuffled_numbers_run_at_zero_and_drift_at_one_on_average() -> None:
    run, drift = compare(*drawn(20_000).split(16))
    known = [value for value in drift if math.isfinite(value)]
    # 1250 batches: standard errors of about 0.25/35 and of 1.4/35.
    assert sum(run) / len(run) == pytest.approx(0.0, abs=0.03)
    assert sum(known) / len(known) == pytest.approx(1.0, abs=0.16)


def test_sorted_numbers_run_at_one_and_drift_as_much_as_a_batch_is_large() -> None:
    tally = NumberTally()
    batches = drawn(4000).sort().values.split(16)
    tally.compare(batches)
    # Once all are known.
    run, drift = tally.compare(batches).tolist()
    assert min(run) > 0.9
    assert sum(drift) / len(drift) == pytest.approx(16.0, rel=0.05)


def test_windows_make_no_difference() -> None:
    batches = drawn(640).split(32)
    whole = compare(*batches)
    tally = NumberTally()
    parts = [tally.compare(batches[i : i + 5]).tolist() for i in range(0, 20, 5)]
    for row in range(2):
        joined = [value for part in parts for value in part[row]]
        assert joined[1:] == pytest.approx(whole[row][1:])


def test_neither_unit_nor_origin_matters() -> None:
    plain = compare(*drawn(320).split(32))
    moved = compare(*(1e-3 * drawn(320) + 1e6).split(32))
    # Of a spread of 1e-3 about 1e6 float64 keeps seven digits.
    for row in range(2):
        assert moved[row][1:] == pytest.approx(plain[row][1:], rel=1e-4, abs=1e-4)


def test_what_is_not_finite_is_left_out_and_batches_may_differ_in_size() -> None:
    first, second = drawn(20), drawn(12, seed=1)
    gaps = torch.cat([second, torch.tensor([math.nan, math.inf], dtype=torch.float64)])
    assert compare(first, gaps)[1] == pytest.approx(compare(first, second)[1], nan_ok=True)


@pytest.mark.parametrize("batches", [(torch.full((4,), 3.0),) * 3, (torch.full((4,), math.nan),) * 2])
def test_constants_and_gaps_alone_have_no_order(batches: tuple[Tensor, ...]) -> None:
    run, drift = compare(*batches)
    assert not any(math.isfinite(value) for value in run + drift)
