"""The loss head: what the predictions go into, how well they do, and what a constant prediction would score."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_doctor.callbacks.examination import is_compiled
from lightning_doctor.callbacks.head_record import HeadRecord, describe, signature, unrepeated
from lightning_doctor.callbacks.monitor import Monitor
from lightning_doctor.callbacks.term_record import TermRecord, may_be_followed, signature_of
from lightning_doctor.measure.deviations import Found
from lightning_doctor.measure.head import Head
from lightning_doctor.measure.loss_graph import Graph, LayerOutputs, edge_of
from lightning_doctor.measure.loss_head import UnreadError, read_head
from lightning_doctor.measure.loss_joins import weigh
from lightning_doctor.measure.loss_slips import Slips, find_slips
from lightning_doctor.measure.loss_values import recognise
from lightning_doctor.measure.predictions import Tally, describe_outputs, gaps, pack
from lightning_doctor.measure.rows import tensors

if TYPE_CHECKING:
    from torch import nn

    from lightning_doctor.callbacks.case import Case

# Outputs of the last layers, and tensors of a batch, that an unread loss is tried with, and after how many examined
# steps on which no known loss had its value it is tried no more.
_LATEST, _TARGETS, _MISSES = 2, 4, 4
# How many terms with a slip are listed.
_LISTED = 8
# Autograd says little of its nodes, and another version of torch may say it differently.
_GRAPH_ERRORS = (RuntimeError, TypeError, ValueError, IndexError, AttributeError)


class HeadMonitor(Monitor):
    """Records what can be read off the autograd graph of the training loss, on the steps that are examined.

    ``baseline_loss`` is the loss of the best constant prediction over the targets seen so far, in the units of
    ``train_loss``. ``skill`` is the share of the constant predictor's error that the batch's predictions avoid: of its
    misses where targets are classes, each weighing what it weighs in the loss, else of its squared error.
    ``train_accuracy`` is the share of right classes. ``output_spread`` is the standard deviation of the outputs over
    samples, averaged over columns, ``output_level`` their root mean square. ``worst_share`` is the share of the squared
    error that the worst 5 % of samples carry, ``worst_ratio`` the largest error over the median one, ``typical_error``
    the median error over the median distance of the targets from their median; all three for real targets only.
    ``regulariser_share`` is what terms of layers' outputs (a divergence, a call for sparse codes) add to the loss, in
    shares of what the best constant prediction would cost without them.

    The facts ``loss_head``, ``labels`` and ``predictions`` say what the loss is, which classes were seen, and which
    were predicted; ``tags``, of rows that may have several, how many there were lately and how many were found. Of
    several losses, and of a sum of several terms, the fact ``broadcast_terms`` lists the shapes of outputs and targets
    whose difference or product is larger than the outputs, where both are known; ``softmax_twice`` over how many
    classes a softmax is given to another one, and ``sigmoid_twice`` that a sigmoid is. Of a sum whose terms all have
    known predictions and targets, the fact ``loss_terms`` says of each what share of the loss it was at first and is of
    late, what its targets are like, and what share of the best constant prediction's score it is under by now.
    """

    signals = (
        "baseline_loss",
        "skill",
        "train_accuracy",
        "output_spread",
        "output_level",
        "worst_share",
        "worst_ratio",
        "typical_error",
        "regulariser_share",
    )

    def begin(self, case: Case) -> None:
        """Forgets what an earlier run has shown."""
        self._outputs = LayerOutputs()
        self._latest: deque[tuple[Tensor, int]] = deque(maxlen=_LATEST)
        self._batch: list[Tensor] = []
        self._missed, self._recognised = 0, False
        self._read: list[tuple[Head, Tensor]] = []
        self._terms: list[Head] = []
        self._sum: tuple[list[Head], Tensor] | None = None
        self._term_record: TermRecord | None = None
        self._slips: list[Slips] = []
        self._rows: dict[int, Tensor] = {}
        self._unread: str | None = None
        self._losses = 0
        self._weights: tuple[float, float] | None = None
        self._tally: Tally | None = None
        self._record: HeadRecord | None = None
        self._seen_backward = False
        self._compiled = is_compiled(case.run.module)
        self._give_reason(case, "the loss has not been examined")

    def end(self, case: Case) -> None:
        """Lets go of tensors."""
        self._outputs = LayerOutputs()
        self._latest.clear()
        self._batch = []
        self._read.clear()
        self._terms.clear()
        self._slips.clear()
        self._rows.clear()
        self._tally = self._sum = self._term_record = None

    def before_batch(self, case: Case, batch: Any, batch_idx: int) -> None:
        """Keeps what may be the targets."""
        self._batch = tensors(batch)[:_TARGETS] if case.examining else []

    def layer_ran(self, case: Case, layer: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        """Keeps a layer's output, which may be the prediction."""
        self._outputs.keep(output)
        if isinstance(output, Tensor) and output.requires_grad and output.numel() > 1:
            self._latest.append((output, output._version))

    def examine_loss(self, case: Case, loss: Tensor) -> None:
        """Reads the head of a loss that is about to be sent backward."""
        self._losses += 1
        root = edge_of(loss)
        if root is None:
            self._unread = "the loss has no autograd graph"
            return
        graph = Graph(self._outputs, reads=self._seen_backward)
        try:
            head = read_head(graph, root)
        except UnreadError as error:
            known = None if error.heads else self._by_value(case, graph, loss)
            if known is not None:
                self._read.append(known)
                return
            self._unread = str(error)
            self._terms += error.heads
            # An optimizer that evaluates its loss several times begins with the one that counts.
            if error.whole:
                self._sum = self._sum or (error.heads, loss.detach())
        except _GRAPH_ERRORS as error:
            self._unread = f"the loss cannot be read ({type(error).__name__}: {error})"
        else:
            self._weights = weigh(head, self._weights)
            self._read.append(self._unscaled(case, head, loss.detach()))
            if case.run.automatic:
                return
        # Of a loss that is no single head, or may not be the only one of its step.
        with suppress(*_GRAPH_ERRORS):
            self._slips.append(find_slips(graph, root))

    def _by_value(self, case: Case, graph: Graph, loss: Tensor) -> tuple[Head, Tensor] | None:
        """Returns the head of a known loss that has the same value, None where there is none."""
        if self._missed >= _MISSES:
            return None
        self._missed += 1
        batches, scale = self._scaling(case)
        factor = (1.0 if scale is None else float(scale)) / batches
        outputs = [output for output, version in self._latest if output._version == version]
        value = float(loss.detach()) / factor
        with suppress(UnreadError, *_GRAPH_ERRORS):
            known = recognise(outputs, self._batch, value) if math.isfinite(value) and value != 0 else None
            root = None if known is None else edge_of(known if factor == 1 else known * factor)
            if root is not None:
                found = self._unscaled(case, read_head(graph, root), loss.detach())
                self._missed, self._recognised = 0, True
                return found
        if self._recognised:
            # It was another loss, which had that value for a while.
            self._missed = _MISSES
            case.history.forget(self.signals)
        return None

    def _scaling(self, case: Case) -> tuple[int, Tensor | None]:
        """Returns what Lightning has divided the loss by and multiplied it by; nothing of a compiled model's copy."""
        if self._compiled:
            return 1, None
        return case.run.accumulate if case.run.automatic else 1, case.run.loss_scale()

    def _unscaled(self, case: Case, head: Head, loss: Tensor) -> tuple[Head, Tensor]:
        """Returns both in the units of the training loss, whatever Lightning has made of it."""
        batches, scale = self._scaling(case)
        factor = None if scale is None else 1 / scale
        head.path = head.path.rescaled(batches, factor)
        return head, loss * batches if factor is None else loss * batches * factor

    def after_batch(self, case: Case, outputs: Any, batch_idx: int) -> None:
        """Hands over what was measured."""
        read, unread = self._read, self._unread
        terms, slips, summed = [*self._terms, *(head for head, _ in read)], self._slips, self._sum
        alone = case.run.automatic or self._losses == 1
        self._sum, self._losses = None, 0
        self._outputs, self._read, self._terms, self._slips, self._unread = LayerOutputs(), [], [], [], None
        self._latest.clear()
        self._batch = []
        if not read and unread is None:
            return
        self._seen_backward = True
        several = len(case.run.optimizers)
        if several > 1:
            unread = f"{several} optimizers: no single loss has to fall"
        elif len({signature(describe(head)) for head, _ in read}) > 1 or (read and unread is not None):
            unread = "several losses are sent backward in a step"
        if unread is not None:
            self._give_reason(case, unread)
            case.history.facts.pop("loss_head", None)
            if summed is not None and not read and several == 1 and alone:
                self._follow(case, *summed)
            self._note_slips(case, [head for head in terms if head.broadcast], slips)
            return
        # An optimizer that evaluates its loss several times begins with the one that counts.
        self._measure(case, *read[0])

    def _measure(self, case: Case, head: Head, loss: Tensor) -> None:
        description = describe(head)
        if self._record is None or self._record.signature != signature(description):
            self._tally = Tally(head) if description["readable"] else None
            self._record = HeadRecord(signature(description))
        with torch.no_grad():
            if self._tally is None:
                found: Found = {}
                describe_outputs(head, found)
                numbers = pack(found, loss)
            else:
                numbers = self._tally.measure(head, loss)
                description["has_baseline"] = self._tally.has_baseline
        case.window.put(case.run.step, numbers, partial(self._record.receive, case.history, description))

    def _follow(self, case: Case, heads: list[Head], loss: Tensor) -> None:
        """Hands over how the terms of a sum do."""
        if not may_be_followed(heads):
            return
        # Terms are less well understood than a loss as a whole.
        with suppress(*_GRAPH_ERRORS), torch.no_grad():
            if self._term_record is None or self._term_record.signature != signature_of(heads):
                self._term_record = TermRecord(heads)
            numbers = self._term_record.measure(heads, loss)
            case.window.put(case.run.step, numbers, partial(self._term_record.receive, case.history))

    def _note_slips(self, case: Case, heads: list[Head], slips: list[Slips]) -> None:
        classes = next((found.classes for found in slips if found.classes), 0)
        if classes:
            case.history.facts["softmax_twice"] = {"classes": classes}
        if any(found.sigmoids for found in slips):
            case.history.facts["sigmoid_twice"] = True
        # Where outputs are compared with each other, all with all, samples may be meant to be too.
        if any("outputs_alone" in head.extras for head in heads):
            return
        for head in heads:
            _note_slip(case, head)
        for rows in {found.compared for found in slips if found.compared}:
            if [rows] in [leaf.get("shape") for leaf in case.history.fact("batch.leaves", [])]:
                _list(case, (rows, 1), [rows])
        for index, row in enumerate(row for found in slips for row in found.rows):
            before, self._rows[index] = self._rows.get(index), row.detach().clone()
            _note_row(case, row, before)

    def _give_reason(self, case: Case, reason: str) -> None:
        case.history.lack([*self.signals, "loss_head"], reason)


