"""Outputs and losses that do not fit each other."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam

from tests.clinic.patient import Pair, Patient, Program, accuracy_gain, balanced_gain, error_gain
from tests.clinic.programs.parts import (
    BENIGN,
    CANCER,
    DIABETES,
    DIGITS,
    LABELS,
    PROGRESSION,
    RAW_PROGRESSION,
    stack,
    standard,
    task,
)
from tests.clinic.variation import Variation

_CROSS_ENTROPY = nn.functional.cross_entropy
_LOGISTIC = nn.functional.binary_cross_entropy_with_logits
_MSE = nn.functional.mse_loss


def _two_sigmoids(vary: Variation, *, last: nn.Module | None) -> Program:
    def over_zero(inputs: Tensor, labels: Tensor):  # type: ignore[no-untyped-def]
        return balanced_gain(inputs, labels, over=0.0)

    net = stack(vary.widths(30, 16, 1), last=last)
    # What the loss takes for a logit is right on one side of zero.
    return task(
        vary, Patient(net, _LOGISTIC, lambda p: Adam(p, vary.rate(3e-3))), (CANCER, BENIGN), 25, 32, gain=over_zero
    )


def _far_start(vary: Variation, *, squared: bool) -> Program:
    def squares(outputs: Tensor, labels: Tensor) -> Tensor:
        return _MSE(outputs.softmax(1), nn.functional.one_hot(labels, 10).float())

    net = nn.Linear(64, 10)
    # As if it had been trained on other digits: it is sure of itself, and wrong.
    nn.init.normal_(net.weight, 0.0, 5.0)
    patient = Patient(net, squares if squared else _CROSS_ENTROPY, lambda p: SGD(p, vary.rate(0.5)), accuracy=True)
    return task(vary, patient, (DIGITS, LABELS), 20, 32)


def _progression(vary: Variation, *, raw: bool) -> Program:
    net = stack(vary.widths(10, 16, 1), last=nn.Sigmoid() if raw else None)
    targets = RAW_PROGRESSION if raw else PROGRESSION
    return task(
        vary, Patient(net, _MSE, lambda p: Adam(p, vary.rate(3e-3))), (DIABETES, targets), 40, 32, gain=error_gain
    )


def _flat_targets(vary: Variation, *, flat: bool) -> Program:
    targets = PROGRESSION[:, 0] if flat else PROGRESSION
    net = stack(vary.widths(10, 16, 1))
    return task(
        vary, Patient(net, _MSE, lambda p: Adam(p, vary.rate(3e-3))), (DIABETES, targets), 40, 32, gain=error_gain
    )


def _circles(vary: Variation, *, between: type[nn.Module] | None) -> Program:
    angles, labels = 2 * math.pi * torch.rand(800, 1), (torch.rand(800) < 0.5).long()
    radii = 1 + labels[:, None] + 0.2 * torch.randn(800, 1)
    points = radii * torch.cat([angles.cos(), angles.sin()], 1)
    net = stack(vary.widths(2, 32, 32, 2), between)
    return task(vary, Patient(net, _CROSS_ENTROPY, lambda p: Adam(p, vary.rate(3e-3))), (points, labels), 30, 32)


class _Apart(nn.Module):
    """How far apart the embeddings of two digits are."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.embed = stack([64, units, 8])

    def forward(self, pairs: Tensor) -> Tensor:
        first, second = self.embed(pairs).unbind(1)
        return (first - second).square().sum(1, keepdim=True)


