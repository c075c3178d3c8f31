"""What simple models are to predict, and from which columns: rows of a batch as tables of numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lightning_doctor.callbacks.rehearsal import Unrehearsable
from lightning_doctor.history import History
from lightning_doctor.measure.batches import Path as Place
from lightning_doctor.measure.batches import at, dense, leaves, roles_by_structure
from lightning_doctor.measure.held_out_rows import RowSample, columns
from lightning_doctor.measure.references import Task, task_of
from lightning_doctor.measure.tokens import Tokens

# More columns than this are thinned out.
_COLUMNS = 256
# How many times as far as others targets scatter that are not the same.
_ANOTHER_SCALE = 30.0
_KINDS = {"class_index": "classes", "binary": "binary", "real": "numbers"}
# Layers that take whole numbers for kinds, whose order means nothing.
_EMBEDDINGS = ("Embedding", "EmbeddingBag")


@dataclass(frozen=True)
class SimpleTask:
    """What is to be predicted, and where in a batch.

    Attributes:
        task: What is predicted, and how that is scored.
        inputs: Where the inputs are.
        targets: Where the targets are.
        kinds: Whether inputs stand for kinds, as words or categories.
    """

    task: Task
    inputs: Place
    targets: Place
    kinds: bool

    def rows(self, batch: Any) -> Tensor:
        """Returns a batch's inputs ``[N, F]``, as they come."""
        inputs = at(dense(leaves(batch)), self.inputs)
        assert inputs is not None
        return inputs.reshape(len(inputs), -1).cpu()

    def encoding(self, batch: Any) -> Callable[[Tensor], Tensor]:
        """Returns what makes columns of numbers ``[N, C]`` of rows like those of a batch.

        Raises:
            Unrehearsable: Where these rows are all alike.
        """
        if not self.kinds:
            return partial(columns, most=_COLUMNS)
        tokens = Tokens(self.rows(batch), _COLUMNS)
        if not tokens.columns:
            raise Unrehearsable("the inputs are the same in all rows")
        return tokens

    def table(self, batch: Any, encoded: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Returns a batch's inputs as columns ``[N, C]``, and its targets as the task has them.

        Raises:
            Unrehearsable: For inputs that are not finite.
        """
        rows, targets = encoded(self.rows(batch)), at(dense(leaves(batch)), self.targets)
        assert targets is not None
        if not rows.isfinite().all():
            raise Unrehearsable("not every input is finite")
        wanted = targets.cpu()
        return rows, wanted.reshape(-1) if self.task.kind == "classes" else wanted.reshape(len(rows), -1)


def find_task(history: History, sample: RowSample) -> SimpleTask:
    """Returns what simple models are to predict.

    Raises:
        Unrehearsable: Where that is not known, or none of those that simple models are fitted for.
    """
    head = history.fact("loss_head", {})
    kind, loss = _KINDS.get(str(head.get("targets"))), str(head.get("loss"))
    if not sample.rows or not head:
        raise Unrehearsable(sample.reason or history.absent.get("loss_head", "the loss is not known"))
    if head.get("reduction") != "mean" or head.get("weighted") or head.get("label_smoothing"):
        raise Unrehearsable("the loss is no plain mean over samples")
    if head.get("terms") != 1 or head.get("broadcast") or "baseline_loss" not in history:
        raise Unrehearsable("the loss is more than that of its predictions")
    whole, rows = sample.batches(sample.rows)[0]
    found = dense(leaves(whole))
    roles = roles_by_structure(found)
    inputs, targets = at(found, roles.inputs), at(found, roles.targets)
    if roles.inputs is None or roles.targets is None or inputs is None or targets is None:
        raise Unrehearsable("which part of the batch is the input and which the target cannot be told")
    if inputs.is_complex():
        raise Unrehearsable("the inputs are complex numbers")
    if inputs.numel() == targets.numel() and torch.equal(inputs.reshape(-1), targets.reshape(-1)):
        # Or what is made of both in the training step, as by who takes noise away again.
        raise Unrehearsable("the targets are the inputs themselves, which a linear model copies")
    task = None
    if kind is not None and targets.numel() == rows * (targets.numel() // rows):
        outputs = int(head.get("classes") or 0) if kind == "classes" else targets.numel() // rows
        task = task_of(loss, outputs)
    several = kind == "classes" and targets.numel() != rows
    if task is None or task.kind != kind or not 0 < task.outputs <= _COLUMNS or targets.ndim > 2 or several:
        raise Unrehearsable(f"no simple model is fitted for {loss or 'this loss'} with these targets")
    if _differ(head, targets):
        raise Unrehearsable("the targets of the loss are not those of the batch")
    kinds = not inputs.is_floating_point() and history.fact("inputs.layer_class") in _EMBEDDINGS
    return SimpleTask(task, roles.inputs, roles.targets, kinds)


def _differ(head: dict[str, Any], targets: Tensor) -> bool:
    """Whether the loss sees other targets than the batch holds: scaled ones, or which sample belongs to which."""
    mean, spread = head.get("target_mean"), head.get("target_std")
    if mean is None or spread is None:
        return False
    here, own = float(targets.double().mean()), float(targets.double().std())
    # Few batches of rare classes or heavy tails may be alike, but where numbers are all the same it is not these.
    alike = min(spread, own) == 0 and head.get("targets") != "real"
    rescaled = not alike and max(spread, own) > _ANOTHER_SCALE * min(spread, own)
    return bool(abs(mean - here) > max(spread, own)) or rescaled
