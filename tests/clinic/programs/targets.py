"""Targets: their scale, their outliers, their classes, and what is asked of the weights besides them."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam

from tests.clinic.patient import Pair, Patient, Program, balanced_gain, error_gain
from tests.clinic.programs.parts import (
    DIABETES,
    DIGITS,
    LABELS,
    PROGRESSION,
    RAW_PROGRESSION,
    served,
    stack,
    task,
)
from tests.clinic.variation import Variation

_CROSS_ENTROPY = nn.functional.cross_entropy
_LOGISTIC = nn.functional.binary_cross_entropy_with_logits
_MSE = nn.functional.mse_loss


def _outliers(vary: Variation, *, loss: nn.Module) -> Program:
    """A few of the targets were entered in another unit."""
    net = stack(vary.widths(10, 16, 1))
    patient = Patient(net, loss, lambda p: Adam(p, vary.rate(3e-3)))
    program = task(vary, patient, (DIABETES, PROGRESSION), 50, 32, gain=error_gain)
    rows, targets = served(program)
    wrong = torch.rand(len(targets), 1) < 0.015
    program.train = vary.loader(rows, targets.where(~wrong, 1000 * targets), 32)
    return program


def _sentinels(vary: Variation, *, dropped: bool) -> Program:
    """Where nothing was measured the target says −999."""
    net = stack(vary.widths(10, 16, 1))
    patient = Patient(net, _MSE, lambda p: Adam(p, vary.rate(3e-3)))
    program = task(vary, patient, (DIABETES, PROGRESSION), 60, 16, gain=error_gain)
    rows, targets = served(program)
    missing = torch.rand(len(targets)) < 0.01
    if dropped:
        rows, targets = rows[~missing], targets[~missing]
    else:
        targets = targets.where(~missing[:, None], torch.tensor(-999.0))
    program.train = vary.loader(rows, targets, 16)
    return program


def _unscaled(vary: Variation, *, scale: float, rate: float) -> Program:
    net = stack(vary.widths(10, 16, 1))
    patient = Patient(net, _MSE, lambda p: Adam(p, vary.rate(rate)))
    return task(vary, patient, (DIABETES, scale * PROGRESSION + 2 * scale), 50, 32, gain=error_gain)


def _steep(vary: Variation, *, targets: Tensor) -> Program:
    net = stack(vary.widths(10, 32, 1))
    patient = Patient(net, _MSE, lambda p: SGD(p, vary.rate(0.05)))
    return task(vary, patient, (DIABETES, targets), 40, 32, gain=error_gain)


def _severe(vary: Variation, *, weight: float) -> Program:
    """The worst three of a hundred patients are to be found."""
    severe = (RAW_PROGRESSION.quantile(0.97) < RAW_PROGRESSION).float()

    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        return _LOGISTIC(outputs, labels, pos_weight=torch.tensor(weight))

    patient = Patient(nn.Linear(10, 1), loss, lambda p: SGD(p, vary.rate(0.1)))
    program = task(vary, patient, (DIABETES, severe), 40, 32)
    inputs, labels = vary.rows(DIABETES, severe)
    program.gain = balanced_gain(inputs, labels, over=0.0)
    return program


def _weighted(vary: Variation, *, upside_down: bool) -> Program:
    """Of the digits 8 there are twenty times as many as of the digits 3."""
    inputs, labels = vary.rows(DIGITS, LABELS)
    eights, threes = inputs[labels == 8], inputs[labels == 3]
    few = len(eights) // 20
    order = torch.randperm(len(eights) + few)
    rows = torch.cat([eights, threes[:few]])[order]
    kinds = torch.cat([torch.zeros(len(eights)), torch.ones(few)]).long()[order]
    counts = kinds.bincount().float()
    weights = counts / counts.mean() if upside_down else counts.mean() / counts

    def loss(outputs: Tensor, wanted: Tensor) -> Tensor:
        return _CROSS_ENTROPY(outputs, wanted, weights)

    patient = Patient(stack(vary.widths(64, 16, 2)), loss, lambda p: SGD(p, vary.rate(0.1)))
    program = task(vary, patient, (rows, kinds), 60, 16)
    held = torch.cat([eights, threes[few:]])
    program.gain = balanced_gain(held, torch.cat([torch.zeros(len(eights)), torch.ones(len(threes) - few)]))
    return program


def _dropped(vary: Variation, *, share: float) -> Program:
    net = nn.Sequential()
    widths = vary.widths(64, 48, 48, 48, 10)
    for before, after in pairwise(widths[:-1]):
        net.extend([nn.Linear(before, after), nn.ReLU(), nn.Dropout(share)])
    net.append(nn.Linear(widths[-2], 10))
    return task(vary, Patient(net, _CROSS_ENTROPY, lambda p: Adam(p, vary.rate(1e-3))), (DIGITS, LABELS), 25, 32)


def _decayed(vary: Variation, *, decay: float) -> Program:
    net = stack(vary.widths(64, 48, 10))
    patient = Patient(net, _CROSS_ENTROPY, lambda p: SGD(p, vary.rate(0.05), momentum=0.9, weight_decay=decay))
    return task(vary, patient, (DIGITS, LABELS), 20, 32)


def _summed(vary: Variation, *, reduction: str) -> Program:
    net = stack(vary.widths(64, 48, 10))
    loss = nn.CrossEntropyLoss(reduction=reduction)
    return task(vary, Patient(net, loss, lambda p: SGD(p, vary.rate(0.1))), (DIGITS, LABELS), 40, 128)


PAIRS = (
    Pair(
        56,
        "some targets a thousand times too large",
        ("outlier_targets",),
        lambda vary: _outliers(vary, loss=nn.HuberLoss()),
        lambda vary: _outliers(vary, loss=nn.MSELoss()),
    ),
    Pair(
        57,
        "targets of −999 where none was measured",
        ("outlier_targets", "loss_spike"),
        lambda vary: _sentinels(vary, dropped=True),
        lambda vary: _sentinels(vary, dropped=False),
    ),
    Pair(
        58,
        "targets in the tens of thousands",
        ("unscaled_targets", "undertrained"),
        lambda vary: _unscaled(vary, scale=1.0, rate=3e-3),
        lambda vary: _unscaled(vary, scale=1e4, rate=3e-3),
    ),
    Pair(
        59,
        "targets from 25 to 346 make steps too long",
        ("unscaled_targets", "learning_rate_too_high"),
        lambda vary: _steep(vary, targets=PROGRESSION),
        lambda vary: _steep(vary, targets=RAW_PROGRESSION),
    ),
    Pair(
        60,
        "three in a hundred, all taken for the others",
        ("imbalanced_classes",),
        lambda vary: _severe(vary, weight=30.0),
        lambda vary: _severe(vary, weight=1.0),
    ),
    Pair(
        61,
        "class weights the wrong way round",
        ("imbalanced_classes",),
        lambda vary: _weighted(vary, upside_down=False),
        lambda vary: _weighted(vary, upside_down=True),
    ),
    Pair(
        62,
        "nine units in ten dropped, thrice",
        ("over_regularized",),
        lambda vary: _dropped(vary, share=0.1),
        lambda vary: _dropped(vary, share=0.9),
    ),
    Pair(
        63,
        "weight decay of 1",
        ("over_regularized",),
        lambda vary: _decayed(vary, decay=1e-4),
        lambda vary: _decayed(vary, decay=1.0),
    ),
    Pair(
        64,
        "a sum over 128 rows at the rate of a mean",
        ("summed_loss", "learning_rate_too_high"),
        lambda vary: _summed(vary, reduction="mean"),
        lambda vary: _summed(vary, reduction="sum"),
    ),
)
