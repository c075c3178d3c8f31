from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_doctor.measure.slopes import without_slope


class Round(torch.autograd.Function):
    """Rounds, and passes the gradient on as if it had not (straight-through estimator)."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values.round()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


@pytest.mark.parametrize(
    ("loss_of", "obstacle"),
    [
        (lambda out: out.square().mean(), None),
        (lambda out: out.round().square().mean(), "round"),
        (lambda out: (torch.sign(out) - 1).abs().sum(), "sign"),
        (lambda out: out.floor().mean() + out.ceil().mean(), "floor"),
        (lambda out: (out + (out.round() - out).detach()).square().mean(), None),
        (lambda out: (out.round() + out).square().mean(), None),
        (lambda out: Round.apply(out).square().mean(), None),
        (lambda out: torch.tensor(float(out.mean()), requires_grad=True), ""),
        (lambda out: out.detach().mean().requires_grad_(), ""),
    ],
)
def test_what_keeps_a_loss_from_having_a_gradient(loss_of: Callable[[Tensor], Tensor], obstacle: str | None) -> None:
    net = nn.Linear(3, 2)
    found = without_slope(loss_of(net(torch.ones(4, 3))), set(net.parameters()))
    assert found == obstacle or (obstacle == "floor" and found == "ceil")


def test_of_other_parameters_a_slope_is_of_no_use() -> None:
    net, other = nn.Linear(3, 2), nn.Linear(3, 2)
    assert without_slope(net(torch.ones(4, 3)).mean(), set(other.parameters())) == ""
