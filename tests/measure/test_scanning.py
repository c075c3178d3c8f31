from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_doctor.measure import step_scan
from lightning_doctor.measure.scanning import FACTORS, scan
from tests.measure.dense import ROWS, TARGETS, squared_error


def regression() -> nn.Linear:
    line = nn.Linear(3, 1, bias=False).double()
    nn.init.zeros_(line.weight)
    return line


def test_the_steps_of_the_three_weight_regression_that_raise_its_loss() -> None:
    line = regression()
    gradient = torch.autograd.grad(squared_error(line, (ROWS, TARGETS)), [line.weight])
    found = step_scan(line, (ROWS, TARGETS), squared_error, [-0.1 * part for part in gradient])
    assert found is not None
    # Of the first step of gradient descent with lr 0.1.
    assert (found.start, found.losses[FACTORS.index(1.0)]) == pytest.approx((130.5, 8434.125), rel=1e-12)
    # The loss is a parabola along the step: it is back where it was at 2 gᵀg/gᵀHg, and is searched for to 3 %.
    sharpness = float((ROWS @ gradient[0].T).square().sum() / gradient[0].square().sum())
    assert found.limit == pytest.approx(20 / sharpness, rel=0.03)
    assert not line.weight.any()


def test_an_update_that_does_not_fit_raises() -> None:
    with pytest.raises(ValueError, match=r"update must have the shapes \[\(1, 3\)\], got \[\(3,\)\]"):
        step_scan(regression(), (ROWS, TARGETS), squared_error, [torch.ones(3)])


def test_a_loss_that_is_not_finite_cannot_be_scanned() -> None:
    assert scan(lambda factor: torch.tensor(float("nan"))) is None


def test_a_direction_that_only_raises_the_loss_has_no_limit() -> None:
    found = scan(lambda factor: torch.tensor(1.0 + factor))
    assert found is not None
    assert found.limit is None
    assert found.best == 0
