"""Simple models fitted to one part of a sample and scored on another, in the units of a loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Kind = Literal["classes", "binary", "numbers"]
Goes = Callable[[], bool]

HIDDEN = 32
# Weights are penalised by these shares of the loss; the one that does best on a quarter of the fitted rows is taken.
_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
_STEPS, _EVERY, _PATIENCE = 250, 10, 40
_RATE = 0.03
_FARTHEST = 10.0


@dataclass(frozen=True)
class Task:
    """What is predicted, and how that is scored.

    Attributes:
        kind: ``"classes"`` for class indices ``[N]``, ``"binary"`` for zeros and ones ``[N, 1]``, ``"numbers"`` for
            ``[N, D]``.
        outputs: How many numbers are put out for a row.
        loss: Of outputs and targets, one a row ``[N]``.
    """

    kind: Kind
    outputs: int
    loss: Callable[[Tensor, Tensor], Tensor]


def task_of(loss: str, outputs: int) -> Task | None:
    """Returns the task of a loss by its name, in the units of that loss's mean; None where it is none of these.

    Args:
        loss: As the fact ``loss_head`` names it.
        outputs: The number of classes, or of columns.
    """
    if loss in ("cross_entropy", "nll"):
        return Task(
            "classes", outputs, lambda scores, labels: functional.cross_entropy(scores, labels, reduction="none")
        )
    if loss in ("bce", "bce_with_logits") and outputs == 1:
        return Task(
            "binary", 1, lambda scores, labels: _rows(functional.binary_cross_entropy_with_logits, scores, labels)
        )
    if loss == "mse":
        return Task("numbers", outputs, lambda scores, targets: (scores - targets).square().mean(1))
    if loss == "l1":
        return Task("numbers", outputs, lambda scores, targets: (scores - targets).abs().mean(1))
    return None


def _rows(loss: Callable[..., Tensor], scores: Tensor, targets: Tensor) -> Tensor:
    return loss(scores, targets, reduction="none").mean(1)


class References:
    """A constant, a linear model and a network of one hidden layer, fitted with regularisation.

    Args:
        task: What to predict.
        inputs: Rows to fit ``[N, F]``, of finite numbers.
        targets: Their targets.
        may_go_on: Asked between two steps of a fit; what is unfinished is then left as it is.
        seed: Of the first weights and of which rows choose the penalty.

    Attributes:
        constant: The best constant outputs ``[outputs]``.
        fitted: How many rows the weights were fitted to; the others chose the penalty.
        directions: In how many directions the rows vary, by their effective rank (Roy & Vetterli 2007).
    """

    def __init__(
        self, task: Task, inputs: Tensor, targets: Tensor, may_go_on: Goes = lambda: True, *, seed: int = 0
    ) -> None:
        self._task = task
        self._mean = inputs.float().mean(0)
        spread = inputs.float().std(0)
        self._spread = torch.where(spread > 1e-6 * self._mean.abs().clamp(min=1e-6), spread, torch.inf)
        self._level, self._scale = _units(task, targets)
        self.constant = _constant(task, targets)
        rows = self._standard(inputs)
        wanted = self._wanted(targets)
        generator = torch.Generator().manual_seed(seed)
        choosing = torch.rand(len(rows), generator=generator).argsort() < len(rows) // 4
        self.fitted = int((~choosing).sum())
        self.directions = _directions(rows[~choosing])
        with torch.enable_grad():
            self._models = {
                name: _fit(task, rows, wanted, choosing, hidden, generator, may_go_on)
                for name, hidden in (("linear", 0), ("shallow", HIDDEN))
            }

    def parameters(self, name: str) -> int:
        """Returns how many weights the ``"linear"`` model or the ``"shallow"`` network has."""
        return sum(weight.numel() for weight in self._models[name])

    def losses(self, name: str, inputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the loss of each row ``[N]`` of others than those that were fitted.

        Args:
            name: ``"constant"``, ``"linear"`` or ``"shallow"``.
            inputs: ``[N, F]``.
            targets: Theirs.
        """
        with torch.no_grad():
            if name == "constant":
                return self._task.loss(self.constant.expand(len(inputs), -1), self._typed(targets))
            outputs = _outputs(self._models[name], self._standard(inputs))
            if self._task.kind == "numbers":
                outputs = self._level + self._scale * outputs
            return self._task.loss(outputs, self._typed(targets))

    def _standard(self, inputs: Tensor) -> Tensor:
        return ((inputs.float() - self._mean) / self._spread).clamp(-_FARTHEST, _FARTHEST)

    def _typed(self, targets: Tensor) -> Tensor:
        return targets.long() if self._task.kind == "classes" else targets.float()

    def _wanted(self, targets: Tensor) -> Tensor:
        # Targets are fitted in units of their own spread, so that one rate fits all.
        return (targets.float() - self._level) / self._scale if self._task.kind == "numbers" else self._typed(targets)


