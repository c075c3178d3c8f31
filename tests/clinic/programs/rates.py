"""Steps that are too long, too short, or of the wrong length for some layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Adagrad, Adam, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, LRScheduler, ReduceLROnPlateau

from tests.clinic.patient import Pair, Patient, Program, error_gain
from tests.clinic.programs.parts import DIABETES, DIGITS, LABELS, PROGRESSION, Bag, stack, task, tokens
from tests.clinic.variation import Variation

_CROSS_ENTROPY = nn.functional.cross_entropy
_DIGITS = DIGITS, LABELS


def _network(vary: Variation, optimizer: Callable[[Any], Optimizer], epochs: int, **options: Any) -> Program:
    net = stack(vary.widths(64, 48, 48, 10))
    return task(vary, Patient(net, _CROSS_ENTROPY, optimizer), _DIGITS, epochs, 32, **options)


def _bouncing(vary: Variation, *, decays: bool) -> Program:
    def schedule(optimizer: Optimizer) -> LRScheduler:
        return CosineAnnealingLR(optimizer, program.options["max_epochs"])

    patient = Patient(
        nn.Linear(10, 1),
        nn.functional.mse_loss,
        lambda p: SGD(p, vary.rate(0.11)),
        schedule=schedule if decays else None,
        interval="epoch",
    )
    program = task(vary, patient, (DIABETES, PROGRESSION), 25, 2, gain=error_gain)
    return program


def _crawling(vary: Variation, *, rate: float) -> Program:
    return _network(vary, lambda p: SGD(p, vary.rate(rate)), 20)


def _brief(vary: Variation, *, epochs: int) -> Program:
    return _network(vary, lambda p: Adam(p, vary.rate(1e-4)), epochs)


def _momentum(vary: Variation, *, rate: float) -> Program:
    return _network(vary, lambda p: SGD(p, vary.rate(rate), momentum=0.99), 20)


def _large_adam(vary: Variation, *, rate: float) -> Program:
    net = stack(vary.widths(64, 48, 48, 10), nn.Tanh)
    return task(vary, Patient(net, _CROSS_ENTROPY, lambda p: Adam(p, vary.rate(rate))), _DIGITS, 12, 32)


def _exponential(vary: Variation, *, interval: str) -> Program:
    net = stack(vary.widths(64, 48, 48, 10))
    patient = Patient(
        net,
        _CROSS_ENTROPY,
        lambda p: SGD(p, vary.rate(0.05), momentum=0.9),
        schedule=partial(ExponentialLR, gamma=0.8),
        interval=interval,
    )
    return task(vary, patient, _DIGITS, 15, 32)


def _adagrad(vary: Variation, *, adam: bool) -> Program:
    def optimizer(parameters: Any) -> Optimizer:
        return Adam(parameters, vary.rate(1e-3)) if adam else Adagrad(parameters, vary.rate(3e-4))

    return _network(vary, optimizer, 10)


def _uneven(vary: Variation, *, factor: float) -> Program:
    net = stack(vary.widths(64, 6, 48, 10))
    # The product is that of the default: one layer is as much too large as the next is too small.
    net[0].weight.data *= factor
    net[2].weight.data /= factor
    return task(vary, Patient(net, _CROSS_ENTROPY, lambda p: SGD(p, vary.rate(0.03))), _DIGITS, 30, 16)


def _clipped(vary: Variation, *, limit: float) -> Program:
    return _network(vary, lambda p: SGD(p, vary.rate(0.05)), 25, gradient_clip_val=limit)


def _rare_tokens(vary: Variation, *, adam: bool) -> Program:
    """A token is met once in eighty rows: its embedding hardly moves, the head does."""

    def optimizer(parameters: Any) -> Optimizer:
        return Adam(parameters, vary.rate(0.01)) if adam else SGD(parameters, vary.rate(0.1))

    return task(vary, Patient(Bag(vary.width(16)), _CROSS_ENTROPY, optimizer), tokens(), 25, 32)


class _Waiting(Patient):
    """Lowers its rate when the validation loss no longer does what the scheduler was told to wait for."""

    def __init__(self, *args: Any, mode: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self.mode = mode

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        scheduler = ReduceLROnPlateau(optimizer, self.mode, factor=0.1, patience=0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"}}


def _waiting(vary: Variation, *, mode: str) -> Program:
    patient = _Waiting(stack(vary.widths(64, 48, 10)), _CROSS_ENTROPY, lambda p: SGD(p, vary.rate(0.02)), mode=mode)
    program = task(vary, patient, _DIGITS, 25, 32)
    program.by_trainer = True
    return program


def _long_after(vary: Variation, *, decays: bool) -> Program:
    """A curve through twenty points, trained far beyond what its loss can tell."""

    def schedule(optimizer: Optimizer) -> LRScheduler:
        return CosineAnnealingLR(optimizer, program.options["max_epochs"])

    def gain(module: Patient) -> float:
        # In orders of magnitude: what is lost here is most of those that were gained.
        return math.log10(constant / max(1e-30, float((module(inputs) - targets).square().mean())))

    inputs, targets = torch.randn(20, 40), torch.randn(20, 1)
    constant = float(targets.var(unbiased=False))
    patient = Patient(
        stack(vary.widths(40, 64, 1), nn.Tanh),
        nn.functional.mse_loss,
        lambda p: Adam(p, vary.rate(1e-2)),
        schedule=schedule if decays else None,
    )
    program = Program(patient, vary.loader(inputs, targets), gain, None, {"max_epochs": vary.epochs(3000)})
    return program


PAIRS = (
    Pair(
        38,
        "a rate that bounces and never decays",
        ("learning_rate_too_high",),
        lambda vary: _bouncing(vary, decays=True),
        lambda vary: _bouncing(vary, decays=False),
    ),
    Pair(
        39,
        "gradient descent at 3e-4",
        ("learning_rate_too_low", "undertrained"),
        lambda vary: _crawling(vary, rate=0.1),
        lambda vary: _crawling(vary, rate=3e-4),
    ),
    Pair(
        40,
        "three epochs",
        ("undertrained", "learning_rate_too_low"),
        lambda vary: _brief(vary, epochs=50),
        lambda vary: _brief(vary, epochs=3),
    ),
    Pair(
        41,
        "momentum of 0.99 at a rate of 0.3",
        ("learning_rate_too_high", "diverging_loss"),
        lambda vary: _momentum(vary, rate=3e-3),
        lambda vary: _momentum(vary, rate=0.3),
    ),
    Pair(
        42,
        "Adam at 0.3, tanh",
        ("learning_rate_too_high", "saturated_units"),
        lambda vary: _large_adam(vary, rate=3e-3),
        lambda vary: _large_adam(vary, rate=0.3),
    ),
    Pair(
        43,
        "exponential decay, stepped per batch",
        ("vanished_learning_rate",),
        lambda vary: _exponential(vary, interval="epoch"),
        lambda vary: _exponential(vary, interval="step"),
    ),
    Pair(
        44,
        "Adagrad at 3e-4",
        ("vanished_learning_rate", "learning_rate_too_low", "undertrained"),
        lambda vary: _adagrad(vary, adam=True),
        lambda vary: _adagrad(vary, adam=False),
    ),
    Pair(
        45,
        "one layer 300 times too large, its neighbour too small",
        ("uneven_step_sizes", "bad_initialization"),
        lambda vary: _uneven(vary, factor=1.0),
        lambda vary: _uneven(vary, factor=300.0),
    ),
    Pair(
        46,
        "gradients clipped to 1e-3",
        ("always_clipped",),
        lambda vary: _clipped(vary, limit=5.0),
        lambda vary: _clipped(vary, limit=1e-3),
    ),
    Pair(
        120,
        "embeddings of rare tokens under gradient descent",
        ("uneven_step_sizes", "learning_rate_too_low"),
        lambda vary: _rare_tokens(vary, adam=True),
        lambda vary: _rare_tokens(vary, adam=False),
    ),
    Pair(
        121,
        "Adam long after twenty points are met",
        ("late_instability",),
        lambda vary: _long_after(vary, decays=True),
        lambda vary: _long_after(vary, decays=False),
    ),
    Pair(
        128,
        "a plateau schedule that waits for the loss to rise",
        ("vanished_learning_rate",),
        lambda vary: _waiting(vary, mode="min"),
        lambda vary: _waiting(vary, mode="max"),
    ),
)
