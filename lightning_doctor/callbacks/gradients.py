"""Gradient norms: of the whole and of each layer, before and after clipping, and which are not finite."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lightning_doctor.callbacks.monitor import Monitor
from lightning_doctor.callbacks.shards import engine
from lightning_doctor.history import Series
from lightning_doctor.measure.gradient_table import GradientTable, Page

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from lightning_doctor.callbacks.case import Case

_LAYER_CAPACITY = 128


class GradientMonitor(Monitor):
    """Records gradient norms as the optimizer sees them: unscaled, averaged over micro-batches and ranks.

    ``grad_norm`` is the global Euclidean norm before clipping, ``grad_norm_clipped`` the one after it, ``clip_factor``
    their ratio, ``grad_non_finite`` the number of parameter tensors with a NaN or infinite gradient,
    ``scaler_skips`` a 1 for each step that an fp16 scaler skipped, and ``grad_norm/<layer>`` the mean of a layer's
    norm over a window. With several optimizers each has its own ``grad_norm/optimizer0`` and so on.

    Every step is measured where that costs little, else as many as the budget allows; three an epoch whatever it
    says, of an epoch of fewer than thirty steps every tenth.
    """

    signals = ("grad_norm", "grad_non_finite", "grad_norm_clipped", "clip_factor")

    def begin(self, case: Case) -> None:
        """Lists the parameters of each optimizer by name."""
        names: dict[Tensor, str] = {parameter: name for name, parameter in case.run.module.named_parameters()}
        self._tables = [GradientTable(names, optimizer) for optimizer in case.run.optimizers]
        self._unclipped: dict[int, Tensor | None] = {}
        self._flagged = case.history.event("non_finite_gradient") is not None
        if (reason := engine(case.run.trainer)) is not None:
            case.history.lack(self.signals, reason)
        elif not any(len(table) for table in self._tables):
            case.history.lack(self.signals, "no optimizer holds a trainable parameter")
        elif len(self._tables) > 1:
            reason = f"{len(self._tables)} optimizers: each has a gradient of its own"
            case.history.lack(["grad_norm", "grad_norm_clipped", "clip_factor"], reason)
        elif not case.run.clips:
            case.history.lack(["grad_norm_clipped", "clip_factor"], "gradients are not clipped")

    def end(self, case: Case) -> None:
        """Lets go of the model."""
        self._tables.clear()
        self._unclipped.clear()

    def after_backward(self, case: Case) -> None:
        """Measures before the user's own code may clip, as it does in manual optimization."""
        if case.glancing:
            for index, table in enumerate(self._tables):
                self._unclipped[index] = table.measure(case.run.loss_scale())

    def before_step(self, case: Case, optimizer: Optimizer) -> None:
        """Measures what this optimizer is about to apply."""
        if case.glancing:
            self.glance(case, optimizer)

    def glance(self, case: Case, optimizer: Optimizer) -> None:
        """Does the same on a step that rests otherwise, of which the gradients before clipping are enough."""
        run = case.run
        index = run.index(optimizer) if len(self._tables) > 1 else 0
        table = self._tables[index]
        before = None if run.automatic else self._unclipped.pop(index, None)
        table.keep(run.step, table.measure(run.scale_left(optimizer)) if before is None else before)
        if not run.automatic:
            table.keep_clipped(run.step)

    def after_batch(self, case: Case, outputs: Any, batch_idx: int) -> None:
        """Measures the clipped gradients, which are still there: Lightning zeroes them in the next step."""
        if case.stepped and case.run.automatic and case.run.clips:
            for table in self._tables:
                table.keep_clipped(case.run.step)

    def before_close(self, case: Case) -> None:
        """Hands over the norms of the window, still on their device."""
        for index, table in enumerate(self._tables):
            for page in table.take():
                case.window.put(page.steps[-1], page.packed, partial(self._receive, case, index, page))
            if table.sharded:
                case.history.lack(self.signals, "gradients are sharded over ranks, and no rank sees a whole one")
        # Where nothing was recorded by now, nobody has announced a step: an optimizer used without Lightning's wrapper.
        unexplained = [name for name in self.signals if name not in case.history.absent]
        case.history.lack(unexplained, "no optimizer step with a gradient was seen")

    def _receive(self, case: Case, index: int, page: Page, _: int, numbers: list[float]) -> None:
        history, n, p = case.history, len(page.steps), len(page.layers)
        totals, counts, after = numbers[:n], numbers[n : 2 * n], numbers[2 * n : 3 * n]
        means, flags = numbers[3 * n : 3 * n + p], numbers[3 * n + p :]
        several = len(self._tables) > 1
        name = f"grad_norm/optimizer{index}" if several else "grad_norm"
        for step, total, count, clipped in zip(page.steps, totals, counts, after, strict=True):
            if count > 0 and case.run.scaler is not None:
                history.record("scaler_skips", step, 1.0)
                continue
            history.record("grad_non_finite", step, round(count))
            history.record(name, step, total)
            if not several and math.isfinite(total) and not math.isnan(clipped):
                _record_clipping(case, step, total, clipped)
            if count > 0 and not self._flagged:
                self._flagged = True
                layers = _unique(layer for layer, flag in zip(page.layers, flags, strict=True) if flag > 0)
                whole = len(layers) == len(set(page.layers))
                loss = _at(history.get("train_loss"), step)
                history.happened("non_finite_gradient", step, layers=layers, every_layer=whole, loss=loss)
        if 0 in counts:
            for layer, mean in _by_layer(page.layers, means).items():
                history.record(f"grad_norm/{layer}", page.steps[-1], mean, capacity=_LAYER_CAPACITY)


def _record_clipping(case: Case, step: int, total: float, clipped: float) -> None:
    factor = min(1.0, clipped / total) if total > 0 else 1.0
    for signal, value in (("grad_norm_clipped", clipped), ("clip_factor", factor)):
        case.history.record(signal, step, value)


def _at(series: Series, step: int) -> float | None:
    return next((value for at, value in zip(series.steps, series.values, strict=True) if at == step), None)


def _by_layer(layers: Iterable[str], means: Iterable[float]) -> dict[str, float]:
    squares: dict[str, float] = {}
    for layer, mean in zip(layers, means, strict=True):
        squares[layer] = squares.get(layer, 0.0) + mean * mean
    return {layer: math.sqrt(square) for layer, square in squares.items()}


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
