"""What keeps a gradient, a sample or a statistic from where it belongs, and losses without a usual scale."""

from __future__ import annotations

import torch
from sklearn.datasets import make_friedman1
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW

from tests.clinic.patient import Pair, Patient, Program, error_gain
from tests.clinic.programs.parts import CANCER, CULTIVAR, DIGITS, LABELS, RAW_CANCER, WINE, Data, stack, standard, task
from tests.clinic.variation import Variation

_CROSS_ENTROPY = nn.functional.cross_entropy


def _anew(vary: Variation, *, attached: bool) -> Program:
    def loss(scores: Tensor, labels: Tensor) -> Tensor:
        value = _CROSS_ENTROPY(scores, labels)
        return value if attached else torch.tensor(value.item(), requires_grad=True)

    patient = Patient(stack(vary.widths(13, 24, 3)), loss, lambda p: SGD(p, vary.rate(0.05), momentum=0.9))
    return task(vary, patient, (WINE, CULTIVAR), 30, 16)


class _Stars(nn.Module):
    """Gives a number of stars, whole or not."""

    def __init__(self, widths: list[int], *, whole: bool) -> None:
        super().__init__()
        self.body = stack(widths)
        self.whole = whole

    def forward(self, inputs: Tensor) -> Tensor:
        stars: Tensor = self.body(inputs)
        return stars.round() if self.whole else stars


def _stars(vary: Variation, *, whole: bool) -> Program:
    rows = torch.randn(900, 6)
    stars = (3 + rows[:, :1] + 0.7 * rows[:, 1:2]).clamp(1, 5).round()
    patient = Patient(
        _Stars(vary.widths(6, 32, 32, 1), whole=whole), nn.functional.mse_loss, lambda p: Adam(p, vary.rate(3e-3))
    )
    return task(vary, patient, (rows, stars), 25, 24, gain=error_gain)