def _likeness(vary: Variation, *, negatives: bool) -> Program:
    inputs, labels = vary.rows(DIGITS, LABELS)
    some, other = torch.randint(0, len(labels), (2, 12000))
    same = labels[some] == labels[other]
    # As many pairs of one digit as of two.
    chosen = torch.cat([same.nonzero()[:1000, 0], (~same).nonzero()[:1000, 0]])
    chosen = chosen[torch.randperm(len(chosen))]
    pairs, likeness = torch.stack([inputs[some[chosen]], inputs[other[chosen]]], 1), same[chosen].float()[:, None]

    def contrastive(distances: Tensor, alike: Tensor) -> Tensor:
        return (alike * distances + (1 - alike) * (1 - distances).relu()).mean()

    patient = Patient(_Apart(vary.width(32)), contrastive, lambda p: Adam(p, vary.rate(3e-3)))
    program = task(vary, patient, (pairs, likeness), 12, 32, gain=_verified)
    if not negatives:
        pairs, likeness = pairs[:1500], likeness[:1500]
        program.train = vary.loader(pairs[likeness[:, 0] == 1], likeness[likeness[:, 0] == 1], 32)
    return program


def _verified(pairs: Tensor, likeness: Tensor) -> Callable[[Patient], float]:
    """Measures over a coin how often a distance under a half, of the margin of one, means the same digit."""
    return lambda module: float(((module(pairs) < 0.5) == (likeness == 1)).float().mean()) - 0.5


def _pixels(vary: Variation, *, standardised: bool) -> Program:
    pixels = standard(DIGITS) if standardised else DIGITS
    net = stack(vary.widths(64, 32, 12, 32, 64), last=nn.Sigmoid())
    loss = nn.functional.binary_cross_entropy

    def cross_entropy(outputs: Tensor, wanted: Tensor) -> Tensor:
        outputs = outputs.clamp(1e-7, 1 - 1e-7)
        return -(wanted * outputs.log() + (1 - wanted) * (1 - outputs).log()).mean()

    patient = Patient(net, cross_entropy if standardised else loss, lambda p: Adam(p, vary.rate(3e-3)))
    return task(vary, patient, (pixels, pixels), 20, 32, gain=error_gain)


def _log_of_softmax(vary: Variation, *, by_hand: bool) -> Program:
    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        logs = outputs.softmax(1).log() if by_hand else outputs.log_softmax(1)
        return -(nn.functional.one_hot(labels, 10) * logs).sum(1).mean()

    net = stack(vary.widths(64, 64, 10))
    return task(vary, Patient(net, loss, lambda p: Adam(p, vary.rate(3e-3))), (255 * DIGITS, LABELS), 12, 32)


class _Sine(nn.Module):
    def __init__(self, frequency: float) -> None:
        super().__init__()
        self.frequency = nn.Parameter(torch.tensor(frequency))
        self.amplitude = nn.Parameter(torch.tensor(1.0))
        self.phase = nn.Parameter(torch.tensor(0.0))

    def forward(self, times: Tensor) -> Tensor:
        return self.amplitude * torch.sin(self.frequency * times + self.phase)


def _frequency(vary: Variation, *, start: float) -> Program:
    times = 10 * torch.rand(200, 1)
    values = 1.5 * torch.sin(3 * times + 1) + 0.1 * torch.randn(200, 1)
    return task(
        vary, Patient(_Sine(start), _MSE, lambda p: Adam(p, vary.rate(0.01))), (times, values), 250, 50, gain=error_gain
    )


def _each_digit(vary: Variation, *, last: nn.Module | None) -> Program:
    """Ten questions a digit: is it a 0, is it a 1, …; of the answers all but one are no."""

    def found(inputs: Tensor, wanted: Tensor) -> Callable[[Patient], float]:
        return lambda module: float(((module(inputs) > 0) == (wanted == 1)).all(1).float().mean())

    answers = nn.functional.one_hot(LABELS, 10).float()
    patient = Patient(stack(vary.widths(64, 48, 10), last=last), _LOGISTIC, lambda p: Adam(p, vary.rate(3e-3)))
    return task(vary, patient, (DIGITS, answers), 20, 32, gain=found)