def _note_slip(case: Case, head: Head) -> None:
    """Notes what a term compares, where its targets are known: by their shape, or by where they repeat themselves."""
    if head.target_shape is not None:
        _list(case, head.output_shape, list(head.target_shape))
    elif head.target is not None and head.target.ndim == 2:
        output, sizes = head.output_shape, head.target.shape
        with torch.no_grad():
            apart = gaps(head.target)
        case.window.put(case.run.step, apart, lambda _, found: _list(case, output, unrepeated(sizes, found)))


def _note_row(case: Case, row: Tensor, before: Tensor | None) -> None:
    """Notes numbers that outputs are multiplied by, where they are of the batch: others than before.

    A column where the outputs are a row, and a row where they are a column.
    """
    size = len(row)
    column, flat = (size, 1), (size,)
    output, targets = (column, flat) if row.ndim == 1 else (flat, column)

    def receive(_: int, found: list[float]) -> None:
        if found[0] > 0:
            _list(case, output, list(targets))

    another = torch.zeros(1, device=row.device)
    if before is not None and before.shape == row.shape and before.device == row.device:
        another = torch.ne(row, before).any()
    case.window.put(case.run.step, another.reshape(1), receive)


def _list(case: Case, output: Sequence[int], targets: list[int]) -> None:
    listed = case.history.facts.setdefault("broadcast_terms", [])
    shapes = {"output_shape": list(output), "target_shape": targets}
    if shapes not in listed and len(listed) < _LISTED:
        listed.append(shapes)