def _spirals(vary: Variation, *, units: int) -> Program:
    labels = torch.arange(1200) % 5
    radius = torch.rand(1200)
    angle = 5 * radius + labels * (2 * torch.pi / 5) + 0.1 * torch.randn(1200)
    rows = 2 * radius[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
    patient = Patient(stack([2, units, 5]), _CROSS_ENTROPY, lambda p: Adam(p, vary.rate(1e-2)))
    return task(vary, patient, (rows, labels), 50, 30)


def _friedman() -> Data:
    rows, targets = make_friedman1(1200, noise=0.5, random_state=int(torch.randint(1 << 30, ())))
    rows = torch.tensor(rows, dtype=torch.float32)
    return standard(rows), standard(torch.tensor(targets, dtype=torch.float32)[:, None])


def _pairs_of_rows(vary: Variation, *, momentum: float, batch: int, epochs: int) -> Program:
    parts: list[nn.Module] = []
    for before, after in ((10, 48), (48, 48)):
        parts += [nn.Linear(before, after), nn.BatchNorm1d(after, momentum=momentum), nn.ReLU()]
    net = nn.Sequential(*parts, nn.Linear(48, 1))
    patient = Patient(net, nn.functional.mse_loss, lambda p: Adam(p, vary.rate(3e-3)))
    return task(vary, patient, _friedman(), epochs, batch, gain=error_gain)


def _across(vary: Variation, *, dim: int) -> Program:
    def one_by_one(inputs: Tensor, labels: Tensor) -> float:
        constant = float(torch.bincount(labels).max()) / len(labels)
        guesses = torch.cat([patient(row[None]) for row in inputs]).argmax(1)
        return float((guesses == labels).float().mean()) - constant

    net = nn.Sequential(stack(vary.widths(64, 48, 10)), nn.LogSoftmax(dim))
    patient = Patient(net, nn.functional.nll_loss, lambda p: Adam(p, vary.rate(2e-3)))
    return task(vary, patient, (DIGITS, LABELS), 15, 32, gain=lambda rows, labels: lambda _: one_by_one(rows, labels))


class _Counts(nn.Module):
    def __init__(self, units: int) -> None:
        super().__init__()
        self.body = stack([3, units, 1])

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.exp(self.body(inputs))


def _counts(vary: Variation, *, raw: bool) -> Program:
    def loss(rate: Tensor, counts: Tensor) -> Tensor:
        return (rate - counts * torch.log(rate + 1e-8)).mean()

    rows = torch.rand(1200, 3) * torch.tensor([1000.0, 300.0, 50.0])
    rate = torch.exp(2 + 0.0015 * rows[:, :1] - 0.004 * rows[:, 1:2] + 0.01 * rows[:, 2:])
    patient = Patient(_Counts(vary.width(16)), loss, lambda p: SGD(p, vary.rate(0.01)))
    return task(vary, patient, (rows if raw else standard(rows), torch.poisson(rate)), 30, 25, gain=error_gain)


def _survival(vary: Variation) -> Program:
    """Cox's partial likelihood, whose least value nobody knows."""

    def loss(risk: Tensor, seen: Tensor) -> Tensor:
        order = seen[:, 0].argsort(descending=True)
        scores, event = risk[order, 0], seen[order, 1]
        return -((scores - scores.logcumsumexp(0)) * event).sum() / event.sum()

    def concordance(rows: Tensor, seen: Tensor) -> float:
        risk = patient(rows)[:, 0]
        earlier = (seen[:, None, 0] < seen[None, :, 0]) & (seen[:, None, 1] > 0)
        right: Tensor = (risk[:, None] > risk[None])[earlier]
        return float(right.float().mean()) - 0.5

    rows = torch.randn(1200, 8)
    hazard = torch.exp(rows[:, 0] + 0.7 * rows[:, 1] * (rows[:, 2] > 0))
    time, censored = -torch.rand(1200).log() / hazard, -2 * torch.rand(1200).log()
    seen = torch.stack([torch.minimum(time, censored), (time <= censored).float()], 1)
    patient = Patient(stack(vary.widths(8, 16, 1)), loss, lambda p: AdamW(p, vary.rate(3e-3)))
    return task(vary, patient, (rows, seen), 30, 75, gain=lambda kept, told: lambda _: concordance(kept, told))


def _margins(vary: Variation) -> Program:
    """A hinge by hand: most samples keep their margin and cost nothing."""

    def loss(scores: Tensor, sides: Tensor) -> Tensor:
        return (1 - scores * sides).relu().mean()

    def right(rows: Tensor, sides: Tensor) -> float:
        constant = float(torch.maximum((sides > 0).float().mean(), (sides < 0).float().mean()))
        return float((patient(rows).sign() == sides).float().mean()) - constant

    sides = (RAW_CANCER[:, :1] > RAW_CANCER[:, 0].median()).float() * 2 - 1
    patient = Patient(stack(vary.widths(30, 24, 1)), loss, lambda p: Adam(p, vary.rate(5e-3)))
    return task(vary, patient, (CANCER, sides), 40, 24, gain=lambda kept, told: lambda _: right(kept, told))


PAIRS = (
    Pair(
        168,
        "a loss made anew from its number",
        ("frozen_parameters",),
        lambda vary: _anew(vary, attached=True),
        lambda vary: _anew(vary, attached=False),
    ),
    Pair(
        169,
        "stars rounded before the loss",
        ("frozen_parameters",),
        lambda vary: _stars(vary, whole=False),
        lambda vary: _stars(vary, whole=True),
    ),
    Pair(
        170,
        "two hidden units for five spirals",
        ("model_bias",),
        lambda vary: _spirals(vary, units=64),
        lambda vary: _spirals(vary, units=2),
    ),
    Pair(
        171,
        "statistics of the last two rows alone",
        ("train_eval_discrepancy", "noisy_batches"),
        lambda vary: _pairs_of_rows(vary, momentum=0.1, batch=30, epochs=30),
        lambda vary: _pairs_of_rows(vary, momentum=0.99, batch=2, epochs=4),
    ),
    Pair(
        172,
        "a softmax over the batch",
        ("leaking_batch",),
        lambda vary: _across(vary, dim=1),
        lambda vary: _across(vary, dim=0),
    ),
    Pair(
        173,
        "counts from raw inputs through an exponential",
        ("unscaled_inputs",),
        lambda vary: _counts(vary, raw=False),
        lambda vary: _counts(vary, raw=True),
    ),
    Pair(174, "survival by a partial likelihood", ("learning_rate_too_low",), _survival, reachable=0.25),
    Pair(175, "margins that are kept", ("late_instability",), _margins, reachable=0.46),
)
