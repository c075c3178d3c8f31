"""Fully connected networks on handwritten digits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, RMSprop
from torch.optim.lr_scheduler import LinearLR

from tests.clinic.patient import Pair, Patient, Program, accuracy_gain, loader, loss_gain
from tests.clinic.programs.parts import DIGITS, LABELS, TRAIN, binary, categorical, keras, normal, stack

_CROSS_ENTROPY = nn.functional.cross_entropy
_GUESSING = 2.3026


def _program(module: Patient, epochs: int, batch: int, inputs: Tensor = DIGITS, **options: Any) -> Program:
    return Program(
        module,
        loader(inputs[:TRAIN], LABELS[:TRAIN], batch),
        accuracy_gain(inputs[:TRAIN], LABELS[:TRAIN]),
        loader(inputs[TRAIN:], LABELS[TRAIN:], 397, shuffle=False),
        {"max_epochs": epochs, **options},
    )


def _rate_of_three(seed: int) -> Program:
    def squared(outputs: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.mse_loss(outputs, nn.functional.one_hot(labels, 10).float())

    net = normal(stack([64, 30, 10], None))
    return _program(Patient(net, squared, lambda p: SGD(p, 3.0), accuracy=True), 15, 10)


def _cross_entropy_at_three(seed: int) -> Program:
    net = normal(stack([64, 30, 10], nn.Sigmoid))
    return _program(Patient(net, _CROSS_ENTROPY, lambda p: SGD(p, 3.0), accuracy=True), 15, 10)


def _raw_pixels(seed: int) -> Program:
    net = keras(nn.Sequential(nn.Linear(64, 784), nn.Linear(784, 50), nn.ReLU(), nn.Linear(50, 10), nn.Sigmoid()))
    return _program(Patient(net, categorical, lambda p: SGD(p, 1e-4), accuracy=True), 10, 32, DIGITS * 255)


def _scaled_pixels(seed: int) -> Program:
    net = keras(nn.Sequential(nn.Linear(64, 784), nn.Linear(784, 50), nn.ReLU(), nn.Linear(50, 10), nn.Softmax(1)))
    return _program(Patient(net, categorical, lambda p: Adam(p, 1e-4, eps=1e-7), accuracy=True), 40, 32)


def _three_labels_one_unit(seed: int) -> Program:
    inputs, labels = _three()

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return binary(outputs, targets.float()[:, None])

    net = keras(stack([64, 32, 1], last=nn.Sigmoid()))
    patient = Patient(net, loss, lambda p: RMSprop(p, 1e-3, eps=1e-7))
    return Program(patient, loader(inputs, labels, 16), accuracy_gain(inputs, labels), None, {"max_epochs": 10})


def _three_labels_three_units(seed: int) -> Program:
    inputs, labels = _three()
    net = keras(stack([64, 32, 3], last=nn.Softmax(1)))
    patient = Patient(net, categorical, lambda p: RMSprop(p, 1e-3, eps=1e-7))
    return Program(patient, loader(inputs, labels, 16), accuracy_gain(inputs, labels), None, {"max_epochs": 10})


def _three() -> tuple[Tensor, Tensor]:
    chosen = LABELS < 3
    return DIGITS[chosen], LABELS[chosen]


def _wide(seed: int, *, glorot: bool) -> Program:
    net = stack([64, 500, 500, 500, 10])
    keras(net) if glorot else normal(net, biases=False)
    program = _program(Patient(net, _CROSS_ENTROPY, lambda p: Adam(p, 3e-3), accuracy=True), 6, 100)
    program.gain = loss_gain(DIGITS[TRAIN:], LABELS[TRAIN:], _GUESSING)
    return program


def _softmax(seed: int, *, last: nn.Module | None) -> Program:
    net = stack([64, 32, 10], last=last)
    return _program(Patient(net, _CROSS_ENTROPY, lambda p: SGD(p, 0.1), accuracy=True), 15, 32)


def _decayed(seed: int, *, per_epoch: bool) -> Program:
    epochs, batches = 20, -(-TRAIN // 32)
    steps = epochs * batches if per_epoch else epochs
    patient = Patient(
        stack([64, 32, 10]),
        _CROSS_ENTROPY,
        lambda p: SGD(p, 0.1),
        schedule=lambda optimizer: LinearLR(optimizer, 1.0, 0.0, total_iters=steps),
        accuracy=True,
    )
    return _program(patient, epochs, 32)


def _pairing(seed: int, *, broken: bool) -> Program:
    labels = LABELS
    if broken:
        labels = LABELS[torch.randperm(len(LABELS), generator=torch.Generator().manual_seed(seed))]
    patient = Patient(stack([64, 64, 10]), _CROSS_ENTROPY, lambda p: Adam(p, 1e-3), accuracy=True)
    return Program(
        patient,
        loader(DIGITS[:TRAIN], labels[:TRAIN], 32),
        accuracy_gain(DIGITS[TRAIN:], LABELS[TRAIN:]),
        loader(DIGITS[TRAIN:], labels[TRAIN:], 397, shuffle=False),
        {"max_epochs": 30},
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
    Pair(7, "three labels for one unit", ("negative_loss",), _three_labels_three_units, _three_labels_one_unit),
    Pair(
        10,
        "weights from N(0, 1)",
        ("bad_initialization",),
        lambda seed: _wide(seed, glorot=True),
        lambda seed: _wide(seed, glorot=False),
    ),
    Pair(
        18,
        "softmax before cross-entropy",
        ("double_softmax",),
        lambda seed: _softmax(seed, last=None),
        lambda seed: _softmax(seed, last=nn.Softmax(1)),
    ),
    Pair(
        20,
        "decay counted in epochs, stepped per batch",
        ("vanished_learning_rate",),
        lambda seed: _decayed(seed, per_epoch=True),
        lambda seed: _decayed(seed, per_epoch=False),
    ),
    Pair(
        22,
        "inputs and labels shuffled apart",
        ("uninformative_labels",),
        lambda seed: _pairing(seed, broken=False),
        lambda seed: _pairing(seed, broken=True),
    ),
)
