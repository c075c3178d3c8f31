"""Small networks and their whole Hessians, to compare with."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian

Batch = tuple[Tensor, Tensor]


def squared_error(module: Any, batch: Batch) -> Tensor:
    inputs, targets = batch
    return (module(inputs).reshape(targets.shape) - targets).square().mean()


def dense(module: nn.Module, batch: Batch, loss: Callable[[Any, Batch], Tensor] = squared_error) -> Tensor:
    """The Hessian by forward over reverse differentiation, another way than double backward ``[n, n]``."""
    named = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    shapes = [(name, parameter.shape, parameter.numel()) for name, parameter in named.items()]

    def at(weights: Tensor) -> Tensor:
        parts = torch.split(weights, [size for _, _, size in shapes])
        held = {name: part.view(shape) for (name, shape, _), part in zip(shapes, parts, strict=True)}
        return loss(lambda inputs: functional_call(module, held, (inputs,)), batch)

    whole: Tensor = hessian(at)(torch.cat([parameter.detach().reshape(-1) for parameter in named.values()]))
    return whole


def perceptron(*sizes: int, activation: type[nn.Module] = nn.Tanh, seed: int = 0, dtype: torch.dtype) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for inside, outside in pairwise(sizes):
        layers += [nn.Linear(inside, outside), activation()]
    return nn.Sequential(*layers[:-1]).to(dtype)


def waves(count: int, *, noise: float = 0.1, seed: int = 0, dtype: torch.dtype = torch.float64) -> Batch:
    """Two inputs, and a target of them with noise."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    errors = noise * torch.randn(count, generator=generator, dtype=torch.float64)
    return inputs.to(dtype), (torch.sin(2 * inputs[:, 0]) * inputs[:, 1] + errors).to(dtype)


# Two rows and a mean squared error: the Hessian is XᵀX, with eigenvalues 0, 0.597 and 90.403.
ROWS = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], dtype=torch.float64)
TARGETS = torch.tensor([6.0, 15.0], dtype=torch.float64)


class Product(nn.Module):
    """The output is the product of two weights with the input."""

    def __init__(self, first: float, second: float, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor([first, second], dtype=dtype))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.weights.prod() * inputs


ONE = (torch.ones(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
