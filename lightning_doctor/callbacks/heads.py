"""The loss head: what the predictions go into, how well they do, and what a constant prediction would score."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lightning_doctor.callbacks.examination import is_compiled
from lightning_doctor.callbacks.head_reading import HeadReading, Summands
from lightning_doctor.callbacks.head_record import describe, signature
from lightning_doctor.callbacks.monitor import Monitor
from lightning_doctor.measure.head import Head
from lightning_doctor.measure.loss_graph import Graph, LayerOutputs, edge_of
from lightning_doctor.measure.loss_head import UnreadError, read_head

if TYPE_CHECKING:
    from torch import nn

    from lightning_doctor.callbacks.case import Case

# How many terms with a slip are listed.
_LISTED = 8


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
    were predicted; ``tags``, of rows that may have several, how many there were lately and how many were found. Of a
    sum of several terms the loss head is the one which is all of the loss, but for a fiftieth, as long as it is. Of
    such sums and of several losses the fact ``broadcast_terms`` lists the shapes of outputs and targets whose
    difference is larger than the outputs.
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
        self._read: list[tuple[Head, Tensor]] = []
        self._sums: list[list[tuple[Head, Tensor]]] = []
        self._unread: str | None = None
        self._reading = HeadReading()
        self._summands = Summands()
        self._seen_backward = False
        self._compiled = is_compiled(case.run.module)
        self._give_reason(case, "the loss has not been examined")

    def end(self, case: Case) -> None:
        """Lets go of tensors."""
        self._outputs = LayerOutputs()
        self._read.clear()
        self._sums.clear()
        self._reading, self._summands = HeadReading(), Summands()

    def layer_ran(self, case: Case, layer: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        """Keeps a layer's output, which may be the prediction."""
        self._outputs.keep(output)

    def examine_loss(self, case: Case, loss: Tensor) -> None:
        """Reads the head of a loss that is about to be sent backward."""
        root = edge_of(loss)
        if root is None:
            self._unread = "the loss has no autograd graph"
            return
        graph = Graph(self._outputs, reads=self._seen_backward)
        try:
            head = read_head(graph, root)
        except UnreadError as error:
            self._unread = str(error)
            self._sums.append([self._unscaled(case, head, loss.detach()) for head in error.heads])
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
            # Autograd says little of its nodes, and another version of torch may say it differently.
            self._unread = f"the loss cannot be read ({type(error).__name__}: {error})"
        else:
            self._read.append(self._unscaled(case, head, loss.detach()))

    def _unscaled(self, case: Case, head: Head, loss: Tensor) -> tuple[Head, Tensor]:
        """Returns both in the units of the training loss, whatever Lightning has made of it."""
        if self._compiled:
            return head, loss
        scale = case.run.loss_scale()
        batches = case.run.accumulate if case.run.automatic else 1
        factor = None if scale is None else 1 / scale
        head.path = head.path.rescaled(batches, factor)
        return head, loss * batches if factor is None else loss * batches * factor

    def after_batch(self, case: Case, outputs: Any, batch_idx: int) -> None:
        """Hands over what was measured."""
        read, sums, unread = self._read, self._sums, self._unread
        self._outputs, self._read, self._sums, self._unread = LayerOutputs(), [], [], None
        if not read and unread is None:
            return
        self._seen_backward = True
        several = len(case.run.optimizers)
        apart = several > 1
        if apart:
            unread = f"{several} optimizers: no single loss has to fall"
        elif len({signature(describe(head)) for head, _ in read}) > 1 or (read and unread is not None):
            apart, unread = True, "several losses are sent backward in a step"
        if unread is None:
            # An optimizer that evaluates its loss several times begins with the one that counts.
            numbers, receive = self._reading.measure(*read[0])
            case.window.put(case.run.step, numbers, partial(receive, case.history))
            return
        slips = [_shapes(head) for head, _ in [*read, *(term for terms in sums for term in terms)] if head.broadcast]
        if slips:
            case.history.facts["broadcast_terms"] = slips[:_LISTED]
        refuse = partial(self._refuse, case, unread)
        if apart or not sums or not sums[0] or not self._summands.is_open:
            refuse()
            return
        numbers, receive = self._summands.measure(sums[0], refuse)
        case.window.put(case.run.step, numbers, partial(receive, case.history))

    def _refuse(self, case: Case, reason: str) -> None:
        """Notes that the loss has no single head."""
        self._give_reason(case, reason)
        case.history.facts.pop("loss_head", None)

    def _give_reason(self, case: Case, reason: str) -> None:
        case.history.lack([*self.signals, "loss_head"], reason)


def _shapes(head: Head) -> dict[str, Any]:
    target = head.target_shape
    return {"output_shape": list(head.output_shape), "target_shape": None if target is None else list(target)}
