from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lightning_doctor.measure.hessian import Hessian
from lightning_doctor.measure.lanczos import ends
from lightning_doctor.measure.sharpness import batch_sharpness, preconditioned, rayleigh, step_ratio
from tests.measure.dense import ROWS, TARGETS, squared_error

F64 = torch.float64


def regression() -> Hessian:
    line = nn.Linear(3, 1, bias=False).double()
    nn.init.zeros_(line.weight)
    return Hessian(squared_error(line, (ROWS, TARGETS)), [line.weight])


def test_batch_sharpness_at_the_start_of_the_three_weight_regression() -> None:
    # g = −Xᵀy = −(66, 87, 108), and XᵀX = [[17, 22, 27], [22, 29, 36], [27, 36, 45]].
    gradient = torch.tensor([66.0, 87.0, 108.0], dtype=F64)
    gram = torch.tensor([[17, 22, 27], [22, 29, 36], [27, 36, 45]], dtype=F64)
    expected = float(gradient @ gram @ gradient / (gradient @ gradient))
    # Three numbers, in float64.
    assert batch_sharpness(regression()) == pytest.approx(expected, rel=1e-14)


def test_curvature_has_a_sign_and_no_scale() -> None:
    def product(vector: torch.Tensor) -> torch.Tensor:
        return vector * torch.tensor([-2.0, 4.0], dtype=F64)

    assert rayleigh(product, torch.tensor([1e-200, 0.0], dtype=F64)) == -2
    assert rayleigh(product, torch.tensor([3e100, 3e100], dtype=F64)) == pytest.approx(1, rel=1e-15)
    assert rayleigh(product, torch.zeros(2, dtype=F64)) == 0
    with pytest.raises(ArithmeticError, match="not finite"):
        rayleigh(product, torch.tensor([math.nan, 0.0], dtype=F64))


@pytest.mark.parametrize("rate", [0.01, 0.1])
def test_a_step_that_raises_the_loss_of_a_quadratic_has_a_ratio_over_one(rate: float) -> None:
    hessian = regression()
    update = -rate * hessian.gradient
    change = float(hessian.gradient @ update + update @ hessian(update) / 2)
    ratio = step_ratio(hessian, update)
    assert ratio is not None
    assert (ratio > 1) == (change > 0) == (rate == 0.1)
    # The loss changes by −gᵀ(−u)·(1 − ratio).
    assert change == pytest.approx(float(hessian.gradient @ update) * (1 - ratio), rel=1e-12)
    assert step_ratio(hessian, -update) is None
    assert step_ratio(hessian, 0 * update) is None


def test_preconditioned_products_are_symmetric_and_have_the_eigenvalues_of_the_step() -> None:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(20, 20, generator=generator, dtype=F64)
    whole, diagonal = root + root.T, torch.rand(20, generator=generator, dtype=F64)
    through = preconditioned(lambda vector: whole @ vector, diagonal.sqrt(), decay=0.3)
    dense = torch.stack([through(column) for column in torch.eye(20, dtype=F64)], dim=1)
    # Rounding of sums of one term.
    assert torch.allclose(dense, dense.T, atol=1e-14)
    step = torch.linalg.eigvals(diagonal[:, None] * (whole + 0.3 * torch.eye(20, dtype=F64)))
    found = ends(through, diagonal)
    assert found is not None
    full = ends(through, diagonal, share=1e-9, tolerance=1e-9)
    assert full is not None
    # Twenty weights: the space is exhausted, and eigvals of the unsymmetric matrix is good to 1e-13 or so.
    assert full.high == pytest.approx(float(step.real.max()), rel=1e-10)
    assert float(step.imag.abs().max()) < 1e-10
