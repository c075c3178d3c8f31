"""Healthy programs with losses that naive rules take for ill."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam

from tests.clinic.patient import Pair, Patient, Program, accuracy_gain, error_gain
from tests.clinic.programs.parts import (
    BENIGN,
    CANCER,
    CULTIVAR,
    DIABETES,
    DIGITS,
    LABELS,
    RAW_PROGRESSION,
    WINE,
    stack,
    task,
)
from tests.clinic.variation import Variation

_CROSS_ENTROPY = nn.functional.cross_entropy
_MSE = nn.functional.mse_loss
_DIGITS = DIGITS, LABELS


def _autoencoder(vary: Variation) -> Program:
    net = stack(vary.widths(64, 32, 12, 32, 64), last=nn.Sigmoid())
    return task(vary, Patient(net, _MSE, lambda p: Adam(p, vary.rate(5e-3))), (DIGITS, DIGITS), 40, 32, gain=error_gain)


def _pixels_as_chances(vary: Variation) -> Program:
    net = stack(vary.widths(64, 32, 12, 32, 64))
    loss = nn.functional.binary_cross_entropy_with_logits

    def gain(inputs: Tensor, wanted: Tensor) -> Any:
        variance = float(wanted.var(0, unbiased=False).mean())
        return lambda module: 1 - float((module(inputs).sigmoid() - wanted).square().mean()) / variance

    return task(vary, Patient(net, loss, lambda p: Adam(p, vary.rate(5e-3))), (DIGITS, DIGITS), 20, 32, gain=gain)


class _Density(nn.Module):
    """Mean and spread of a normal distribution around a curve."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.net = stack([1, units, units, 2], nn.Tanh)

    def forward(self, inputs: Tensor) -> Tensor:
        means: Tensor = self.net(inputs)[:, :1]
        return means

    def both(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        means, spreads = self.net(inputs).chunk(2, 1)
        return means, nn.functional.softplus(spreads) + 1e-4


class _Likely(Patient):
    """Trains a density by the negative logarithm of its likelihood, which is itself negative where it is dense."""

    def score(self, batch: Any) -> Tensor:
        inputs, targets = batch
        density: Any = self.net
        means, spreads = density.both(inputs)
        return -torch.distributions.Normal(means, spreads).log_prob(targets).mean()


def _density(vary: Variation) -> Program:
    inputs = 4 * torch.rand(600, 1) - 2
    curve = 0.3 * torch.sin(2 * inputs) + 0.01 * torch.randn(600, 1)
    patient = _Likely(_Density(vary.width(24)), _MSE, lambda p: Adam(p, vary.rate(5e-3)))
    return task(vary, patient, (inputs, curve), 60, 32, gain=error_gain)


def _summed_gently(vary: Variation) -> Program:
    net = stack(vary.widths(64, 32, 10))
    loss = nn.CrossEntropyLoss(reduction="sum")
    return task(vary, Patient(net, loss, lambda p: SGD(p, vary.rate(2e-3))), _DIGITS, 15, 64)


def _brier(vary: Variation) -> Program:
    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        return _MSE(outputs, nn.functional.one_hot(labels, 10).float())

    net = stack(vary.widths(64, 32, 10), last=nn.Softmax(1))
    return task(vary, Patient(net, loss, lambda p: Adam(p, vary.rate(5e-3))), _DIGITS, 15, 32)


def _raw_targets(vary: Variation) -> Program:
    net = nn.Linear(10, 1)
    patient = Patient(net, _MSE, lambda p: Adam(p, vary.rate(1.0)))
    return task(vary, patient, (DIABETES, RAW_PROGRESSION), 60, 32, gain=error_gain)


def _flipped_labels(vary: Variation) -> Program:
    """One label in five is drawn by lot; the rest is learned."""
    inputs, labels = vary.rows(*_DIGITS)
    noisy = torch.where(torch.rand(len(labels)) < 0.2, torch.randint(0, 10, labels.shape), labels)
    patient = Patient(stack(vary.widths(64, 16, 10)), _CROSS_ENTROPY, lambda p: SGD(p, vary.rate(0.05)), accuracy=True)
    program = task(vary, patient, (inputs, noisy), 20, 32)
    program.gain = accuracy_gain(inputs[1347:], labels[1347:])
    return program


def _heavy_tails(vary: Variation) -> Program:
    """Targets that differ by a factor of hundreds, all of them explained by the inputs."""
    inputs = torch.randn(600, 4)
    targets = (inputs @ torch.tensor([[1.0], [0.8], [-0.6], [0.4]])).exp()
    net = stack(vary.widths(4, 32, 32, 1))
    return task(
        vary, Patient(net, _MSE, lambda p: Adam(p, vary.rate(1e-2))), (inputs, targets), 60, 32, gain=error_gain
    )


class _Gated(nn.Module):
    """A gate of sigmoids inside, logits at the end."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.values, self.gates, self.head = nn.Linear(30, units), nn.Linear(30, units), nn.Linear(units, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(self.values(inputs).tanh() * self.gates(inputs).sigmoid())
        return logits


def _gate(vary: Variation) -> Program:
    loss = nn.functional.binary_cross_entropy_with_logits
    patient = Patient(_Gated(vary.width(16)), loss, lambda p: Adam(p, vary.rate(3e-3)))
    return task(vary, patient, (CANCER, BENIGN), 15, 32)


def _touching_the_border(vary: Variation) -> Program:
    """Targets from −1 to 1 and both included, through tanh."""
    inputs = torch.randn(400, 3)
    targets = (2 * inputs[:, :1] - inputs[:, 1:2]).clamp(-1, 1)
    net = stack(vary.widths(3, 24, 1), last=nn.Tanh())
    return task(
        vary, Patient(net, _MSE, lambda p: Adam(p, vary.rate(1e-2))), (inputs, targets), 30, 32, gain=error_gain
    )


class _Variational(nn.Module):
    """A small variational autoencoder."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.encode = stack([64, units, 16])
        self.decode = stack([8, units, 64])

    def forward(self, inputs: Tensor) -> Tensor:
        pixels: Tensor = self.decode(self.encode(inputs)[:, :8]).sigmoid()
        return pixels


class _Bounded(Patient):
    """Trains by the evidence lower bound, summed over pixels."""

    def score(self, batch: Any) -> Tensor:
        inputs, _ = batch
        net: Any = self.net
        means, logs = net.encode(inputs).chunk(2, 1)
        logits = net.decode(means + (0.5 * logs).exp() * torch.randn_like(means))
        # A neighbour's noise goes beyond what is a probability.
        pixels = nn.functional.binary_cross_entropy_with_logits(logits, inputs.clamp(0, 1), reduction="sum")
        return (pixels - 0.5 * (1 + logs - means.square() - logs.exp()).sum()) / len(inputs)


def _variational(vary: Variation) -> Program:
    patient = _Bounded(_Variational(vary.width(64)), _MSE, lambda p: Adam(p, vary.rate(3e-3)))
    return task(vary, patient, (DIGITS, DIGITS), 25, 32, gain=error_gain)


class _Contrasted(Patient):
    """Finds for every row its other half among those of the batch."""

    def score(self, batch: Any) -> Tensor:
        halves, _ = batch
        first, second = nn.functional.normalize(self.net(halves), dim=2).unbind(1)
        return _CROSS_ENTROPY(10 * first @ second.T, torch.arange(len(halves), device=halves.device))


def _halves(vary: Variation) -> Program:
    halves = DIGITS.reshape(-1, 2, 32)

    def found(rows: Tensor, _: Tensor) -> Any:
        def gain(module: Patient) -> float:
            first, second = nn.functional.normalize(module(rows[:64]), dim=2).unbind(1)
            best = (first @ second.T).topk(5, 1).indices
            return float((best == torch.arange(64)[:, None]).any(1).float().mean()) - 5 / 64

        return gain

    net = nn.Sequential(nn.Linear(32, vary.width(64)), nn.ReLU(), nn.Linear(vary.width(64), 16))
    patient = _Contrasted(net, _MSE, lambda p: Adam(p, vary.rate(3e-3)))
    return task(vary, patient, (halves, LABELS), 20, 64, gain=found)


def _softmax_twice(vary: Variation) -> Program:
    """A softmax too many, on wines that are so different that it does no harm."""
    net = stack(vary.widths(13, 24, 3), last=nn.Softmax(1))
    return task(vary, Patient(net, _CROSS_ENTROPY, lambda p: SGD(p, vary.rate(0.05))), (WINE, CULTIVAR), 40, 16)


PAIRS = (
    Pair(91, "autoencoder, sigmoid, squared error", ("squared_error_on_classes",), _autoencoder, reachable=0.71),
    Pair(92, "autoencoder, pixels as probabilities", ("negative_loss",), _pixels_as_chances, reachable=0.68),
    Pair(93, "density with a negative loss", ("negative_loss",), _density, reachable=0.99),
    Pair(94, "a sum at a rate that fits it", ("summed_loss",), _summed_gently, reachable=0.83),
    Pair(95, "Brier score", ("squared_error_on_classes",), _brier, reachable=0.85),
    Pair(96, "raw targets that Adam reaches", ("unscaled_targets",), _raw_targets, reachable=0.55),
    Pair(97, "one label in five wrong", ("uninformative_labels",), _flipped_labels, reachable=0.78),
    Pair(98, "heavy tails", ("outlier_targets",), _heavy_tails, reachable=0.96),
    Pair(99, "gates of sigmoids", ("double_sigmoid",), _gate, reachable=0.34),
    Pair(100, "targets at the border of tanh", ("output_out_of_reach",), _touching_the_border, reachable=0.99),
    Pair(101, "variational autoencoder", ("summed_loss",), _variational, reachable=0.57),
    Pair(102, "contrastive loss within the batch", ("leaking_batch",), _halves, reachable=0.81),
    Pair(122, "a softmax too many, without harm", ("double_softmax",), _softmax_twice, reachable=0.53),
)
