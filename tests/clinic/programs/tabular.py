"""Rows of features."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam

from tests.clinic.patient import Pair, Patient, Program, accuracy_gain, error_gain, loss_gain
from tests.clinic.programs.parts import binary, keras, stack
from tests.clinic.variation import Variation, loader


def _roots(vary: Variation, *, inside: float) -> Program:
    inputs = torch.randn(400, 8)
    # Rows of zeros with a target of zero: a model without biases meets them exactly.
    inputs[torch.rand(400) < 0.05] = 0.0
    targets = inputs @ torch.randn(8, 2)

    def loss(outputs: Tensor, wanted: Tensor) -> Tensor:
        return ((outputs - wanted).square().mean(1) + inside).sqrt().mean()

    patient = Patient(nn.Linear(8, 2, bias=False), loss, lambda p: SGD(p, vary.rate(0.05)))
    return Program(
        patient, vary.loader(inputs, targets, 32), error_gain(inputs, targets), None, {"max_epochs": vary.epochs(40)}
    )


def _sums(vary: Variation, *, scaled: bool) -> Program:
    inputs = 100 * torch.rand(2000, 2)
    labels = (inputs.sum(1, keepdim=True) > 50).float()
    if scaled:
        inputs = (inputs - 50) / 29
    net = keras(stack(vary.widths(2, 110, 1), nn.Tanh, nn.Sigmoid()))
    patient = Patient(net, binary, lambda p: SGD(p, vary.rate(0.1), weight_decay=1e-4), accuracy=True)
    return Program(
        patient,
        vary.loader(inputs[:1600], labels[:1600], 32 if scaled else None),
        accuracy_gain(inputs[1600:], labels[1600:]),
        loader(inputs[1600:], labels[1600:], 400, shuffle=False),
        {"max_epochs": vary.epochs(30 if scaled else 200)},
    )


def _few_rows(vary: Variation, *, regularised: bool) -> Program:
    inputs = torch.randn(860, 146)
    scores = 2.5 * inputs[:, :6].sum(1, keepdim=True) / 6**0.5 + torch.randn(860, 1)
    labels = (scores > 0).float()
    if regularised:
        units = vary.width(16)
        net = nn.Sequential(nn.Dropout(0.3), nn.Linear(146, units), nn.ReLU(), nn.Dropout(0.5), nn.Linear(units, 1))
    else:
        net = stack(vary.widths(146, 128, 64, 1))

    def loss(outputs: Tensor, wanted: Tensor) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(outputs, wanted)

    decay = 3e-2 if regularised else 0.0
    patient = Patient(net, loss, lambda p: Adam(p, vary.rate(1e-3), weight_decay=decay))
    return Program(
        patient,
        vary.loader(inputs[:430], labels[:430], 32),
        loss_gain(inputs[430:], labels[430:], 0.6931),
        loader(inputs[430:], labels[430:], 430, shuffle=False),
        {"max_epochs": vary.epochs(40)},
    )


PAIRS = (
    Pair(
        19,
        "square root at zero",
        ("non_finite_gradients", "non_finite_loss"),
        lambda vary: _roots(vary, inside=1e-8),
        lambda vary: _roots(vary, inside=0.0),
    ),
    Pair(
        21,
        "unscaled sums in one huge batch",
        ("unscaled_inputs", "imbalanced_classes", "saturated_units"),
        lambda vary: _sums(vary, scaled=True),
        lambda vary: _sums(vary, scaled=False),
    ),
    Pair(
        23,
        "430 rows of 146 features",
        ("overfitting",),
        lambda vary: _few_rows(vary, regularised=True),
        lambda vary: _few_rows(vary, regularised=False),
    ),
)
