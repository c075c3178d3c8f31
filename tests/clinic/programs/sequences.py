"""Series, and rows that are all alike."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.optim import NAdam, RMSprop

from tests.clinic.patient import Pair, Patient, Program, accuracy_gain
from tests.clinic.programs.parts import binary, keras, stack
from tests.clinic.variation import Variation, loader


def _bits(vary: Variation, *, last: nn.Module) -> Program:
    labels = (torch.rand(4000, 1) < 0.5).float()
    inputs = labels.expand(-1, 128).contiguous()
    units = vary.width(50)
    net = nn.Sequential(*stack([128, units, units]), nn.ReLU(), nn.Dropout(0.2), nn.Linear(units, 1), last)
    patient = Patient(keras(net), binary, lambda p: RMSprop(p, vary.rate(1e-3), eps=1e-7), accuracy=True)
    return Program(
        patient,
        vary.loader(inputs[:3200], labels[:3200], 16),
        accuracy_gain(inputs[3200:], labels[3200:]),
        loader(inputs[3200:], labels[3200:], 800, shuffle=False),
        {"max_epochs": vary.epochs(3)},
    )


def _series(vary: Variation, *, last: nn.Module) -> Program:
    inputs, labels = _waves()
    channels, units = vary.width(20), vary.width(50)
    net = nn.Sequential(nn.Conv1d(1, channels, 4), nn.ReLU(), nn.MaxPool1d(4), nn.Dropout(0.2), nn.Flatten())
    net.extend([nn.Linear(149 * channels, units), nn.ReLU(), nn.Linear(units, 1), last])
    patient = Patient(keras(net), binary, lambda p: NAdam(p, vary.rate(1e-3), eps=1e-7), accuracy=True)
    return Program(
        patient,
        vary.loader(inputs[:368], labels[:368], 8),
        accuracy_gain(inputs[368:], labels[368:]),
        loader(inputs[368:], labels[368:], 90, shuffle=False),
        {"max_epochs": vary.epochs(8)},
    )


def _waves() -> tuple[Tensor, Tensor]:
    labels = (torch.rand(458, 1) < 0.5).float()
    time = torch.linspace(0, 1, 600)
    phases = 2 * math.pi * torch.rand(458, 1)
    waves = torch.sin(2 * math.pi * (5 + 25 * labels) * time + phases)
    return (waves + 0.2 * torch.randn(458, 600))[:, None], labels


PAIRS = (
    Pair(
        4,
        "softmax over one unit",
        ("output_out_of_reach",),
        lambda vary: _bits(vary, last=nn.Sigmoid()),
        lambda vary: _bits(vary, last=nn.Softmax(1)),
    ),
    Pair(
        9,
        "softmax over one unit, series",
        ("output_out_of_reach",),
        lambda vary: _series(vary, last=nn.Sigmoid()),
        lambda vary: _series(vary, last=nn.Softmax(1)),
    ),
)
