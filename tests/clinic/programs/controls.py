"""Healthy programs that fool naive rules."""

from __future__ import annotations

import math

import torch
from sklearn.datasets import load_iris
from torch import nn
from torch.optim import SGD, Adam

from tests.clinic.patient import Pair, Patient, Program, accuracy_gain, loader
from tests.clinic.programs.parts import DIGITS, LABELS, TRAIN, categorical, keras, stack

_rows, _species = load_iris(return_X_y=True)
_IRIS, _SPECIES = torch.tensor(_rows, dtype=torch.float32), torch.tensor(_species)


def _sigmoid_stack(seed: int) -> Program:
    pixels = (DIGITS - DIGITS.mean()) / DIGITS.std()
    net = stack([64, 30, 30, 30, 30, 10], nn.Sigmoid)
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0.0, 1 / math.sqrt(layer.in_features))
    patient = Patient(net, nn.functional.cross_entropy, lambda p: SGD(p, 0.1), accuracy=True)
    return Program(
        patient,
        loader(pixels[:TRAIN], LABELS[:TRAIN], 10),
        accuracy_gain(pixels[:TRAIN], LABELS[:TRAIN]),
        loader(pixels[TRAIN:], LABELS[TRAIN:], 397, shuffle=False),
        {"max_epochs": 60},
    )


def _iris(seed: int) -> Program:
    patient = Patient(keras(stack([4, 4, 3], last=nn.Softmax(1))), categorical, lambda p: Adam(p, 1e-3, eps=1e-7))
    return Program(patient, loader(_IRIS, _SPECIES, 5), accuracy_gain(_IRIS, _SPECIES), None, {"max_epochs": 150})


PAIRS = (
    Pair(26, "four sigmoid layers that train well", ("vanishing_gradients",), _sigmoid_stack, reachable=0.89),
    Pair(27, "Iris with four ReLU units", ("dead_units",), _iris, reachable=0.63),
)
