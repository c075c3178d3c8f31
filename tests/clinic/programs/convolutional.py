"""Convolutional networks on handwritten digits."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import SGD, Adam

from tests.clinic.patient import ByHand, Pair, Patient, Program, accuracy_gain, loader
from tests.clinic.programs.parts import DIGITS, LABELS, TRAIN

_IMAGES = DIGITS.reshape(-1, 1, 8, 8)
_CROSS_ENTROPY = nn.functional.cross_entropy


def _program(patient: Patient, epochs: int, batch: int) -> Program:
    return Program(
        patient,
        loader(_IMAGES[:TRAIN], LABELS[:TRAIN], batch),
        accuracy_gain(_IMAGES[:TRAIN], LABELS[:TRAIN]),
        loader(_IMAGES[TRAIN:], LABELS[TRAIN:], 397, shuffle=False),
        {"max_epochs": epochs},
    )


def _labels(seed: int, *, lost: bool) -> Program:
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 32), nn.ReLU()
    )
    net.append(nn.Linear(32, 10))
    program = _program(Patient(net, _CROSS_ENTROPY, lambda p: Adam(p, 1e-3), accuracy=True), 10, 32)
    if lost:
        program.train = loader(_IMAGES[:TRAIN], torch.zeros_like(LABELS[:TRAIN]), 32)
    program.gain = accuracy_gain(_IMAGES[TRAIN:], LABELS[TRAIN:])
    return program


def _by_hand(seed: int, *, zeroes: bool) -> Program:
    net = nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2))
    net.extend([nn.Flatten(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)])
    return _program(ByHand(net, _CROSS_ENTROPY, lambda p: Adam(p, 1e-3), zeroes=zeroes, accuracy=True), 2, 30)


def _frozen(seed: int, *, head: bool) -> Program:
    net = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2))
    net.extend([nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()])
    net.append(nn.Linear(128, 10))
    for layer in net:
        if not isinstance(layer, nn.BatchNorm2d):
            layer.requires_grad_(False)
    net[-1].requires_grad_(head)
    patient = Patient(
        net,
        _CROSS_ENTROPY,
        lambda p: SGD(p, 0.01, momentum=0.9),
        trained=lambda whole: list(whole.children())[-1].parameters(),
        accuracy=True,
    )
    return _program(patient, 8, 32)


PAIRS = (
    Pair(
        5,
        "every training label the same",
        ("constant_labels",),
        lambda seed: _labels(seed, lost=False),
        lambda seed: _labels(seed, lost=True),
    ),
    Pair(
        16,
        "gradients never zeroed",
        ("accumulating_gradients",),
        lambda seed: _by_hand(seed, zeroes=True),
        lambda seed: _by_hand(seed, zeroes=False),
    ),
    Pair(
        17,
        "the head frozen too",
        ("frozen_parameters",),
        lambda seed: _frozen(seed, head=True),
        lambda seed: _frozen(seed, head=False),
    ),
)
