"""The gradient noise scale from the micro-batches of accumulated steps, whose gradients are there anyway."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_doctor.gradient_noise import NoiseScale, noise_scale
from lightning_doctor.measure.norms import are_alike, norms
from lightning_doctor.measure.rows import count_rows

if TYPE_CHECKING:
    from lightning_doctor.callbacks.case import Case

# Steps that make one figure. Of fewer only those that came out with little noise would be sure of their gradient, and
# the scale too small.
_PAIRS = 32


class MicroBatches:
    """Compares the gradient of a step's first micro-batch with that of all of them, on sampled steps.

    Both are at the same weights. On several ranks the first is one rank's own and the last the mean over all.

    Args:
        receive: Takes the figure of several steps, and the last of them.
    """

    def __init__(self, receive: Callable[[int, NoiseScale], None]) -> None:
        self._receive = receive
        self._rows: int | None = None
        self._place = 0
        self._first: Tensor | None = None
        self._pairs: list[tuple[float, float]] = []

    def before_batch(self, case: Case, batch: Any, batch_idx: int) -> None:
        """Looks at the gradient of the first micro-batch, which the second will add to."""
        count = case.run.accumulate
        if count < 2 or not case.sampling:
            return
        self._place = batch_idx % count
        size = case.history.fact("data.batch_size")
        rows = count_rows(batch, size, least=1)
        if self._place == 0:
            self._rows, self._first = rows if rows == size else None, None
        elif rows != self._rows:
            self._rows = None
        if self._place == 1:
            self._first = _square(case.run.trained()) * count**2

    def before_step(self, case: Case) -> None:
        """Looks at the gradient of all of them."""
        count = case.run.accumulate
        if count < 2 or not case.sampling:
            return
        pair = torch.full((2,), math.nan)
        if self._place == count - 1 and self._rows is not None and self._first is not None:
            pair = torch.stack([self._first, _square(case.run.trained())])
        self._first = None
        # On every rank, whatever its batches are like: readings are averaged over ranks.
        rows, size = case.history.fact("data.batch_size"), count * case.run.trainer.world_size

        def receive(step: int, numbers: list[float]) -> None:
            if all(map(math.isfinite, numbers)):
                self._take(step, numbers, rows, rows * size)

        case.window.put(case.run.step, pair, receive)

    def _take(self, step: int, numbers: list[float], small: int, big: int) -> None:
        self._pairs.append((numbers[0], numbers[1]))
        if len(self._pairs) >= _PAIRS:
            ones, alls = zip(*self._pairs, strict=True)
            self._pairs.clear()
            self._receive(step, noise_scale(ones, alls, small, big))


def _square(parameters: Sequence[Tensor]) -> Tensor:
    """Returns the squared norm of the gradient, on its device; NaN where there is none."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return torch.full((), math.nan, device=parameters[0].device)
    return norms(gradients, are_alike(gradients)).square().sum()
