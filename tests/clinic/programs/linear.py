"""Linear models."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer, RMSprop

from tests.clinic.patient import Pair, Patient, Program, error_gain
from tests.clinic.programs.parts import keras, stack
from tests.clinic.variation import Variation, loader

_MSE = nn.functional.mse_loss


def _descent(vary: Variation, *, rate: float) -> Program:
    inputs, targets = torch.tensor([[1.0, 2, 3], [4, 5, 6]]), torch.tensor([[6.0], [15.0]])
    net = nn.Linear(3, 1, bias=False)
    nn.init.zeros_(net.weight)
    patient = Patient(net, _MSE, lambda p: SGD(p, vary.rate(rate)))
    return Program(
        patient, loader(inputs, targets), error_gain(inputs, targets), None, {"max_epochs": vary.epochs(200)}
    )


def _one_weight(vary: Variation, *, rate: float) -> Program:
    inputs = torch.linspace(1, 2, 100)[:, None]
    targets = 5 * inputs
    patient = Patient(keras(nn.Linear(1, 1, bias=False)), _MSE, lambda p: RMSprop(p, vary.rate(rate), eps=1e-7))
    return Program(
        patient, vary.loader(inputs, targets, 32), error_gain(inputs, targets), None, {"max_epochs": vary.epochs(200)}
    )


def _line(vary: Variation, *, steady: bool) -> Program:
    inputs = torch.rand(8, 1) * 16 - 8
    targets = torch.randn(()) * inputs + torch.randn(())
    net = nn.Linear(1, 1)
    for parameter in net.parameters():
        nn.init.zeros_(parameter)

    def optimizer(parameters: object) -> Optimizer:
        return Adam(parameters, vary.rate(0.1)) if steady else SGD(parameters, vary.rate(0.1))  # type: ignore[arg-type]

    return Program(
        Patient(net, _MSE, optimizer),
        loader(inputs, targets),
        error_gain(inputs, targets),
        None,
        {"max_epochs": vary.epochs(100)},
    )


def _shapes(vary: Variation, *, reshaped: bool) -> Program:
    inputs, targets = torch.tensor([[1.0, 1], [1, 2], [1, 3]]), torch.tensor([1.0, 2, 3])

    def loss(outputs: Tensor, wanted: Tensor) -> Tensor:
        return (outputs - (wanted[:, None] if reshaped else wanted)).square().mean()

    patient = Patient(nn.Linear(2, 1, bias=False), loss, lambda p: Adam(p, vary.rate(1e-3)))
    return Program(
        patient, loader(inputs, targets), error_gain(inputs, targets), None, {"max_epochs": vary.epochs(6000)}
    )


def _late(vary: Variation, *, adam: bool) -> Program:
    inputs, targets = torch.randn(64, 1000), torch.randn(64, 1)

    def loss(outputs: Tensor, wanted: Tensor) -> Tensor:
        return (outputs - wanted).square().sum()

    patient = Patient(nn.Linear(1000, 1), loss, lambda p: Adam(p, vary.rate(1e-3)) if adam else SGD(p, vary.rate(2e-4)))
    # In orders of magnitude: what is lost here is most of the twelve that were gained.
    constant = float((targets - targets.mean()).square().sum())
    return Program(
        patient,
        loader(inputs, targets),
        lambda module: math.log10(constant / max(1e-30, float(loss(module(inputs), targets)))),
        None,
        {"max_epochs": vary.epochs(5000)},
    )


def _coordinates(vary: Variation, *, calm: bool) -> Program:
    # Like pictures: all values in (0, 1), so that their common part makes the loss steep in one direction.
    hidden = torch.randn(500, 12)
    inputs = torch.sigmoid(hidden @ torch.randn(12, 256) / 3 + 0.5 * torch.randn(500, 256))
    targets = 0.5 * torch.tanh(hidden @ torch.randn(12, 30) / 3)
    net = keras(stack(vary.widths(256, 50, 100, 30), None))

    def optimizer(parameters: object) -> Optimizer:
        if calm:
            return SGD(parameters, vary.rate(0.01), momentum=0.9, nesterov=True)  # type: ignore[arg-type]
        return Adam(parameters, vary.rate(0.1))  # type: ignore[arg-type]

    options = {"max_epochs": vary.epochs(400), "gradient_clip_val": 1.0} if calm else {"max_epochs": vary.epochs(100)}
    patient = Patient(net, _MSE, optimizer)
    return Program(
        patient,
        vary.loader(inputs[:400], targets[:400], 128),
        error_gain(inputs[:400], targets[:400]),
        loader(inputs[400:], targets[400:], 100, shuffle=False),
        options,
    )


PAIRS = (
    Pair(
        8,
        "one weight, steps of 0.001",
        ("learning_rate_too_low", "undertrained"),
        lambda vary: _one_weight(vary, rate=0.1),
        lambda vary: _one_weight(vary, rate=1e-3),
    ),
    Pair(
        11,
        "a line through eight points, rate 0.1",
        ("learning_rate_too_high", "diverging_loss", "non_finite_loss"),
        lambda vary: _line(vary, steady=True),
        lambda vary: _line(vary, steady=False),
    ),
    Pair(
        12,
        "prediction [3, 1] less target [3]",
        ("broadcast_targets",),
        lambda vary: _shapes(vary, reshaped=True),
        lambda vary: _shapes(vary, reshaped=False),
    ),
    Pair(
        15,
        "Adam long after convergence",
        ("late_instability",),
        lambda vary: _late(vary, adam=False),
        lambda vary: _late(vary, adam=True),
    ),
    Pair(
        24,
        "coordinates, linear stack, Adam at 0.1",
        ("learning_rate_too_high", "linear_stack"),
        lambda vary: _coordinates(vary, calm=True),
        lambda vary: _coordinates(vary, calm=False),
    ),
    Pair(
        25,
        "gradient descent, 130.5 → 8434.1 → 545230",
        ("learning_rate_too_high", "diverging_loss", "non_finite_loss"),
        lambda vary: _descent(vary, rate=0.01),
        lambda vary: _descent(vary, rate=0.1),
    ),
)
