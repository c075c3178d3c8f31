"""Healthy programs whose steps or schedules look odd."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LambdaLR, LRScheduler, OneCycleLR

from tests.clinic.patient import Pair, Patient, Program, error_gain
from tests.clinic.programs.parts import CULTIVAR, DIGITS, LABELS, WINE, served, stack, task
from tests.clinic.variation import Variation

_CROSS_ENTROPY = nn.functional.cross_entropy
_DIGITS = DIGITS, LABELS


def _small_batches(vary: Variation) -> Program:
    net = stack(vary.widths(64, 32, 10))
    return task(vary, Patient(net, _CROSS_ENTROPY, lambda p: SGD(p, vary.rate(0.02))), _DIGITS, 4, 2)


def _restarts(vary: Variation) -> Program:
    def schedule(optimizer: Optimizer) -> LRScheduler:
        return CosineAnnealingWarmRestarts(optimizer, 6 * len(program.train))

    net = stack(vary.widths(64, 48, 48, 10))
    patient = Patient(net, _CROSS_ENTROPY, lambda p: SGD(p, vary.rate(0.1), momentum=0.9), schedule=schedule)
    program = task(vary, patient, _DIGITS, 18, 32)
    # The last cycle ends with the run.
    program.options["max_epochs"] = 18
    return program


def _one_cycle(vary: Variation) -> Program:
    def schedule(optimizer: Optimizer) -> LRScheduler:
        steps = program.options["max_epochs"] * len(program.train)
        return OneCycleLR(optimizer, vary.rate(0.5), total_steps=steps, cycle_momentum=False)

    patient = Patient(stack(vary.widths(64, 48, 48, 10)), _CROSS_ENTROPY, lambda p: SGD(p, 0.1), schedule=schedule)
    program = task(vary, patient, _DIGITS, 15, 64)
    return program


def _long_warm_up(vary: Variation) -> Program:
    def schedule(optimizer: Optimizer) -> LRScheduler:
        steps = program.options["max_epochs"] * len(program.train)
        return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / (0.6 * steps)))

    patient = Patient(
        stack(vary.widths(64, 48, 10)), _CROSS_ENTROPY, lambda p: Adam(p, vary.rate(5e-3)), schedule=schedule
    )
    program = task(vary, patient, _DIGITS, 15, 32)
    return program


def _edge(vary: Variation) -> Program:
    """Full-batch gradient descent, at a rate under which the curvature grows until it limits the step."""
    inputs, labels = vary.rows(*_DIGITS)
    inputs, labels = inputs[:200], nn.functional.one_hot(labels[:200], 10).float()
    net = stack(vary.widths(64, 64, 64, 10), nn.Tanh)
    patient = Patient(net, nn.functional.mse_loss, lambda p: SGD(p, vary.rate(1.0)))
    program = task(vary, patient, (inputs, labels), 800, None, gain=error_gain)
    program.gain = error_gain(inputs[:150], labels[:150])
    return program


def _rare_clipping(vary: Variation) -> Program:
    class Reader(nn.Module):
        """Reads a digit row by row."""

        def __init__(self) -> None:
            super().__init__()
            self.recurrent = nn.LSTM(8, vary.width(48), batch_first=True)
            self.head = nn.Linear(vary.width(48), 10)

        def forward(self, inputs: Tensor) -> Tensor:
            states, _ = self.recurrent(inputs)
            scores: Tensor = self.head(states[:, -1])
            return scores

    patient = Patient(Reader(), _CROSS_ENTROPY, lambda p: Adam(p, vary.rate(5e-3)))
    return task(vary, patient, (DIGITS.reshape(-1, 8, 8), LABELS), 12, 32, gradient_clip_val=2.0)


def _long_converged(vary: Variation) -> Program:
    patient = Patient(nn.Linear(13, 3), _CROSS_ENTROPY, lambda p: SGD(p, vary.rate(0.5), momentum=0.9), accuracy=True)
    return task(vary, patient, (WINE, CULTIVAR), 200, 32)


def _few_strange_rows(vary: Variation) -> Program:
    """Four digits whose pixels somebody forgot to scale: the loss jumps at each, and comes back."""
    net = stack(vary.widths(64, 32, 10))
    program = task(vary, Patient(net, _CROSS_ENTROPY, lambda p: SGD(p, vary.rate(0.02))), _DIGITS, 15, 16)
    inputs, labels = served(program)
    program.train = vary.loader(torch.cat([16 * inputs[:4], inputs[4:]]), labels, 16)
    return program


def _clipped_adam(vary: Variation) -> Program:
    """Every gradient is clipped to a thousandth; Adam divides by its size anyway."""
    net = stack(vary.widths(64, 48, 10))
    patient = Patient(net, _CROSS_ENTROPY, lambda p: Adam(p, vary.rate(3e-3)))
    return task(vary, patient, _DIGITS, 15, 32, gradient_clip_val=1e-3)


def _normalised(vary: Variation) -> Program:
    """A large rate, which normalised layers stand."""
    net, wide = nn.Sequential(), vary.width(48)
    for before in (64, wide, wide):
        net.extend([nn.Linear(before, wide), nn.LayerNorm(wide), nn.ReLU()])
    net.append(nn.Linear(wide, 10))
    return task(vary, Patient(net, _CROSS_ENTROPY, lambda p: SGD(p, vary.rate(0.3)), accuracy=True), _DIGITS, 30, 128)


PAIRS = (
    Pair(83, "batches of two", ("learning_rate_too_high",), _small_batches, reachable=0.83),
    Pair(84, "cosine with restarts", ("diverging_loss",), _restarts, reachable=0.87),
    Pair(85, "one cycle up to a rate of 0.5", ("learning_rate_too_high",), _one_cycle, reachable=0.86),
    Pair(86, "a warm-up over most of the run", ("learning_rate_too_low",), _long_warm_up, reachable=0.85),
    Pair(87, "gradient descent at the edge of stability", ("learning_rate_too_high",), _edge, reachable=0.80),
    Pair(88, "LSTM, clipped now and then", ("always_clipped",), _rare_clipping, reachable=0.85),
    Pair(89, "converged long before the end", ("loss_plateau",), _long_converged, reachable=0.53),
    Pair(90, "a few strange rows", ("loss_spike",), _few_strange_rows, reachable=0.81),
    Pair(129, "Adam, clipped at every step", ("always_clipped",), _clipped_adam, reachable=0.85),
    Pair(130, "a rate of 0.3 under LayerNorm", ("learning_rate_too_high",), _normalised, reachable=0.86),
)
