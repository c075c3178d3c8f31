"""Healthy programs that fool naive rules."""

from __future__ import annotations

import math

import torch
from sklearn.datasets import load_iris
from torch import nn
from torch.optim import SGD, Adam

from tests.clinic.patient import Pair, Patient, Program, accuracy_gain
from tests.clinic.programs.parts import DIGITS, LABELS, TRAIN, categorical, keras, stack
from tests.clinic.variation import Variation, loader

_rows, _species = load_iris(return_X_y=True)
_IRIS, _SPECIES = torch.tensor(_rows, dtype=torch.float32), torch.tensor(_species)


def _sigmoid_stack(vary: Variation) -> Program:
    inputs, labels = vary.rows(DIGITS, LABELS)
    pixels = (inputs - inputs.mean()) / inputs.std()
    net = stack(vary.widths(64, 30, 30, 30, 30, 10), nn.Sigmoid)
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0.0, 1 / math.sqrt(layer.in_features))
    patient = Patient(net, nn.functional.cross_entropy, lambda p: SGD(p, vary.rate(0.1)), accuracy=True)
    return Program(
        patient,
        vary.loader(pixels[:TRAIN], labels[:TRAIN], 10),
        accuracy_gain(pixels[:TRAIN], labels[:TRAIN]),
        loader(pixels[TRAIN:], labels[TRAIN:], 397, shuffle=False),
        {"max_epochs": vary.epochs(60)},
    )


def _iris(vary: Variation) -> Program:
    rows, species = vary.rows(_IRIS, _SPECIES)
    net = keras(stack(vary.widths(4, 4, 3), last=nn.Softmax(1)))
    patient = Patient(net, categorical, lambda p: Adam(p, vary.rate(1e-3), eps=1e-7))
    return Program(
        patient, vary.loader(rows, species, 5), accuracy_gain(rows, species), None, {"max_epochs": vary.epochs(150)}
    )


PAIRS = (
    Pair(26, "four sigmoid layers that train well", ("vanishing_gradients",), _sigmoid_stack, reachable=0.89),
    Pair(27, "Iris with four ReLU units", ("dead_units",), _iris, reachable=0.64),
)
