"""Where the training loss was: at the start, at its lowest, of late."""

from __future__ import annotations

import math
from statistics import median

from lightning_doctor.history import History, Series
from lightning_doctor.noise import stretch

# The share of the losses that may be spikes.
_SPIKES = 0.02
# Parts of a run of which the lowest tells what it had learned.
_PARTS = 12
# Losses that tell where a run began, or where it is.
_SEVERAL = 8


def typical(losses: list[float]) -> float:
    """Returns the mean but for the few largest, which may be spikes: that of a skewed loss is far over its median."""
    kept = sorted(losses)[: len(losses) - math.ceil(_SPIKES * len(losses))] or losses
    return sum(loss / len(kept) for loss in kept)


def loss_left(history: History) -> float | None:
    """Returns the share of the loss at the start that is left of late; None where it may be negative, or is short."""
    losses = history.get("train_loss").finite().values
    if len(losses) < 2 * _SEVERAL or min(losses) < 0 or not typical(losses[:_SEVERAL]) > 0:
        return None
    return typical(losses[-max(_SEVERAL, len(losses) // _PARTS) :]) / typical(losses[:_SEVERAL])


def lowest_part(losses: Series) -> tuple[list[float], int]:
    """Returns the values of that twelfth of a run which was lowest in the median, and the step at which it ends."""
    parts = [(index, stretch(losses, (index - 1) / _PARTS, index / _PARTS)) for index in range(1, _PARTS + 1)]
    there = [(i, part) for i, part in parts if part] or [(_PARTS, losses.values)]
    index, part = min(there, key=lambda each: median(each[1]))
    return part, losses.steps[0] + index * (losses.steps[-1] - losses.steps[0]) // _PARTS
