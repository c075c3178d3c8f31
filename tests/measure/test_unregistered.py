from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lightning_doctor.measure.unregistered import unregistered


class Model(nn.Module):
    """Keeps a layer of its own, and what it is given where PyTorch does not look."""

    def __init__(self, kept: Any = None) -> None:
        super().__init__()
        self.head = nn.Linear(4, 1)
        self.kept = kept


def loss_of(model: Model, *layers: nn.Module) -> Tensor:
    features = torch.ones(3, 4)
    for layer in layers:
        features = layer(features)
    loss: Tensor = model.head(features).sum()
    return loss


def test_a_registered_model_has_none() -> None:
    inner = nn.Linear(4, 4)
    model = Model(nn.ModuleList([inner]))
    assert unregistered(loss_of(model, inner), model) == {}


def test_layers_are_named_by_the_containers_that_hold_them() -> None:
    first, second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4)
    model = nn.Module()
    model.part = part = Model({"a": [first], "b": (second,)})
    found = unregistered(loss_of(part, first, second), model)
    assert set(found) == {"part.kept['a'][0].weight", "part.kept['b'][0].weight", "part.kept['b'][0].bias"}
    assert found["part.kept['a'][0].weight"] is first.weight


def test_what_is_held_by_nothing_goes_by_its_shape() -> None:
    layers = [nn.Linear(4, 4, bias=False) for _ in range(2)]
    model = Model()
    names = sorted(unregistered(loss_of(model, *layers), model))
    assert names[0].startswith("a parameter of shape [4, 4]")
    assert len(names) == 2


def test_what_the_loss_does_not_depend_on_is_no_matter() -> None:
    model = Model([nn.Linear(4, 4)])
    assert unregistered(loss_of(model), model) == {}
    frozen = nn.Linear(4, 4).requires_grad_(False)
    model = Model([frozen])
    assert unregistered(loss_of(model, frozen), model) == {}


def test_inputs_that_want_a_gradient_and_parameters_that_an_optimizer_holds_are_no_strangers() -> None:
    layer, model = nn.Linear(4, 4), Model()
    inputs = torch.ones(3, 4, requires_grad=True)
    assert unregistered(model.head(inputs).sum(), model) == {}
    assert unregistered(loss_of(model, layer), model, layer.parameters()) == {}


def test_a_function_of_ones_own_that_keeps_a_variable_is_walked_through() -> None:
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.variable = nn.Parameter(torch.ones(1))
            return x * 2

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Any:
            return grad * 2

    model = Model()
    assert unregistered(Doubled.apply(loss_of(model)), model) == {}
