"""A few points in one or two dimensions."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import SGD, Adam

from tests.clinic.patient import Pair, Patient, Program, accuracy_gain, error_gain, loader
from tests.clinic.programs.parts import binary, keras, stack

_MSE = nn.functional.mse_loss


def _signed_targets(seed: int, *, last: nn.Module) -> Program:
    inputs = torch.randn(200, 2)
    targets = 0.9 * torch.tanh(1.5 * inputs[:, :1] - inputs[:, 1:])
    patient = Patient(keras(stack([2, 4, 1], last=last)), _MSE, lambda p: SGD(p, 0.01))
    return Program(patient, loader(inputs, targets, 10), error_gain(inputs, targets), None, {"max_epochs": 200})


def _parabola(seed: int, *, last: nn.Module | None, epochs: int) -> Program:
    inputs = torch.linspace(-10, 10, 201)[:, None]
    targets = inputs.square() + 3
    patient = Patient(keras(stack([1, 5, 1], nn.Sigmoid, last)), _MSE, lambda p: SGD(p, 0.01))
    return Program(patient, loader(inputs, targets), error_gain(inputs, targets), None, {"max_epochs": epochs})


def _xor(seed: int, *, between: type[nn.Module] | None, rate: float) -> Program:
    inputs, labels = torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]]), torch.tensor([[0.0], [1], [1], [0]])
    patient = Patient(stack([2, 8, 1], between, nn.Sigmoid()), binary, lambda p: SGD(p, rate))
    return Program(patient, loader(inputs, labels), accuracy_gain(inputs, labels), None, {"max_epochs": 1500})


def _dead(seed: int, *, widths: list[int], last: nn.Module | None) -> Program:
    inputs = torch.arange(-1.0, 6.0)[:, None]
    targets = 2 * inputs - 1
    patient = Patient(stack(widths, last=last), _MSE, lambda p: Adam(p, 1e-3))
    return Program(patient, loader(inputs, targets), error_gain(inputs, targets), None, {"max_epochs": 500})


PAIRS = (
    Pair(
        2,
        "ReLU output, targets in (−1, 1)",
        ("output_out_of_reach", "dead_units"),
        lambda seed: _signed_targets(seed, last=nn.Tanh()),
        lambda seed: _signed_targets(seed, last=nn.ReLU()),
    ),
    Pair(
        6,
        "parabola through a sigmoid output",
        ("output_out_of_reach", "unscaled_targets"),
        lambda seed: _parabola(seed, last=None, epochs=2500),
        lambda seed: _parabola(seed, last=nn.Sigmoid(), epochs=1000),
    ),
    Pair(
        13,
        "XOR with a linear model",
        ("linear_stack", "model_bias", "stuck_at_baseline"),
        lambda seed: _xor(seed, between=nn.Tanh, rate=0.5),
        lambda seed: _xor(seed, between=None, rate=1e-3),
    ),
    Pair(
        14,
        "seven points, ReLU output, few units",
        ("dead_units", "output_out_of_reach"),
        lambda seed: _dead(seed, widths=[1, 32, 16, 1], last=None),
        lambda seed: _dead(seed, widths=[1, 4, 2, 1], last=nn.ReLU()),
    ),
)
