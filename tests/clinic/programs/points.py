"""A few points in one or two dimensions."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Adam, Optimizer

from tests.clinic.patient import Pair, Patient, Program, accuracy_gain, error_gain
from tests.clinic.programs.parts import binary, keras, stack
from tests.clinic.variation import Variation, loader

_MSE = nn.functional.mse_loss


def _signed_targets(vary: Variation, *, last: nn.Module) -> Program:
    inputs = torch.randn(200, 2)
    targets = 0.9 * torch.tanh(1.5 * inputs[:, :1] - inputs[:, 1:])
    net = keras(stack(vary.widths(2, 4, 1), last=last))
    patient = Patient(net, _MSE, lambda p: SGD(p, vary.rate(0.01)))
    return Program(
        patient, vary.loader(inputs, targets, 10), error_gain(inputs, targets), None, {"max_epochs": vary.epochs(200)}
    )


def _parabola(vary: Variation, *, last: nn.Module | None, epochs: int) -> Program:
    inputs = torch.linspace(-10, 10, 201)[:, None]
    targets = inputs.square() + 3
    net = keras(stack(vary.widths(1, 5, 1), nn.Sigmoid, last))
    patient = Patient(net, _MSE, lambda p: SGD(p, vary.rate(0.01)))
    return Program(
        patient, loader(inputs, targets), error_gain(inputs, targets), None, {"max_epochs": vary.epochs(epochs)}
    )


def _xor(vary: Variation, *, between: type[nn.Module] | None, rate: float) -> Program:
    inputs, labels = torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]]), torch.tensor([[0.0], [1], [1], [0]])
    net = stack(vary.widths(2, 8, 1), between, nn.Sigmoid())
    patient = Patient(net, binary, lambda p: SGD(p, vary.rate(rate)))
    return Program(
        patient, loader(inputs, labels), accuracy_gain(inputs, labels), None, {"max_epochs": vary.epochs(1500)}
    )


def _dead(vary: Variation, *, widths: list[int], last: nn.Module | None) -> Program:
    inputs = torch.arange(-1.0, 6.0)[:, None]
    targets = 2 * inputs - 1
    patient = Patient(stack(vary.widths(*widths), last=last), _MSE, lambda p: Adam(p, vary.rate(1e-3)))
    return Program(
        patient, loader(inputs, targets), error_gain(inputs, targets), None, {"max_epochs": vary.epochs(500)}
    )


def _parity(vary: Variation, *, between: type[nn.Module], adam: bool) -> Program:
    """Whether the number of ones among five is odd: one bit less tells nothing."""
    inputs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 5)
    labels = (inputs.prod(1, keepdim=True) > 0).float()

    def optimizer(parameters: Any) -> Optimizer:
        return Adam(parameters, vary.rate(0.01)) if adam else SGD(parameters, vary.rate(0.1))

    patient = Patient(stack(vary.widths(5, 24, 1), between, nn.Sigmoid()), binary, optimizer)
    return Program(
        patient, loader(inputs, labels), accuracy_gain(inputs, labels), None, {"max_epochs": vary.epochs(1500)}
    )


PAIRS = (
    Pair(
        2,
        "ReLU output, targets in (−1, 1)",
        ("output_out_of_reach", "dead_units"),
        lambda vary: _signed_targets(vary, last=nn.Tanh()),
        lambda vary: _signed_targets(vary, last=nn.ReLU()),
    ),
    Pair(
        6,
        "parabola through a sigmoid output",
        ("output_out_of_reach", "unscaled_targets"),
        lambda vary: _parabola(vary, last=None, epochs=2500),
        lambda vary: _parabola(vary, last=nn.Sigmoid(), epochs=1000),
    ),
    Pair(
        13,
        "XOR with a linear model",
        ("linear_stack", "model_bias", "stuck_at_baseline"),
        lambda vary: _xor(vary, between=nn.Tanh, rate=0.5),
        lambda vary: _xor(vary, between=None, rate=1e-3),
    ),
    Pair(
        14,
        "seven points, ReLU output, few units",
        ("dead_units", "output_out_of_reach"),
        lambda vary: _dead(vary, widths=[1, 32, 16, 1], last=None),
        lambda vary: _dead(vary, widths=[1, 4, 2, 1], last=nn.ReLU()),
    ),
    Pair(
        119,
        "parity, gradient descent on a plateau",
        ("stuck_at_baseline", "loss_plateau", "learning_rate_too_low", "saddle_point", "vanishing_gradients"),
        lambda vary: _parity(vary, between=nn.Tanh, adam=True),
        lambda vary: _parity(vary, between=nn.Sigmoid, adam=False),
    ),
)
