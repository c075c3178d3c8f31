"""What the network is fed with: scale, order, repetition, gaps, pace."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam
from torch.utils.data import DataLoader, Dataset, TensorDataset

from tests.clinic.patient import Pair, Patient, Program, accuracy_gain, error_gain
from tests.clinic.programs.parts import (
    BENIGN,
    CANCER,
    CULTIVAR,
    DIABETES,
    DIGITS,
    LABELS,
    PROGRESSION,
    RAW_CANCER,
    RAW_WINE,
    WINE,
    binary,
    served,
    stack,
    task,
)
from tests.clinic.variation import Variation, loader

_CROSS_ENTROPY = nn.functional.cross_entropy
_MSE = nn.functional.mse_loss


def _wine(vary: Variation, *, rows: Tensor) -> Program:
    net = stack(vary.widths(13, 32, 16, 3))
    return task(vary, Patient(net, _CROSS_ENTROPY, lambda p: SGD(p, vary.rate(0.02))), (rows, CULTIVAR), 80, 16)


def _mixed_scales(vary: Variation, *, mixed: bool) -> Program:
    """A third of the measurements are in another unit, a thousand times smaller."""
    units = torch.where(torch.arange(10) % 3 == 2, 1000.0, 1.0) if mixed else torch.ones(10)
    net = stack(vary.widths(10, 16, 1))
    patient = Patient(net, _MSE, lambda p: Adam(p, vary.rate(1e-3)))
    return task(vary, patient, (DIABETES * units, PROGRESSION), 60, 32, gain=error_gain)


def _gap(vary: Variation, *, value: float | None) -> Program:
    net = stack(vary.widths(30, 16, 1), last=nn.Sigmoid())
    program = task(vary, Patient(net, binary, lambda p: Adam(p, vary.rate(3e-3))), (CANCER, BENIGN), 20, 32)
    if value is not None:
        inputs, targets = served(program)
        inputs = inputs.clone()
        inputs[torch.randint(0, len(inputs), ()), 7] = value
        program.train = loader(inputs, targets, vary.batch(32))
    return program


def _logarithms(vary: Variation, *, guarded: bool) -> Program:
    """Some of the measurements are zero."""
    rows = (RAW_CANCER + 1e-3 * guarded).log()
    kept = rows if guarded else rows.nan_to_num(neginf=-7.0)
    net = nn.Sequential(nn.BatchNorm1d(30), *stack(vary.widths(30, 16, 1), last=nn.Sigmoid()))
    program = task(vary, Patient(net, binary, lambda p: Adam(p, vary.rate(3e-3))), (rows, BENIGN), 20, 32)
    inputs, labels = vary.rows(kept, BENIGN)
    cut = 3 * len(inputs) // 4
    program.gain = accuracy_gain(inputs[cut:], labels[cut:])
    program.val = loader(inputs[cut:], labels[cut:])
    return program


def _sorted(vary: Variation, *, by_label: bool) -> Program:
    patient = Patient(
        stack(vary.widths(64, 32, 10)), _CROSS_ENTROPY, lambda p: SGD(p, vary.rate(0.1), momentum=0.9), accuracy=True
    )
    program = task(vary, patient, (DIGITS, LABELS), 15, 32)
    if by_label:
        inputs, labels = served(program)
        order = labels.argsort()
        program.train = vary.loader(inputs[order], labels[order], 32, shuffle=False)
    return program


def _repeated(vary: Variation, *, first_only: bool) -> Program:
    patient = Patient(stack(vary.widths(64, 32, 10)), _CROSS_ENTROPY, lambda p: Adam(p, vary.rate(2e-3)), accuracy=True)
    program = task(vary, patient, (DIGITS, LABELS), 6, 6)
    if first_only:
        # A new iterator for every step begins at the first batch again.
        steps, size = len(program.train), vary.batch(6)
        program.train = DataLoader(program.train.dataset, size, sampler=list(range(size)) * steps)
    return program


def _copies(vary: Variation, *, few: bool) -> Program:
    """Six rows, copied until there are enough."""
    patient = Patient(stack(vary.widths(64, 32, 10)), _CROSS_ENTROPY, lambda p: Adam(p, vary.rate(2e-3)), accuracy=True)
    program = task(vary, patient, (DIGITS, LABELS), 15, 32)
    if few:
        inputs, labels = served(program)
        program.train = vary.loader(inputs[:6].repeat(200, 1), labels[:6].repeat(200), 32)
    return program


class _FromDisk(Dataset[Any]):
    """Takes a while for every row."""

    def __init__(self, dataset: TensorDataset, seconds: float) -> None:
        self.dataset = dataset
        self.seconds = seconds

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        time.sleep(self.seconds)
        return self.dataset[index]


def _slow(vary: Variation, *, seconds: float) -> Program:
    net = stack(vary.widths(64, 64, 10))
    program = task(vary, Patient(net, _CROSS_ENTROPY, lambda p: Adam(p, vary.rate(5e-3))), (DIGITS, LABELS), 4, 32)
    if seconds:
        dataset: Any = program.train.dataset
        program.train = DataLoader(_FromDisk(dataset, seconds), vary.batch(32), shuffle=True)
    return program


def _misaligned(vary: Variation, *, sorted_apart: bool) -> Program:
    """The rows were shuffled by one table's index and the labels by another's."""
    patient = Patient(nn.Linear(30, 2), _CROSS_ENTROPY, lambda p: SGD(p, vary.rate(0.02)), accuracy=True)
    program = task(vary, patient, (CANCER, BENIGN[:, 0].long()), 40, 32)
    if sorted_apart:
        inputs, labels = served(program)
        program.train = vary.loader(inputs, labels[torch.randperm(len(labels))], 32)
    return program


def _thresholded(vary: Variation, *, over: float) -> Program:
    """The label says whether the diabetes progressed beyond a threshold that almost nobody reaches."""
    program = task(
        vary,
        Patient(stack(vary.widths(10, 16, 2)), _CROSS_ENTROPY, lambda p: Adam(p, vary.rate(3e-3)), accuracy=True),
        (DIABETES, (PROGRESSION[:, 0] > over).long()),
        30,
        16,
    )
    inputs, severe = vary.rows(DIABETES, (PROGRESSION[:, 0] > 0).long())
    program.gain = accuracy_gain(inputs, severe)
    return program


def _sorted_targets(vary: Variation, *, shuffled: bool) -> Program:
    """A table that was sorted by the column that is to be predicted."""
    patient = Patient(stack(vary.widths(10, 24, 1)), _MSE, lambda p: SGD(p, vary.rate(0.05)))
    program = task(vary, patient, (DIABETES, PROGRESSION), 40, 16, gain=error_gain)
    if not shuffled:
        rows, targets = served(program)
        order = targets[:, 0].argsort()
        program.train = vary.loader(rows[order], targets[order], 16, shuffle=False)
    return program


PAIRS = (
    Pair(
        65,
        "wine, raw",
        ("unscaled_inputs",),
        lambda vary: _wine(vary, rows=WINE),
        lambda vary: _wine(vary, rows=RAW_WINE),
    ),
    Pair(
        66,
        "a third of the inputs a thousand times larger",
        ("unscaled_inputs",),
        lambda vary: _mixed_scales(vary, mixed=False),
        lambda vary: _mixed_scales(vary, mixed=True),
    ),
    Pair(
        67,
        "one value missing in one row",
        ("non_finite_batch",),
        lambda vary: _gap(vary, value=None),
        lambda vary: _gap(vary, value=float("nan")),
    ),
    Pair(
        68,
        "logarithms of zero",
        ("non_finite_batch",),
        lambda vary: _logarithms(vary, guarded=True),
        lambda vary: _logarithms(vary, guarded=False),
    ),
    Pair(
        69,
        "digits in the order of their labels",
        ("unshuffled_data",),
        lambda vary: _sorted(vary, by_label=False),
        lambda vary: _sorted(vary, by_label=True),
    ),
    Pair(
        70,
        "the first batch again and again",
        ("repeated_batches",),
        lambda vary: _repeated(vary, first_only=False),
        lambda vary: _repeated(vary, first_only=True),
    ),
    Pair(
        71,
        "six rows, copied two hundred times",
        ("repeated_batches", "overfitting"),
        lambda vary: _copies(vary, few=False),
        lambda vary: _copies(vary, few=True),
    ),
    Pair(
        72,
        "a third of a millisecond to read every row",
        ("data_starved",),
        lambda vary: _slow(vary, seconds=0.0),
        lambda vary: _slow(vary, seconds=3e-4),
        wasteful=True,
    ),
    Pair(
        73,
        "rows and labels shuffled apart, linear model",
        ("stuck_at_baseline", "uninformative_labels"),
        lambda vary: _misaligned(vary, sorted_apart=False),
        lambda vary: _misaligned(vary, sorted_apart=True),
    ),
    Pair(
        74,
        "a threshold that nobody reaches",
        ("constant_labels",),
        lambda vary: _thresholded(vary, over=0.0),
        lambda vary: _thresholded(vary, over=3.0),
    ),
    Pair(
        126,
        "a table in the order of its targets",
        ("unshuffled_data",),
        lambda vary: _sorted_targets(vary, shuffled=True),
        lambda vary: _sorted_targets(vary, shuffled=False),
    ),
)
