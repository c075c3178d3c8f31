"""Convolutional networks on handwritten digits."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import SGD, Adam

from tests.clinic.patient import ByHand, Pair, Patient, Program, accuracy_gain
from tests.clinic.programs.parts import DIGITS, LABELS, TRAIN
from tests.clinic.variation import Variation, loader

_IMAGES = DIGITS.reshape(-1, 1, 8, 8)
_CROSS_ENTROPY = nn.functional.cross_entropy


def _program(vary: Variation, patient: Patient, epochs: int, batch: int) -> Program:
    images, labels = vary.rows(_IMAGES, LABELS)
    return Program(
        patient,
        vary.loader(images[:TRAIN], labels[:TRAIN], batch),
        accuracy_gain(images[:TRAIN], labels[:TRAIN]),
        loader(images[TRAIN:], labels[TRAIN:], 397, shuffle=False),
        {"max_epochs": vary.epochs(epochs)},
    )


def _labels(vary: Variation, *, lost: bool) -> Program:
    channels, units = vary.width(16), vary.width(32)
    net = nn.Sequential(nn.Conv2d(1, channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    net.extend([nn.Linear(16 * channels, units), nn.ReLU(), nn.Linear(units, 10)])
    patient = Patient(net, _CROSS_ENTROPY, lambda p: Adam(p, vary.rate(1e-3)), accuracy=True)
    program = _program(vary, patient, 10, 32)
    images, labels = vary.rows(_IMAGES, LABELS)
    if lost:
        program.train = vary.loader(images[:TRAIN], torch.zeros_like(labels[:TRAIN]), 32)
    program.gain = accuracy_gain(images[TRAIN:], labels[TRAIN:])
    return program


def _by_hand(vary: Variation, *, zeroes: bool) -> Program:
    few, many, units = vary.width(32), vary.width(64), vary.width(128)
    net = nn.Sequential(nn.Conv2d(1, few, 3), nn.ReLU(), nn.Conv2d(few, many, 3), nn.ReLU(), nn.MaxPool2d(2))
    net.extend([nn.Flatten(), nn.Linear(4 * many, units), nn.ReLU(), nn.Linear(units, 10)])
    patient = ByHand(net, _CROSS_ENTROPY, lambda p: Adam(p, vary.rate(1e-3)), zeroes=zeroes, accuracy=True)
    return _program(vary, patient, 2, 30)


def _frozen(vary: Variation, *, head: bool) -> Program:
    few, many = vary.width(16), vary.width(32)
    net = nn.Sequential(nn.Conv2d(1, few, 3, padding=1), nn.BatchNorm2d(few), nn.ReLU(), nn.MaxPool2d(2))
    net.extend([nn.Conv2d(few, many, 3, padding=1), nn.BatchNorm2d(many), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()])
    net.append(nn.Linear(4 * many, 10))
    for layer in net:
        if not isinstance(layer, nn.BatchNorm2d):
            layer.requires_grad_(False)
    net[-1].requires_grad_(head)
    patient = Patient(
        net,
        _CROSS_ENTROPY,
        lambda p: SGD(p, vary.rate(0.01), momentum=0.9),
        trained=lambda whole: list(whole.children())[-1].parameters(),
        accuracy=True,
    )
    return _program(vary, patient, 8, 32)


PAIRS = (
    Pair(
        5,
        "every training label the same",
        ("constant_labels",),
        lambda vary: _labels(vary, lost=False),
        lambda vary: _labels(vary, lost=True),
    ),
    Pair(
        16,
        "gradients never zeroed",
        ("accumulating_gradients",),
        lambda vary: _by_hand(vary, zeroes=True),
        lambda vary: _by_hand(vary, zeroes=False),
    ),
    Pair(
        17,
        "the head frozen too",
        ("frozen_parameters",),
        lambda vary: _frozen(vary, head=True),
        lambda vary: _frozen(vary, head=False),
    ),
)
