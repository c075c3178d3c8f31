"""How well a copy of the model does on rows that were kept: its loss and its predictions, in eval mode."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss
from torchmetrics import Metric

from lightning_doctor.callbacks.rehearsal import Rehearsal, Step, Unrehearsable
from lightning_doctor.measure.bootstrap import bootstrap
from lightning_doctor.measure.loss_graph import Graph, LayerOutputs, edge_of
from lightning_doctor.measure.loss_head import UnreadError, read_head
from lightning_doctor.measure.loss_joins import weigh
from lightning_doctor.measure.predictions import NUMBERS, Tally
from lightning_doctor.measure.table import row_losses

# Fewer rows lack the tail of what they come from.
_FEWEST = 20


@dataclass(frozen=True)
class Score:
    """What a model scores on a sample; NaN for what cannot be known.

    Attributes:
        loss: The mean of the batches' losses [unit of the loss].
        error: Its standard error.
        bar: How far it may be from the truth with 95 % confidence, by the bootstrap over the losses of its rows.
        accuracy: The share of right classes.
        skill: The share of the errors of the sample's own best constant that the predictions avoid: of its misses
            where targets are classes, else of its squared error.
        rows: How many of the sample's rows that was taken of.
    """

    loss: float = math.nan
    error: float = math.nan
    bar: float = math.nan
    accuracy: float = math.nan
    skill: float = math.nan
    rows: int = 0

    def numbers(self) -> list[float]:
        """Returns all five figures, in their order."""
        return [self.loss, self.error, self.bar, self.accuracy, self.skill]


class Scorer:
    """Runs a step of a copy in eval mode, and reads its loss head.

    Args:
        rehearsal: The copy.
        step: Which of its steps.
        classes: Whether targets are classes.
        may_go_on: Asked before each batch but the first of a sample.
    """

    def __init__(
        self, rehearsal: Rehearsal, *, step: Step, classes: bool, may_go_on: Callable[[], bool] = lambda: True
    ) -> None:
        self._rehearsal = rehearsal
        self._step: Step = step
        self._classes = classes
        self._may_go_on = may_go_on
        self._with_graph = True
        self._outputs = LayerOutputs()
        for part in rehearsal.module.modules():
            leaf = not any(True for _ in part.children()) and part is not rehearsal.module
            if leaf and not isinstance(part, (_Loss, Metric)):
                part.register_forward_hook(self._ran)

    def score(self, batches: Sequence[tuple[Any, int]]) -> Score:
        """Scores batches of about as many rows each, given with how many; none where time suffices for one of several.

        Raises:
            Unrehearsable: Where there are some and the step has no loss for any.
        """
        losses: list[float] = []
        scored = 0
        heads = _Heads(classes=self._classes)
        for index, (batch, rows) in enumerate(batches):
            if index and not self._may_go_on():
                if index == 1:
                    # One alone has no error.
                    return Score()
                break
            self._outputs = LayerOutputs()
            loss = self._loss(batch, index)
            if loss is None:
                continue
            losses.append(float(loss.detach()))
            scored += rows
            heads.add(self._outputs, loss, rows)
        self._outputs = LayerOutputs()
        if not losses and batches:
            raise Unrehearsable(f"the {self._step.replace('_', ' ')} returned no loss")
        if not losses:
            return Score()
        finite = all(map(math.isfinite, losses))
        error = stdev(losses) / math.sqrt(len(losses)) if len(losses) > 1 and finite else math.nan
        accuracy, skill = heads.read()
        return Score(fmean(losses) if finite else math.nan, error, heads.bar(), accuracy, skill, scored)

    def _loss(self, batch: Any, index: int) -> Tensor | None:
        # Lightning validates without gradients, which some validation steps rely on; a loss head is read off the graph.
        try:
            with torch.set_grad_enabled(self._with_graph):
                return self._rehearsal.loss(batch, index, train=False, with_graph=self._with_graph, step=self._step)
        except RuntimeError:
            if self._step == "training_step" or not self._with_graph:
                raise
            self._with_graph = False
            return self._loss(batch, index)

    def _ran(self, part: nn.Module, args: Any, output: Any) -> None:
        self._outputs.keep(output)


class _Heads:
    """Adds up what the loss heads of several batches say."""

    def __init__(self, *, classes: bool) -> None:
        self._classes = classes
        self._tally: Tally | None = None
        self._weights: tuple[float, float] | None = None
        self._counts: Tensor | None = None
        self._errors: list[tuple[float, float, int]] = []
        self._losses: list[Tensor | None] = []
        self._read = True

    def add(self, outputs: LayerOutputs, loss: Tensor, rows: int) -> None:
        """Reads one batch's, while its graph is there."""
        root = edge_of(loss)
        if root is None or not self._read:
            self._read = False
            return
        try:
            head = read_head(Graph(outputs, reads=True), root)
            if head.target is None or head.prediction is None:
                self._read = False
                return
            self._weights = weigh(head, self._weights)
            self._tally = self._tally or Tally(head)
            with torch.no_grad():
                numbers = self._tally.measure(head, loss.detach()).cpu()
        except (UnreadError, RuntimeError, TypeError, ValueError, IndexError, AttributeError):
            self._read = False
            return
        try:
            self._losses.append(row_losses(head, loss, rows))
        except (RuntimeError, TypeError, ValueError):
            # Of a kind whose elements cannot be computed anew; what its predictions come to is known all the same.
            self._losses.append(None)
        found = dict(zip(NUMBERS, numbers[: len(NUMBERS)].tolist(), strict=True))
        counts = numbers[len(NUMBERS) :]
        if self._classes and len(counts):
            self._counts = counts if self._counts is None else self._counts + counts
            # Each class counted by its weight in the loss.
            self._errors.append((found["missed"], found["constant_missed"], 1))
        elif not self._classes:
            self._errors.append((found["error"], found["constant_error"], rows))

    def bar(self) -> float:
        """Returns how far the mean of all rows' losses may be from the truth; NaN where not all of them are known."""
        known = [losses for losses in self._losses if losses is not None]
        if not self._read or not known or len(known) < len(self._losses):
            return math.nan
        losses = torch.cat(known)
        return bootstrap(losses).half_width if len(losses) >= _FEWEST and losses.isfinite().all() else math.nan

    def read(self) -> tuple[float, float]:
        """Returns the accuracy and the skill."""
        if not self._read:
            return math.nan, math.nan
        known = [each for each in self._errors if all(map(math.isfinite, each))]
        constant = sum(weight * error for _, error, weight in known)
        skill = 1 - sum(weight * error for error, _, weight in known) / constant if constant > 0 else math.nan
        if self._counts is None:
            return math.nan, skill
        seen, _, hits = self._counts.reshape(3, -1)
        return (float(hits.sum() / seen.sum()) if float(seen.sum()) else math.nan), skill