def _directions(rows: Tensor) -> float:
    """Returns exp(-Σ p log p) for the shares p of the singular values of rows ``[N, F]`` about their mean."""
    centred = rows - rows.mean(0)
    # Either has their squares for eigenvalues, but for zeros.
    products = centred @ centred.T if len(rows) <= rows.shape[1] else centred.T @ centred
    values = torch.linalg.eigvalsh(products).clamp(min=0).sqrt()
    total = values.sum()
    return float(torch.special.entr(values / total).sum().exp()) if total > 0 else 0.0


def _units(task: Task, targets: Tensor) -> tuple[Tensor, Tensor]:
    if task.kind != "numbers":
        return torch.zeros(()), torch.ones(())
    spread = targets.float().std(0)
    return targets.float().mean(0), torch.where(spread > 0, spread, torch.ones_like(spread))


def _constant(task: Task, targets: Tensor) -> Tensor:
    if task.kind == "classes":
        # As if every class had been seen half a time more: one that was not must not be impossible.
        counts = torch.bincount(targets.long(), minlength=task.outputs).float() + 0.5
        return (counts / counts.sum()).log()
    if task.kind == "binary":
        return torch.logit(targets.float().mean(0), eps=0.5 / len(targets))
    zeros = torch.zeros(1, targets.shape[1])
    absolute = bool((task.loss(zeros + 2, zeros) == 2).all())
    return targets.float().median(0).values if absolute else targets.float().mean(0)


def _fit(
    task: Task,
    rows: Tensor,
    wanted: Tensor,
    choosing: Tensor,
    hidden: int,
    generator: torch.Generator,
    may_go_on: Goes,
) -> list[Tensor]:
    """Fits one model for each penalty, side by side; returns the weights that ever did best on the choosing rows."""
    count = len(_PENALTIES)
    widths = [rows.shape[1], *([hidden] if hidden else []), task.outputs]
    weights: list[Tensor] = []
    for before, after in pairwise(widths):
        scale = before**-0.5 if hidden else 0.0
        first = scale * torch.randn(before, after, generator=generator)
        weights += [first.repeat(count, 1, 1), torch.zeros(count, 1, after)]
    for weight in weights:
        weight.requires_grad_()
    optimizer = torch.optim.Adam(weights, lr=_RATE)
    fitted, penalties = rows[~choosing], torch.tensor(_PENALTIES)
    best, since, kept = float("inf"), 0, [weight[0].detach().clone() for weight in weights]
    for step in range(_STEPS):
        if step % _EVERY == 0:
            with torch.no_grad():
                now, which = _losses(task, weights, rows[choosing], wanted[choosing]).min(0)
            if float(now) < best:
                best, since = float(now), step
                kept = [weight[int(which)].detach().clone() for weight in weights]
            if step and (not may_go_on() or step - since > _PATIENCE):
                break
        decay = sum((weight.square().sum((1, 2)) for weight in weights[::2]), torch.zeros(count)) / len(fitted)
        loss = (_losses(task, weights, fitted, wanted[~choosing]) + penalties * decay).sum()
        for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            weight.grad = gradient
        optimizer.step()
    return kept


def _losses(task: Task, weights: list[Tensor], rows: Tensor, wanted: Tensor) -> Tensor:
    """Returns the mean loss of each of the models ``[P]``."""
    outputs = _outputs(weights, rows)
    count = len(outputs)
    repeated = wanted.repeat(count, *[1] * (wanted.ndim - 1))
    return task.loss(outputs.reshape(-1, task.outputs), repeated).reshape(count, -1).mean(1)


def _outputs(weights: list[Tensor], rows: Tensor) -> Tensor:
    for index in range(0, len(weights) - 2, 2):
        rows = torch.tanh(rows @ weights[index] + weights[index + 1])
    return rows @ weights[-2] + weights[-1]
