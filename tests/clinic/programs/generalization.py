"""Low training losses that mean little, and validation losses that are high for other reasons than overfitting."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam
from torch.utils.data import DataLoader, Dataset

from tests.clinic.patient import Pair, Patient, Program, accuracy_gain, error_gain
from tests.clinic.programs.parts import (
    BENIGN,
    CANCER,
    CULTIVAR,
    DIABETES,
    DIGITS,
    LABELS,
    PROGRESSION,
    RAW_WINE,
    WINE,
    Data,
    stack,
)
from tests.clinic.variation import Variation, loader

_CROSS_ENTROPY, _MSE = nn.functional.cross_entropy, nn.functional.mse_loss
_LOGITS = nn.functional.binary_cross_entropy_with_logits


def _split(
    vary: Variation,
    patient: Patient,
    train: Data,
    validation: Data,
    epochs: int,
    batch: int,
    *,
    gain: Callable[[Tensor, Tensor], Callable[[Patient], float]] = accuracy_gain,
    scored: Data | None = None,
) -> Program:
    """Trains on some rows and validates on others; scores it on these, or on still others."""
    return Program(
        patient,
        vary.loader(*train, batch),
        gain(*(scored or validation)),
        loader(*validation, 100, shuffle=False),
        {"max_epochs": vary.epochs(epochs)},
    )


def _few_patients(vary: Variation, *, fits: bool) -> Program:
    inputs, targets = vary.rows(DIABETES, PROGRESSION)
    train, validation = (inputs[:150], targets[:150]), (inputs[150:], targets[150:])
    if fits:
        patient = Patient(stack(vary.widths(10, 8, 1)), _MSE, lambda p: Adam(p, vary.rate(3e-3), weight_decay=0.03))
        return _split(vary, patient, train, validation, 25, 16, gain=error_gain)
    patient = Patient(stack(vary.widths(10, 128, 128, 1)), _MSE, lambda p: Adam(p, vary.rate(2e-3)))
    return _split(vary, patient, train, validation, 60, 16, gain=error_gain)


def _surface(inputs: Tensor) -> Tensor:
    return torch.sin(2 * inputs[:, :1]) + torch.sin(2 * inputs[:, 1:2]) + 0.3 * inputs[:, 2:3]


def _shifted(vary: Variation, *, shift: float, rows: int = 1500, epochs: int = 25) -> Program:
    """Validation rows lie where hardly any training row does."""
    train, validation = torch.randn(rows, 5), torch.randn(500, 5)
    validation[:, :2] += shift
    patient = Patient(stack(vary.widths(5, 48, 48, 1), nn.Tanh), _MSE, lambda p: Adam(p, vary.rate(5e-3)))
    return _split(
        vary, patient, (train, _surface(train)), (validation, _surface(validation)), epochs, 32, gain=error_gain
    )


def _wine(vary: Variation, *, scaled: bool) -> Program:
    both, labels = vary.rows(torch.cat([WINE, RAW_WINE], dim=1), CULTIVAR)
    inputs, raw = both[:, :13], both[:, :13] if scaled else both[:, 13:]
    patient = Patient(stack(vary.widths(13, 16, 3)), _CROSS_ENTROPY, lambda p: Adam(p, vary.rate(3e-3)))
    return _split(vary, patient, (inputs[:110], labels[:110]), (raw[110:], labels[110:]), 25, 8)


def _digits(vary: Variation, validate: Callable[[Tensor], Tensor], epochs: int = 15) -> Program:
    inputs, labels = vary.rows(DIGITS, LABELS)
    patient = Patient(stack(vary.widths(64, 48, 10)), _CROSS_ENTROPY, lambda p: Adam(p, vary.rate(3e-3)))
    train = inputs[:1300], labels[:1300]
    return _split(vary, patient, train, (validate(inputs[1300:]), labels[1300:]), epochs, 32)


def _turned(images: Tensor) -> Tensor:
    return images.reshape(-1, 8, 8).rot90(1, (1, 2)).reshape(-1, 64)


def _proportions(vary: Variation, *, alike: bool) -> Program:
    """Half of the classes are rare in training and frequent in validation."""
    inputs, labels = vary.rows(DIGITS, LABELS)
    rare = labels >= 5
    train, rest = torch.arange(len(labels)) < 1200, torch.arange(len(labels)) >= 1200
    few = rare & train & (torch.cumsum(rare & train, 0) <= 12)
    kept = (train & ~rare) | few
    held = rest if not alike else rest & ~rare
    patient = Patient(stack(vary.widths(64, 48, 10)), _CROSS_ENTROPY, lambda p: Adam(p, vary.rate(2e-3)))
    return _split(vary, patient, (inputs[kept], labels[kept]), (inputs[held], labels[held]), 15, 32)


def _leaking(vary: Variation, *, leaks: bool) -> Program:
    """A third of the validation rows are training rows too, as after oversampling before the split."""
    inputs, labels = vary.rows(DIGITS, LABELS)
    patient = Patient(stack(vary.widths(64, 32, 10)), _CROSS_ENTROPY, lambda p: Adam(p, vary.rate(3e-3)))
    rows = torch.cat([torch.arange(150), torch.arange(1400, 1640)]) if leaks else torch.arange(1400, 1790)
    return _split(
        vary,
        patient,
        (inputs[:1400], labels[:1400]),
        (inputs[rows], labels[rows]),
        12,
        32,
        scored=(inputs[1400:], labels[1400:]),
    )


def _bent(vary: Variation, *, hidden: bool) -> Program:
    """A straight part, which a linear model can follow, and more that it cannot."""
    inputs = torch.randn(1200, 4)
    targets = 0.6 * inputs[:, :1] + 1.5 * inputs[:, 1:2].abs() + inputs[:, 2:3] * inputs[:, 3:4]
    net = stack(vary.widths(4, 48, 48, 1)) if hidden else nn.Sequential(nn.Linear(4, 1))
    patient = Patient(net, _MSE, lambda p: Adam(p, vary.rate(5e-3)))
    return _split(vary, patient, (inputs[:900], targets[:900]), (inputs[900:], targets[900:]), 30, 32, gain=error_gain)


def _mispaired(vary: Variation, data: Data, widths: list[int], loss: Any, gain: Any, *, broken: bool) -> Program:
    """The targets belong to other rows."""
    inputs, true = vary.rows(*data)
    targets = true
    if broken:
        targets = true[torch.randperm(len(true), generator=torch.Generator().manual_seed(vary.seed))]
    cut = 3 * len(inputs) // 4
    if broken:
        patient = Patient(stack(vary.widths(*widths)), loss, lambda p: Adam(p, vary.rate(3e-3)))
    else:
        # The same data in a network that fits it: what is broken is the pairing.
        patient = Patient(
            stack(vary.widths(widths[0], 8, widths[-1])), loss, lambda p: Adam(p, vary.rate(3e-3), weight_decay=0.03)
        )
    return _split(
        vary,
        patient,
        (inputs[:cut], targets[:cut]),
        (inputs[cut:], targets[cut:]),
        40 if broken else 20,
        32,
        gain=gain,
        scored=(inputs[cut:], true[cut:]),
    )


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + 0.2 * torch.relu(self.layer(inputs))


def _deep(vary: Variation, *, skips: bool) -> Program:
    """Fifty layers, as far as a signal comes through them."""
    width = vary.width(24)
    widths = [64, *[width] * 50]
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [_Residual(width)] if skips and before == after else [nn.Linear(before, after), nn.ReLU()]
    inputs, labels = vary.rows(DIGITS, LABELS)
    net = nn.Sequential(*layers, nn.Linear(width, 10))
    patient = Patient(net, _CROSS_ENTROPY, lambda p: Adam(p, vary.rate(1e-3)))
    return _split(vary, patient, (inputs[:1000], labels[:1000]), (inputs[1000:], labels[1000:]), 8, 50)


def _plain(vary: Variation, *, depth: int) -> Program:
    """Layers in a row with batch normalisation and no skips, the table of He et al. (2016), figure 1, in small."""
    width = vary.width(32)
    layers: list[nn.Module] = []
    for before, after in pairwise([64, *[width] * (depth - 1)]):
        layers += [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.ReLU()]
        nn.init.kaiming_normal_(layers[-3].weight, nonlinearity="relu")
    inputs, labels = vary.rows(DIGITS, LABELS)
    net = nn.Sequential(*layers, nn.Linear(width, 10))
    patient = Patient(net, _CROSS_ENTROPY, lambda p: SGD(p, vary.rate(0.02), momentum=0.9, weight_decay=1e-4))
    return _split(vary, patient, (inputs[:1000], labels[:1000]), (inputs[1000:], labels[1000:]), 24, 50)


def _lagging(vary: Variation, *, momentum: float) -> Program:
    """Batch statistics that the running ones follow at a crawl."""
    inputs, labels = vary.rows(8 * DIGITS + 20, LABELS)
    units = vary.width(32)
    net = nn.Sequential(
        nn.Linear(64, units),
        nn.BatchNorm1d(units, momentum=momentum),
        nn.ReLU(),
        nn.Linear(units, units),
        nn.BatchNorm1d(units, momentum=momentum),
        nn.ReLU(),
        nn.Linear(units, 10),
    )
    patient = Patient(net, _CROSS_ENTROPY, lambda p: Adam(p, vary.rate(3e-3)))
    return _split(vary, patient, (inputs[:1300], labels[:1300]), (inputs[1300:], labels[1300:]), 10, 32)


def _sure_of_itself(vary: Variation) -> Program:
    """Few digits, learned by heart long ago: surer and surer, and as often right as ever."""
    inputs, labels = vary.rows(DIGITS, LABELS)
    patient = Patient(
        stack(vary.widths(64, 64, 10)), _CROSS_ENTROPY, lambda p: SGD(p, vary.rate(0.2), momentum=0.9), accuracy=True
    )
    return _split(vary, patient, (inputs[:600], labels[:600]), (inputs[1200:], labels[1200:]), 50, 32)


def _unlogged(vary: Variation) -> Program:
    """The same without an accuracy that is logged."""
    program = _sure_of_itself(vary)
    program.module.accuracy = False
    return program


class _Noisy(Dataset[Any]):
    """Rows with noise on them, another one each time."""

    def __init__(self, inputs: Tensor, labels: Tensor) -> None:
        self.inputs = inputs
        self.labels = labels

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> Any:
        return self.inputs[index] + 0.2 * torch.randn_like(self.inputs[index]), self.labels[index]


def _augmented(vary: Variation) -> Program:
    program = _digits(vary, lambda images: images, epochs=8)
    rows: Any = program.train.dataset
    program.train = DataLoader(_Noisy(*rows.tensors), program.train.batch_size, shuffle=True)
    return program


def _harmless_shift(vary: Variation) -> Program:
    """A column that has nothing to do with the targets is another one in validation."""
    inputs, targets = torch.randn(2000, 6), torch.zeros(2000, 1)
    inputs[:, 5] *= 0.3
    targets = inputs[:, :3].sum(1, keepdim=True) + torch.tanh(inputs[:, 3:4])
    inputs[1500:, 5] += 0.3
    patient = Patient(stack(vary.widths(6, 32, 1)), _MSE, lambda p: Adam(p, vary.rate(5e-3)))
    return _split(
        vary, patient, (inputs[:1500], targets[:1500]), (inputs[1500:], targets[1500:]), 20, 32, gain=error_gain
    )


def _answers(vary: Variation) -> Program:
    """Rows of five yes-or-no answers, of which there are but 32."""
    inputs = (torch.rand(1500, 5) < 0.5).float()
    labels = ((inputs[:, 0] + inputs[:, 1] * inputs[:, 2] + inputs[:, 3]) > 1).long()
    patient = Patient(stack(vary.widths(5, 16, 2)), _CROSS_ENTROPY, lambda p: Adam(p, vary.rate(5e-3)))
    return _split(vary, patient, (inputs[:1100], labels[:1100]), (inputs[1100:], labels[1100:]), 20, 32)


def _tiny_validation(vary: Variation) -> Program:
    inputs, labels = vary.rows(DIGITS, LABELS)
    patient = Patient(stack(vary.widths(64, 32, 10)), _CROSS_ENTROPY, lambda p: Adam(p, vary.rate(3e-3)), accuracy=True)
    train, rest = (inputs[:1300], labels[:1300]), (inputs[1300:], labels[1300:])
    return _split(vary, patient, train, (inputs[1300:1312], labels[1300:1312]), 12, 32, scored=rest)


def _tumours(vary: Variation, *, rows: int) -> Program:
    inputs, labels = vary.rows(CANCER, BENIGN)
    patient = Patient(
        stack(vary.widths(30, 16, 1)), _LOGITS, lambda p: Adam(p, vary.rate(3e-3), weight_decay=0.01), accuracy=True
    )
    train, rest = (inputs[:300], labels[:300]), (inputs[300:], labels[300:])
    validation = inputs[300 : 300 + rows], labels[300 : 300 + rows]
    return _split(
        vary, patient, train, validation, 15, 32, gain=lambda x, y: accuracy_gain(x, y, over=0.0), scored=rest
    )


def _kept(program: Program) -> Program:
    """The same with a tenth of the training rows held out."""
    program.doctor = {"holdout": 0.1}
    return program


def _other_relation(vary: Variation, *, other: bool) -> Program:
    """Inputs and targets lie where they lay, and one column says the opposite in validation."""
    inputs = torch.randn(1500, 5)
    turned = torch.ones(1500, 1)
    if other:
        turned[1000:] = -1
    targets = torch.tanh(2 * turned * inputs[:, :1]) + 0.5 * torch.sin(2 * inputs[:, 1:2])
    patient = Patient(stack(vary.widths(5, 32, 1), nn.Tanh), _MSE, lambda p: Adam(p, vary.rate(5e-3)))
    return _kept(
        _split(vary, patient, (inputs[:1000], targets[:1000]), (inputs[1000:], targets[1000:]), 20, 32, gain=error_gain)
    )


_DEEP = (
    "vanishing_gradients",
    "bad_initialization",
    "worse_than_reference",
    "stuck_at_baseline",
    "collapsed_output",
    "frozen_parameters",
    "exploding_gradients",
)

PAIRS = (
    Pair(
        146,
        "150 patients in a wide network",
        ("overfitting",),
        lambda vary: _few_patients(vary, fits=True),
        lambda vary: _few_patients(vary, fits=False),
    ),
    Pair(
        147,
        "validation rows far off",
        ("distribution_mismatch",),
        lambda vary: _shifted(vary, shift=0.0),
        lambda vary: _shifted(vary, shift=2.5),
    ),
    Pair(
        148,
        "scaled in training only",
        ("distribution_mismatch",),
        lambda vary: _wine(vary, scaled=True),
        lambda vary: _wine(vary, scaled=False),
    ),
    Pair(
        149,
        "validation images turned by a quarter",
        ("distribution_mismatch",),
        lambda vary: _digits(vary, lambda images: images),
        lambda vary: _digits(vary, _turned),
    ),
    Pair(
        150,
        "classes rare in training and frequent in validation",
        ("distribution_mismatch",),
        lambda vary: _proportions(vary, alike=True),
        lambda vary: _proportions(vary, alike=False),
    ),
    Pair(
        151,
        "few rows, and validation rows off",
        ("distribution_mismatch", "overfitting"),
        lambda vary: _shifted(vary, shift=0.0),
        lambda vary: _shifted(vary, shift=1.5, rows=80, epochs=150),
    ),
    Pair(
        152,
        "a third of validation is trained on",
        ("leaked_validation",),
        lambda vary: _leaking(vary, leaks=False),
        lambda vary: _leaking(vary, leaks=True),
        wasteful=True,
    ),
    Pair(
        153,
        "a linear model of what is bent",
        ("model_bias", "poor_minimum"),
        lambda vary: _bent(vary, hidden=True),
        lambda vary: _bent(vary, hidden=False),
    ),
    Pair(
        154,
        "tumours and diagnoses shuffled apart",
        ("uninformative_labels",),
        lambda vary: _mispaired(vary, (CANCER, BENIGN), [30, 64, 1], _LOGITS, accuracy_gain, broken=False),
        lambda vary: _mispaired(vary, (CANCER, BENIGN), [30, 64, 1], _LOGITS, accuracy_gain, broken=True),
    ),
    Pair(
        155,
        "patients and their progression shuffled apart",
        ("uninformative_labels",),
        lambda vary: _mispaired(vary, (DIABETES, PROGRESSION), [10, 64, 1], _MSE, error_gain, broken=False),
        lambda vary: _mispaired(vary, (DIABETES, PROGRESSION), [10, 64, 1], _MSE, error_gain, broken=True),
    ),
    Pair(
        156,
        "fifty layers without skips",
        _DEEP,
        lambda vary: _deep(vary, skips=True),
        lambda vary: _deep(vary, skips=False),
    ),
    Pair(
        176,
        "fifty-six plain layers, where twenty do better",
        _DEEP,
        lambda vary: _plain(vary, depth=20),
        lambda vary: _plain(vary, depth=56),
    ),
    Pair(
        163,
        "running statistics that never arrive",
        ("train_eval_discrepancy",),
        lambda vary: _lagging(vary, momentum=0.1),
        lambda vary: _lagging(vary, momentum=1e-4),
    ),
    Pair(
        164,
        "a column that says the opposite in validation, rows held out",
        ("distribution_mismatch",),
        lambda vary: _other_relation(vary, other=False),
        lambda vary: _other_relation(vary, other=True),
    ),
    Pair(
        165,
        "150 patients in a wide network, rows held out",
        ("overfitting",),
        lambda vary: _kept(_few_patients(vary, fits=True)),
        lambda vary: _kept(_few_patients(vary, fits=False)),
    ),
    Pair(
        166,
        "few rows, validation rows off, rows held out",
        ("distribution_mismatch", "overfitting"),
        lambda vary: _kept(_shifted(vary, shift=0.0)),
        lambda vary: _kept(_shifted(vary, shift=1.5, rows=80, epochs=150)),
    ),
    Pair(
        167,
        "twelve tumours to validate on",
        ("uncertain_validation",),
        lambda vary: _tumours(vary, rows=250),
        lambda vary: _tumours(vary, rows=12),
        wasteful=True,
    ),
    Pair(157, "surer and surer, and as often right", ("overfitting",), _sure_of_itself, reachable=0.85),
    Pair(158, "the same without a logged accuracy", ("overfitting",), _unlogged, reachable=0.85),
    Pair(159, "noise on training rows only", ("distribution_mismatch",), _augmented, reachable=0.83),
    Pair(160, "another value of a column without meaning", ("distribution_mismatch",), _harmless_shift, reachable=1.0),
    Pair(161, "rows that come often by themselves", ("leaked_validation",), _answers, reachable=0.35),
    Pair(162, "a dozen rows to validate on", ("overfitting",), _tiny_validation, reachable=0.84),
)
