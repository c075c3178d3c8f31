from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_doctor.measure.critical_point import classify_critical_point
from lightning_doctor.measure.cross_check import cross_check
from lightning_doctor.measure.hessian import custom_functions
from lightning_doctor.measure.landscape import Landscape
from tests.measure.dense import squared_error, waves


class Exponential(torch.autograd.Function):
    """As it should be: the backward pass is made of what can be differentiated again."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        ctx.save_for_backward(inputs)
        return inputs.exp()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (inputs,) = ctx.saved_tensors
        return gradient * inputs.exp()


class Detached(torch.autograd.Function):
    """Keeps its result as an attribute, cut off from the graph: the gradient is right, its derivative is not."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        ctx.slope = inputs.detach().exp()
        return inputs.exp()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient * ctx.slope


class Applied(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function.apply(inputs)


def net(function: Any, *, activation: nn.Module, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 32), activation, nn.Linear(32, 16), Applied(function), nn.Linear(16, 1))


class MaxOfTwo(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return nn.functional.max_pool1d(inputs.repeat_interleave(2, dim=-1).roll(1, -1).unsqueeze(1), 2).squeeze(1)


@pytest.mark.parametrize("seed", range(5))
def test_a_function_that_detaches_what_it_saves_is_caught(seed: int) -> None:
    module, batch = net(Detached, activation=nn.Tanh(), seed=seed), waves(200, seed=seed, dtype=torch.float32)
    assert custom_functions(squared_error(module, batch)) == ["Detached"]
    found = cross_check(Landscape(module, squared_error), batch)
    assert found.agrees is False
    assert "drops curvature" in found.because


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("activation", [nn.Tanh(), nn.ReLU(), nn.Sequential(MaxOfTwo(), nn.ReLU())])
def test_a_rightful_function_is_not_accused_in_networks_with_kinks_in_float32(activation: nn.Module, seed: int) -> None:
    module, batch = net(Exponential, activation=activation, seed=seed), waves(200, seed=seed, dtype=torch.float32)
    found = cross_check(Landscape(module, squared_error), batch)
    assert found.agrees is True
    # More would have been an accusation.
    assert found.differenced == pytest.approx(found.exact, rel=0.01)


def test_where_there_is_no_copy_in_float64_nothing_is_said() -> None:
    def narrow(module: nn.Module, batch: Any) -> Tensor:
        assert batch[0].dtype == torch.float32, "only float32 here"
        return squared_error(module, batch)

    found = cross_check(Landscape(net(Detached, activation=nn.Tanh()), narrow), waves(20, dtype=torch.float32))
    assert found.agrees is None
    assert "only float32 here" in found.because


def test_only_custom_functions_need_a_check() -> None:
    plain = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1)).double()
    loss = squared_error(plain, waves(10))
    assert custom_functions(loss) == []
    assert Landscape(plain, squared_error).hessian(waves(10)).custom_functions == []


class Ridge(nn.Module):
    """At zero all of its negative curvature, −1 along the second weight, comes through a function."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize(("function", "kind"), [(Exponential, "saddle"), (Detached, "inconclusive")])
def test_a_verdict_by_products_that_drop_curvature_is_withheld(function: Any, kind: str) -> None:
    def loss(module: nn.Module, batch: Any) -> Tensor:
        first, second = module.weights
        return 3 + first**2 - (function.apply(second) + function.apply(-second)) / 2 + second**4

    point = classify_critical_point(Ridge(), None, loss)
    assert point.kind == kind
    # Without the check it would have been a minimum.
    assert ("drops curvature" in point.because) == (function is Detached)