def _kinds(vary: Variation, *, as_numbers: bool) -> Program:
    """Which digit it is, taken for a number that is to be met."""

    def squares(outputs: Tensor, labels: Tensor) -> Tensor:
        return _MSE(outputs[:, 0], labels.float())

    def rounded(inputs: Tensor, labels: Tensor) -> Callable[[Patient], float]:
        most = float(labels.bincount().max()) / len(labels)
        return lambda module: float((module(inputs)[:, 0].round() == labels).float().mean()) - most

    net = stack(vary.widths(64, 32, 1 if as_numbers else 10))
    patient = Patient(net, squares if as_numbers else _CROSS_ENTROPY, lambda p: Adam(p, vary.rate(3e-3)))
    return task(vary, patient, (DIGITS, LABELS), 20, 32, gain=rounded if as_numbers else accuracy_gain)


def _summed_squares(vary: Variation, *, reduction: str) -> Program:
    patient = Patient(nn.Linear(10, 1), nn.MSELoss(reduction=reduction), lambda p: SGD(p, vary.rate(0.02)))
    return task(vary, patient, (DIABETES, PROGRESSION), 60, 64, gain=error_gain)


PAIRS = (
    Pair(
        47,
        "sigmoid before the loss that has its own",
        ("double_sigmoid",),
        lambda vary: _two_sigmoids(vary, last=None),
        lambda vary: _two_sigmoids(vary, last=nn.Sigmoid()),
    ),
    Pair(
        48,
        "squared error on a softmax that starts far off",
        ("squared_error_on_classes", "bad_initialization"),
        lambda vary: _far_start(vary, squared=False),
        lambda vary: _far_start(vary, squared=True),
    ),
    Pair(
        49,
        "sigmoid output, targets from 25 to 346",
        ("output_out_of_reach", "unscaled_targets"),
        lambda vary: _progression(vary, raw=False),
        lambda vary: _progression(vary, raw=True),
    ),
    Pair(
        50,
        "prediction [N, 1], target [N]",
        ("broadcast_targets",),
        lambda vary: _flat_targets(vary, flat=False),
        lambda vary: _flat_targets(vary, flat=True),
    ),
    Pair(
        51,
        "circles, three layers without activations",
        ("linear_stack",),
        lambda vary: _circles(vary, between=nn.ReLU),
        lambda vary: _circles(vary, between=None),
    ),
    Pair(
        52,
        "cross-entropy on standardised pixels",
        ("negative_loss", "output_out_of_reach"),
        lambda vary: _pixels(vary, standardised=False),
        lambda vary: _pixels(vary, standardised=True),
    ),
    Pair(
        53,
        "logarithm of a softmax",
        ("non_finite_loss", "non_finite_gradients", "unscaled_inputs"),
        lambda vary: _log_of_softmax(vary, by_hand=False),
        lambda vary: _log_of_softmax(vary, by_hand=True),
    ),
    Pair(
        54,
        "a sine of the wrong frequency",
        ("loss_plateau", "stuck_at_baseline", "poor_minimum"),
        lambda vary: _frequency(vary, start=2.9),
        lambda vary: _frequency(vary, start=1.0),
    ),
    Pair(
        55,
        "pairs of one kind only",
        ("collapsed_output", "constant_labels", "distribution_mismatch"),
        lambda vary: _likeness(vary, negatives=True),
        lambda vary: _likeness(vary, negatives=False),
    ),
    Pair(
        123,
        "ten sigmoids before the loss that has its own",
        ("double_sigmoid",),
        lambda vary: _each_digit(vary, last=None),
        lambda vary: _each_digit(vary, last=nn.Sigmoid()),
    ),
    Pair(
        124,
        "the label as a number",
        ("squared_error_on_classes",),
        lambda vary: _kinds(vary, as_numbers=False),
        lambda vary: _kinds(vary, as_numbers=True),
    ),
    Pair(
        125,
        "a sum of squares at the rate of their mean",
        ("summed_loss", "learning_rate_too_high", "diverging_loss"),
        lambda vary: _summed_squares(vary, reduction="mean"),
        lambda vary: _summed_squares(vary, reduction="sum"),
    ),
)
