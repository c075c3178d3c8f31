from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lightning_doctor.measure.preconditioner import preconditioner


def stepped(kind: type[torch.optim.Optimizer], **options: Any) -> tuple[torch.optim.Optimizer, nn.Parameter]:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(7, dtype=torch.float64))
    optimizer = kind([weight], **options)  # type: ignore[call-arg]
    for _ in range(3):
        weight.grad = torch.randn_like(weight)
        optimizer.step()
    return optimizer, weight


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (torch.optim.Adam, {"betas": (0.0, 0.99), "eps": 1e-3}),
        (torch.optim.Adam, {"betas": (0.0, 0.99), "amsgrad": True}),
        (torch.optim.AdamW, {"betas": (0.0, 0.99), "weight_decay": 0.0}),
        (torch.optim.RMSprop, {"alpha": 0.9}),
        (torch.optim.Adagrad, {}),
    ],
)
def test_a_step_without_momentum_is_the_rate_times_the_preconditioned_gradient(
    kind: type[torch.optim.Optimizer], options: dict[str, Any]
) -> None:
    optimizer, weight = stepped(kind, lr=0.01, **options)
    before = weight.detach().clone()
    weight.grad = torch.full_like(weight, 1e-12)
    # It leaves the mean of squares what it was, so that the state after the step is also that of the step.
    optimizer.step()
    diagonal = preconditioner(optimizer, [weight])
    assert diagonal is not None
    # Weights near 1 resolve 2e-16, a hundredth of a step this small.
    torch.testing.assert_close(before - weight.detach(), 0.01 * 1e-12 * diagonal, rtol=1e-2, atol=1e-15)


def test_plain_gradient_descent_has_none() -> None:
    optimizer, weight = stepped(torch.optim.SGD, lr=0.1)
    assert preconditioner(optimizer, [weight]) is None


def test_before_its_first_step_an_optimizer_has_none_and_a_parameter_it_does_not_hold_counts_as_zero() -> None:
    weight, other = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight])
    assert preconditioner(optimizer, [weight]) is None
    weight.grad = torch.ones(2)
    optimizer.step()
    diagonal = preconditioner(optimizer, [other, weight])
    assert diagonal is not None
    assert diagonal[:3].tolist() == [0, 0, 0]
    assert diagonal[3:].tolist() == pytest.approx([1, 1], rel=1e-6)  # float32
