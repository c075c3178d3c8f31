"""Healthy programs whose networks or data look odd."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam
from torch.utils.data import DataLoader, IterableDataset

from tests.clinic.patient import Pair, Patient, Program, accuracy_gain, balanced_gain, error_gain
from tests.clinic.programs.parts import (
    BENIGN,
    DIABETES,
    DIGITS,
    LABELS,
    PROGRESSION,
    RAW_CANCER,
    Bag,
    binary,
    served,
    stack,
    task,
    tokens,
)
from tests.clinic.variation import Variation, loader

_CROSS_ENTROPY = nn.functional.cross_entropy
_DIGITS = DIGITS, LABELS


def _raw_into_norm(vary: Variation) -> Program:
    """The first layer scales the inputs itself."""
    net = nn.Sequential(nn.BatchNorm1d(30), *stack(vary.widths(30, 16, 1), last=nn.Sigmoid()))
    return task(vary, Patient(net, binary, lambda p: Adam(p, vary.rate(5e-3))), (RAW_CANCER, BENIGN), 15, 32)


def _tokens(vary: Variation) -> Program:
    """Ids up to a thousand, whose size means nothing to an embedding."""
    return task(
        vary, Patient(Bag(vary.width(16)), _CROSS_ENTROPY, lambda p: Adam(p, vary.rate(0.01))), tokens(), 12, 32
    )


def _low_rank(vary: Variation) -> Program:
    """Two linear layers in a row, on purpose: a wide one of low rank."""
    wide = vary.width(64)
    net = nn.Sequential(nn.Linear(64, wide), nn.ReLU(), nn.Linear(wide, 6, bias=False), nn.Linear(6, wide), nn.ReLU())
    net.append(nn.Linear(wide, 10))
    return task(vary, Patient(net, _CROSS_ENTROPY, lambda p: Adam(p, vary.rate(3e-3))), _DIGITS, 12, 32)


def _sparse(vary: Variation) -> Program:
    """Half of the units never fire; there are enough of them."""
    net = stack(vary.widths(64, 256, 10))
    first: Any = net[0]
    nn.init.constant_(first.bias[::2], -5.0)
    return task(vary, Patient(net, _CROSS_ENTROPY, lambda p: Adam(p, vary.rate(2e-3))), _DIGITS, 12, 32)


def _halved(vary: Variation) -> Program:
    wide = vary.width(96)
    net = nn.Sequential(nn.Linear(64, wide), nn.ReLU(), nn.Dropout(0.5), nn.Linear(wide, wide), nn.ReLU())
    net.extend([nn.Dropout(0.5), nn.Linear(wide, 10)])
    return task(vary, Patient(net, _CROSS_ENTROPY, lambda p: Adam(p, vary.rate(3e-3)), accuracy=True), _DIGITS, 20, 32)


def _frozen_trunk(vary: Variation) -> Program:
    """A trunk that learned the digits from 0 to 6, frozen, and a new head for the others."""
    inputs, labels = vary.rows(*_DIGITS)
    units = vary.width(128)
    trunk, old = nn.Sequential(*stack([64, units, units]), nn.ReLU()), nn.Linear(units, 7)
    optimizer = Adam([*trunk.parameters(), *old.parameters()], 3e-3)
    for _ in range(4):
        for rows, wanted in loader(inputs[labels < 7], labels[labels < 7], 32):
            optimizer.zero_grad()
            _CROSS_ENTROPY(old(trunk(rows)), wanted).backward()
            optimizer.step()
    trunk.requires_grad_(False)
    net = nn.Sequential(trunk, nn.Linear(units, 3))
    patient = Patient(net, _CROSS_ENTROPY, lambda p: Adam([q for q in p if q.requires_grad], vary.rate(5e-3)))
    return task(vary, patient, (inputs[labels >= 7], labels[labels >= 7] - 7), 20, 32)


class _Padded(nn.Module):
    """The mean state of a recurrent network over the tokens that are none of the padding."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 12, padding_idx=0)
        self.recurrent = nn.GRU(12, units, batch_first=True)
        self.head = nn.Linear(units, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        states, _ = self.recurrent(self.embed(tokens))
        real = (tokens > 0)[:, :, None]
        scores: Tensor = self.head((states * real).sum(1) / real.sum(1))
        return scores


class _Named(Patient):
    """Is served dictionaries."""

    def score(self, batch: Any) -> Tensor:
        return self.loss(self(batch["tokens"]), batch["label"])


def _padding(vary: Variation) -> Program:
    labels = torch.randint(0, 3, (900,))
    own = torch.randint(1, 10, (900, 16)) + 9 * labels[:, None]
    tokens = own.where(torch.rand(900, 16) < 0.6, torch.randint(1, 30, (900, 16)))
    tokens[torch.arange(16) >= torch.randint(4, 17, (900, 1))] = 0
    patient = _Named(_Padded(vary.width(24)), _CROSS_ENTROPY, lambda p: Adam(p, vary.rate(5e-3)))
    rows = [{"tokens": row, "label": label} for row, label in zip(tokens, labels, strict=True)]
    return Program(
        patient,
        DataLoader(rows[:700], vary.batch(32), shuffle=True),  # type: ignore[arg-type]
        accuracy_gain(tokens[700:], labels[700:]),
        DataLoader(rows[700:], 200),  # type: ignore[arg-type]
        {"max_epochs": vary.epochs(15)},
    )


class _Masked(nn.Module):
    """Takes what was not measured for the mean, and says so."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.net = stack([20, units, 1])

    def forward(self, inputs: Tensor) -> Tensor:
        unknown = inputs.isnan()
        outputs: Tensor = self.net(torch.cat([inputs.masked_fill(unknown, 0.0), unknown.float()], 1))
        return outputs


def _not_measured(vary: Variation) -> Program:
    rows = DIABETES.masked_fill(torch.rand(DIABETES.shape) < 0.1, float("nan"))
    patient = Patient(_Masked(vary.width(16)), nn.functional.mse_loss, lambda p: Adam(p, vary.rate(3e-3)))
    return task(vary, patient, (rows, PROGRESSION), 30, 32, gain=error_gain)


def _ten_to_one(vary: Variation) -> Program:
    """One digit of ten is to be found, and is."""
    ones = (LABELS == 1).long()
    patient = Patient(stack(vary.widths(64, 32, 2)), _CROSS_ENTROPY, lambda p: Adam(p, vary.rate(3e-3)), accuracy=True)
    return task(vary, patient, (DIGITS, ones), 20, 32, gain=balanced_gain)


def _always_the_same_order(vary: Variation) -> Program:
    """Not shuffled, but the rows were before."""
    patient = Patient(stack(vary.widths(64, 32, 10)), _CROSS_ENTROPY, lambda p: SGD(p, vary.rate(0.1)), accuracy=True)
    program = task(vary, patient, _DIGITS, 15, 32)
    program.train = vary.loader(*served(program), 32, shuffle=False)
    return program


def _narrow_start(vary: Variation) -> Program:
    """Small targets and a last layer of zeros, as is usual in residual networks: the first loss is the variance."""
    inputs = torch.randn(500, 6)
    targets = 0.01 * (inputs[:, :1] * inputs[:, 1:2]).tanh()
    net = stack(vary.widths(6, 32, 32, 1))
    last: Any = net[-1]
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    patient = Patient(net, nn.functional.mse_loss, lambda p: Adam(p, vary.rate(3e-3)))
    return task(vary, patient, (inputs, targets), 60, 32, gain=error_gain)


class _Stream(IterableDataset[Any]):
    """Batches in an order of their own, as many as there are: it has no length."""

    def __init__(self, inputs: Tensor, labels: Tensor, batch: int) -> None:
        self.inputs, self.labels, self.batch = inputs, labels, batch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in torch.randperm(len(self.labels)).split(self.batch):
            yield self.inputs[rows], self.labels[rows]


def _stream(vary: Variation) -> Program:
    patient = Patient(stack(vary.widths(64, 48, 10)), _CROSS_ENTROPY, lambda p: Adam(p, vary.rate(3e-3)), accuracy=True)
    program = task(vary, patient, _DIGITS, 15, 32)
    program.train = DataLoader(_Stream(*served(program), vary.batch(32)), batch_size=None)
    return program


class _Residual(nn.Module):
    """Adds to its inputs what a normalised block makes of them."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.LayerNorm(units), nn.Linear(units, units), nn.ReLU(), nn.Linear(units, units))

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = inputs + self.block(inputs)
        return outputs


def _residual(vary: Variation) -> Program:
    wide = vary.width(32)
    net = nn.Sequential(nn.Linear(64, wide), *[_Residual(wide) for _ in range(10)], nn.LayerNorm(wide))
    net.append(nn.Linear(wide, 10))
    return task(vary, Patient(net, _CROSS_ENTROPY, lambda p: SGD(p, vary.rate(0.05))), _DIGITS, 10, 32)


PAIRS = (
    Pair(103, "raw measurements into BatchNorm", ("unscaled_inputs",), _raw_into_norm, reachable=0.35),
    Pair(104, "ids into an embedding", ("unscaled_inputs",), _tokens, reachable=0.61),
    Pair(105, "two linear layers of low rank", ("linear_stack",), _low_rank, reachable=0.83),
    Pair(106, "half of the units asleep", ("dead_units",), _sparse, reachable=0.85),
    Pair(107, "dropout of a half", ("over_regularized",), _halved, reachable=0.86),
    Pair(108, "frozen trunk, new head", ("frozen_parameters",), _frozen_trunk, reachable=0.60),
    Pair(109, "padded sequences", ("leaking_batch",), _padding, reachable=0.58),
    Pair(110, "one in ten, found", ("imbalanced_classes",), _ten_to_one, reachable=0.46),
    Pair(111, "the same order in every epoch", ("unshuffled_data",), _always_the_same_order, reachable=0.83),
    Pair(112, "last layer of zeros, small targets", ("bad_initialization",), _narrow_start, reachable=0.91),
    Pair(118, "gaps that the network knows of", ("non_finite_batch",), _not_measured, reachable=0.49),
    Pair(131, "a stream without a length", ("unshuffled_data",), _stream, reachable=0.85),
    Pair(132, "ten residual blocks", ("vanishing_gradients",), _residual, reachable=0.86),
)
