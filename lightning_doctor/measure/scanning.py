"""The loss along an update that was made, by forward passes only."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_doctor.measure.hessian import flat
from lightning_doctor.measure.landscape import Landscape, Loss

FACTORS = (0.015625, 0.0625, 0.25, 1.0, 4.0, 16.0, 64.0)
# Where even the smallest factor raises the loss by this much, smaller ones still are tried, so many at most: without
# curvature it would take steps hundreds of times as long as the run's to raise it so.
_RAISED, _SMALLER = 0.01, 6
# What float32 arithmetic alone may do to a loss [share].
_RESOLUTION = 1e-6
# How closely the smallest step that raises the loss is found [ratio].
_CLOSE = 1.03


@dataclass(frozen=True)
class Scan:
    """The loss of some samples along one update.

    Attributes:
        start: The loss before the update.
        losses: The loss at each of :data:`FACTORS` times the update.
        limit: The smallest multiple found that raises the loss, refined by bisection; None where none does, or all
            do, which is not the length of the step then but its direction.
    """

    start: float
    losses: tuple[float, ...]
    limit: float | None

    @property
    def changes(self) -> tuple[float, ...]:
        """The change at each factor, as a share of the loss before; at most a million, which a lost one counts as."""
        scale = max(abs(self.start), 1e-30)
        changes = [(loss - self.start) / scale for loss in self.losses]
        return tuple(min(change, 1e6) if math.isfinite(change) else 1e6 for change in changes)

    @property
    def best(self) -> float:
        """The factor with the lowest loss; 0 where none lowers it."""
        change, factor = min(zip(self.changes, FACTORS, strict=True))
        return factor if change < 0 else 0.0


def scan(loss_at: Callable[[float], Tensor]) -> Scan | None:
    """Measures the loss at multiples of the update, and searches for the smallest that raises it.

    The exponential, then binary search of arXiv 2601.16979; the losses of samples that did not make the update, on
    which every step of a too high rate would look good.

    Args:
        loss_at: The loss at a multiple of the update, 0 for the weights before it.

    Returns:
        None where the loss is not finite before the update.
    """
    start, *losses = torch.stack([loss_at(factor).detach().double() for factor in (0.0, *FACTORS)]).tolist()
    if not math.isfinite(start):
        return None
    bar = start + _RESOLUTION * abs(start)
    raised = [not loss <= bar for loss in losses]
    limit = None
    if any(raised):
        index = raised.index(True)
        limit = FACTORS[index]
        # Where no smaller factor lowers it visibly it is the direction that is wrong, not the length.
        lowered = min(losses[:index], default=start) < start - _RESOLUTION * abs(start)
        below = FACTORS[index - 1] if lowered else None if index else _lowering(loss_at, start, losses[0])
        while below is not None and limit > _CLOSE * below:
            middle = math.sqrt(below * limit)
            if float(loss_at(middle)) <= bar:
                below = middle
            else:
                limit = middle
        if below is None:
            limit = None
    return Scan(start, tuple(losses), limit)


def step_scan(module: nn.Module, batch: Any, loss: Loss, update: Sequence[Tensor]) -> Scan | None:
    """Measures the loss at multiples of an update, and searches for the smallest that raises it.

    On the samples that made the update every step of a too high rate would look good: give it others.

    Args:
        module: At the weights before the update, in the mode, train or eval, in which it is to be looked at. It is as
            before afterwards.
        batch: Whatever ``loss`` takes; samples that did not make the update.
        loss: ``loss(module, batch)``: a scalar.
        update: One tensor per parameter that requires gradients, in their order and shapes, as ``-lr * grad``.

    Returns:
        None where the loss is not finite before the update.

    Raises:
        ValueError: Where the update does not fit the parameters.
    """
    land = Landscape(module, loss)
    shapes = [tuple(parameter.shape) for parameter in land.parameters]
    if [tuple(part.shape) for part in update] != shapes:
        raise ValueError(f"update must have the shapes {shapes}, got {[tuple(part.shape) for part in update]}")
    offset = flat(update, land.parameters, land.like.dtype)
    return scan(lambda factor: land.losses([batch], factor * offset)[0])


def _lowering(loss_at: Callable[[float], Tensor], start: float, raised: float) -> float | None:
    """Looks for a multiple under the smallest factor that lowers the loss; None where none is found."""
    if raised <= start + _RAISED * abs(start):
        return None
    factors = (FACTORS[0] / 4**power for power in range(1, _SMALLER + 1))
    return next((factor for factor in factors if float(loss_at(factor)) <= start), None)
