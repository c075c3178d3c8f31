"""Healthy programs that use more of Lightning than one loss and one step a batch."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.optim import SGD, Adam

from tests.clinic.patient import ByHand, Pair, Patient, Program
from tests.clinic.programs.parts import DIGITS, LABELS, stack, task
from tests.clinic.variation import Variation

_CROSS_ENTROPY = nn.functional.cross_entropy
_DIGITS = DIGITS, LABELS


class _Adversaries(Patient):
    """A generator and a discriminator of points, each with an optimizer of its own."""

    def __init__(self, units: int, rate: float) -> None:
        super().__init__(stack([4, units, units, 2]), nn.functional.binary_cross_entropy_with_logits, Adam)
        self.automatic_optimization = False
        self.critic = stack([2, units, units, 1], nn.Tanh)
        self.rate = rate

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizers: Any = self.optimizers()
        generate, criticise = optimizers
        real, _ = batch
        fake = self(torch.randn(len(real), 4))
        for points, wanted, optimizer in ((real, 1.0, None), (fake.detach(), 0.0, criticise)):
            verdict = self.critic(points)
            self.manual_backward(self.loss(verdict, torch.full_like(verdict, wanted)))
            if optimizer is not None:
                optimizer.step()
                optimizer.zero_grad()
        verdict = self.critic(fake)
        generate.zero_grad()
        self.manual_backward(self.loss(verdict, torch.ones_like(verdict)))
        generate.step()
        criticise.zero_grad()

    def configure_optimizers(self) -> Any:
        betas = 0.5, 0.99
        return [Adam(self.net.parameters(), self.rate, betas), Adam(self.critic.parameters(), 4 * self.rate, betas)]


def _adversaries(vary: Variation) -> Program:
    points = torch.randn(800, 2) @ torch.tensor([[1.0, 0.6], [0.0, 0.8]]) + torch.tensor([2.0, -1.0])

    def gain(module: Patient) -> float:
        fake = module(torch.randn(800, 4, generator=torch.Generator().manual_seed(0)))
        # Of a generator that only ever says the mean.
        constant = _energy(points.mean(0, keepdim=True), points)
        return 1 - _energy(fake, points) / constant

    patient = _Adversaries(vary.width(24), vary.rate(5e-4))
    program = task(vary, patient, (points, torch.zeros(800)), 60, 64)
    program.gain, program.val, program.by_trainer = gain, None, True
    return program


def _energy(some: Tensor, others: Tensor) -> float:
    """Returns the energy distance of two clouds of points."""
    between = torch.cdist(some, others).mean()
    return float(2 * between - torch.cdist(some, some).mean() - torch.cdist(others, others).mean())


def _brain_floats(vary: Variation) -> Program:
    patient = Patient(stack(vary.widths(64, 48, 10)), _CROSS_ENTROPY, lambda p: Adam(p, vary.rate(3e-3)), accuracy=True)
    program = task(vary, patient, _DIGITS, 12, 32, precision="bf16-mixed")
    program.by_trainer = True
    return program


def _accumulated(vary: Variation) -> Program:
    patient = Patient(stack(vary.widths(64, 48, 10)), _CROSS_ENTROPY, lambda p: Adam(p, vary.rate(5e-3)), accuracy=True)
    program = task(vary, patient, _DIGITS, 8, 8, accumulate_grad_batches=4)
    program.by_trainer = True
    return program


class _Accumulating(ByHand):
    """Adds up the gradients of four batches, on purpose."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        optimizer: Any = self.optimizers()
        loss = self.score(batch)
        self.manual_backward(loss / 4)
        if batch_idx % 4 == 3:
            optimizer.step()
            optimizer.zero_grad()
        return loss


def _accumulated_by_hand(vary: Variation) -> Program:
    net = stack(vary.widths(64, 48, 10))
    patient = _Accumulating(net, _CROSS_ENTROPY, lambda p: SGD(p, vary.rate(0.2)), zeroes=True)
    program = task(vary, patient, _DIGITS, 10, 8)
    program.by_trainer = True
    return program


def _searching(vary: Variation) -> Program:
    """Half precision that starts at far too large a scale: the first steps overflow and are skipped."""
    patient = Patient(stack(vary.widths(64, 48, 10)), _CROSS_ENTROPY, lambda p: Adam(p, vary.rate(3e-3)), accuracy=True)
    program = task(vary, patient, _DIGITS, 12, 32)
    program.options["plugins"] = [MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", 2.0**28))]
    program.by_trainer = True
    return program


PAIRS = (
    Pair(113, "two adversaries", ("stuck_at_baseline",), _adversaries, reachable=0.97),
    Pair(114, "bf16", ("underflowing_gradients",), _brain_floats, reachable=0.84),
    Pair(115, "four batches a step", ("accumulating_gradients",), _accumulated, reachable=0.85),
    Pair(116, "four batches a step, by hand", ("accumulating_gradients",), _accumulated_by_hand, reachable=0.85),
    Pair(117, "half precision that finds its scale", ("non_finite_gradients",), _searching, reachable=0.85),
)
