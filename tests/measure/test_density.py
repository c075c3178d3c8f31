from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from lightning_doctor.measure.density import Density, density, trace
from lightning_doctor.measure.hessian import Hessian
from tests.measure.dense import dense, perceptron, squared_error, waves
from tests.measure.test_lanczos import matrix

F64 = torch.float64


def of(whole: Tensor, **options: int) -> Density:
    return density(lambda vector: whole @ vector, torch.zeros(len(whole), dtype=F64), **options)


def test_the_density_of_a_network_of_two_thousand_weights_is_that_of_its_exact_spectrum() -> None:
    net, batch = perceptron(2, 42, 42, 1, dtype=F64), waves(100)
    parameters = list(net.parameters())
    exact = torch.linalg.eigvalsh(dense(net, batch))
    assert len(exact) == 1975
    hessian = Hessian(squared_error(net, batch), parameters)
    found = density(hessian, hessian.gradient, runs=10, steps=60)
    assert (found.runs, found.products) == (10, 600)
    # The share of eigenvalues under a value, seen by one random vector, errs by √(2/n)·√(p(1 − p)), under 0.016, and by
    # ten of them by 0.005; quadrature blurs steps of the spectrum, and so values are asked that lie in its gaps.
    ordered = exact.tolist()
    gaps = sorted(((b - a) / (abs(a) + abs(b)), (a + b) / 2) for a, b in pairwise(ordered))
    asked = [middle for _, middle in gaps if abs(middle) > 0.01 * ordered[-1]][-5:]
    for value in asked:
        share = sum(eigenvalue < value for eigenvalue in ordered) / 1975
        assert found.share(value) == pytest.approx(share, abs=4 * 0.005)
    assert found.points[-1] == pytest.approx(ordered[-1], rel=1e-9)
    # One vector errs in the mean by √(2 Σλ²)/n, ten by a third of it.
    error = math.sqrt(2 * float(exact.square().sum()) / 10) / 1975
    assert found.mean == pytest.approx(float(exact.mean()), abs=4 * error)


def test_weights_of_a_known_spectrum_are_the_shares_of_its_eigenvalues() -> None:
    values = torch.cat([torch.full((300,), 1.0), torch.full((100,), 3.0), torch.zeros(600)]).to(F64)
    found = of(matrix(values), runs=20)
    # √(2/1000)·√(p(1 − p))/√20 is 0.005 at most.
    assert found.histogram([-0.5, 0.5, 2.0, 4.0]) == pytest.approx([0.6, 0.3, 0.1], abs=4 * 0.005)
    assert sum(found.weights) == pytest.approx(1, abs=1e-12)


def test_a_curve_has_the_whole_weight_under_it() -> None:
    found = of(matrix(torch.linspace(0, 1, 100, dtype=F64)), steps=20)
    grid = [-1 + 0.01 * index for index in range(301)]
    # The sum of a smooth curve that is zero at both ends converges faster than any power of the spacing.
    assert 0.01 * sum(found.curve(grid, 0.05)) == pytest.approx(1, abs=1e-9)


def test_bins_hold_their_lower_edge() -> None:
    assert Density((0.0, 1.0, 2.0), (0.5, 0.25, 0.25), 1, 3).histogram([0, 1, 2]) == [0.5, 0.25]


def test_what_is_there_when_there_is_no_leave_to_go_on_is_used() -> None:
    whole = matrix(torch.linspace(0, 1, 100, dtype=F64))
    left = iter([True] * 7 + [False] * 5)
    found = density(lambda v: whole @ v, torch.zeros(100, dtype=F64), steps=5, may_go_on=lambda: next(left))
    # Leave is asked for four of the five products of the first run, for the second run, and for two more products.
    assert (found.runs, found.products) == (2, 8)
    assert sum(found.weights) == pytest.approx(1, abs=1e-12)


def test_the_trace_is_within_its_error() -> None:
    values = torch.linspace(-1, 3, 200, dtype=F64)
    whole = matrix(values)
    misses = []
    for seed in range(100):
        found = trace(lambda vector: whole @ vector, values, most=10, seed=seed)
        assert found.error is not None
        misses.append((found.value - float(values.sum())) / found.error)
    # Student's t with nine degrees of freedom has the variance 9/7, and a hundred of them tell it to 20 % or so.
    assert torch.tensor(misses).square().mean() == pytest.approx(9 / 7, rel=0.6)


def test_the_trace_of_a_diagonal_is_exact_with_one_product() -> None:
    found = trace(lambda vector: 2 * vector, torch.zeros(7))
    assert (found.value, found.error) == (14, 0)
    assert trace(lambda vector: 2 * vector, torch.zeros(7), most=1).error is None


def test_a_product_that_is_not_finite_raises() -> None:
    with pytest.raises(ArithmeticError, match="not finite"):
        trace(lambda vector: vector / 0 * math.nan, torch.zeros(3))
    with pytest.raises(ArithmeticError, match="not finite"):
        density(lambda vector: vector * math.nan, torch.zeros(3))


def test_no_global_random_number_is_drawn() -> None:
    state = torch.get_rng_state()
    trace(lambda vector: vector, torch.zeros(3))
    density(lambda vector: vector, torch.zeros(3))
    assert torch.equal(torch.get_rng_state(), state)
