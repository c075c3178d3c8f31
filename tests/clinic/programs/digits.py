"""Fully connected networks on handwritten digits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer, RMSprop
from torch.optim.lr_scheduler import LinearLR

from tests.clinic.patient import Pair, Patient, Program, accuracy_gain, loss_gain
from tests.clinic.programs.parts import DIGITS, LABELS, TRAIN, binary, categorical, keras, normal, stack
from tests.clinic.variation import Variation, loader

_CROSS_ENTROPY = nn.functional.cross_entropy
_GUESSING = 2.3026


def _program(
    vary: Variation, module: Patient, epochs: int, batch: int, *, scale: float = 1.0, **options: Any
) -> Program:
    inputs, labels = vary.rows(DIGITS * scale, LABELS)
    return Program(
        module,
        vary.loader(inputs[:TRAIN], labels[:TRAIN], batch),
        accuracy_gain(inputs[:TRAIN], labels[:TRAIN]),
        loader(inputs[TRAIN:], labels[TRAIN:], 397, shuffle=False),
        {"max_epochs": vary.epochs(epochs), **options},
    )


def _rate_of_three(vary: Variation) -> Program:
    def squared(outputs: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.mse_loss(outputs, nn.functional.one_hot(labels, 10).float())

    net = normal(stack(vary.widths(64, 30, 10), None))
    return _program(vary, Patient(net, squared, lambda p: SGD(p, vary.rate(3.0)), accuracy=True), 15, 10)


def _cross_entropy_at_three(vary: Variation) -> Program:
    net = normal(stack(vary.widths(64, 30, 10), nn.Sigmoid))
    return _program(vary, Patient(net, _CROSS_ENTROPY, lambda p: SGD(p, vary.rate(3.0)), accuracy=True), 15, 10)


def _raw_pixels(vary: Variation) -> Program:
    wide, narrow = vary.width(784), vary.width(50)
    net = nn.Sequential(nn.Linear(64, wide), nn.Linear(wide, narrow), nn.ReLU(), nn.Linear(narrow, 10), nn.Sigmoid())
    patient = Patient(keras(net), categorical, lambda p: SGD(p, vary.rate(1e-4)), accuracy=True)
    return _program(vary, patient, 10, 32, scale=255)


def _scaled_pixels(vary: Variation) -> Program:
    wide, narrow = vary.width(784), vary.width(50)
    net = nn.Sequential(nn.Linear(64, wide), nn.Linear(wide, narrow), nn.ReLU(), nn.Linear(narrow, 10), nn.Softmax(1))
    patient = Patient(keras(net), categorical, lambda p: Adam(p, vary.rate(1e-4), eps=1e-7), accuracy=True)
    return _program(vary, patient, 40, 32)


def _three_labels(vary: Variation, *, units: int) -> Program:
    inputs, labels = vary.rows(DIGITS[LABELS < 3], LABELS[LABELS < 3])

    def one_unit(outputs: Tensor, targets: Tensor) -> Tensor:
        return binary(outputs, targets.float()[:, None])

    net = keras(stack(vary.widths(64, 32, units), last=nn.Sigmoid() if units == 1 else nn.Softmax(1)))
    loss = one_unit if units == 1 else categorical
    patient = Patient(net, loss, lambda p: RMSprop(p, vary.rate(1e-3), eps=1e-7))
    return Program(
        patient, vary.loader(inputs, labels, 16), accuracy_gain(inputs, labels), None, {"max_epochs": vary.epochs(10)}
    )


def _wide(vary: Variation, *, glorot: bool) -> Program:
    net = stack(vary.widths(64, 500, 500, 500, 10))
    keras(net) if glorot else normal(net, biases=False)
    program = _program(vary, Patient(net, _CROSS_ENTROPY, lambda p: Adam(p, vary.rate(3e-3)), accuracy=True), 6, 100)
    inputs, labels = vary.rows(DIGITS, LABELS)
    program.gain = loss_gain(inputs[TRAIN:], labels[TRAIN:], _GUESSING)
    return program


def _softmax(vary: Variation, *, last: nn.Module | None) -> Program:
    net = stack(vary.widths(64, 32, 10), last=last)
    return _program(vary, Patient(net, _CROSS_ENTROPY, lambda p: SGD(p, vary.rate(0.1)), accuracy=True), 15, 32)


def _decayed(vary: Variation, *, per_epoch: bool) -> Program:
    def schedule(optimizer: Optimizer) -> LinearLR:
        steps = epochs * len(program.train) if per_epoch else epochs
        return LinearLR(optimizer, 1.0, 0.0, total_iters=steps)

    net = stack(vary.widths(64, 32, 10))
    patient = Patient(net, _CROSS_ENTROPY, lambda p: SGD(p, vary.rate(0.1)), schedule=schedule, accuracy=True)
    program = _program(vary, patient, 20, 32)
    epochs: int = program.options["max_epochs"]
    return program


def _pairing(vary: Variation, *, broken: bool) -> Program:
    inputs, true = vary.rows(DIGITS, LABELS)
    labels = true
    if broken:
        labels = true[torch.randperm(len(true), generator=torch.Generator().manual_seed(vary.seed))]
    net = stack(vary.widths(64, 64, 10))
    return Program(
        Patient(net, _CROSS_ENTROPY, lambda p: Adam(p, vary.rate(1e-3)), accuracy=True),
        vary.loader(inputs[:TRAIN], labels[:TRAIN], 32),
        accuracy_gain(inputs[TRAIN:], true[TRAIN:]),
        loader(inputs[TRAIN:], labels[TRAIN:], 397, shuffle=False),
        {"max_epochs": vary.epochs(30)},
    )


PAIRS = (
    Pair(
        1,
        "learning rate of 3 under squared error",
        ("learning_rate_too_high", "non_finite_loss", "linear_stack"),
        _cross_entropy_at_three,
        _rate_of_three,
    ),
    Pair(
        3,
        "raw pixels, sigmoid outputs, tiny rate",
        ("unscaled_inputs", "learning_rate_too_low", "undertrained"),
        _scaled_pixels,
        _raw_pixels,
    ),
    Pair(
        7,
        "three labels for one unit",
        ("negative_loss",),
        lambda vary: _three_labels(vary, units=3),
        lambda vary: _three_labels(vary, units=1),
    ),
    Pair(
        10,
        "weights from N(0, 1)",
        ("bad_initialization",),
        lambda vary: _wide(vary, glorot=True),
        lambda vary: _wide(vary, glorot=False),
    ),
    Pair(
        18,
        "softmax before cross-entropy",
        ("double_softmax",),
        lambda vary: _softmax(vary, last=None),
        lambda vary: _softmax(vary, last=nn.Softmax(1)),
    ),
    Pair(
        20,
        "decay counted in epochs, stepped per batch",
        ("vanished_learning_rate",),
        lambda vary: _decayed(vary, per_epoch=True),
        lambda vary: _decayed(vary, per_epoch=False),
    ),
    Pair(
        22,
        "inputs and labels shuffled apart",
        ("uninformative_labels",),
        lambda vary: _pairing(vary, broken=False),
        lambda vary: _pairing(vary, broken=True),
    ),
)
