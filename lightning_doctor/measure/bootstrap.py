"""Where the mean of what values are drawn from lies, by drawing from the values again and again (Efron 1979)."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from lightning_doctor.error_bars import CONFIDENCE, Interval

_RESAMPLES = 1000
_SEED = 0


def bootstrap(values: Tensor) -> Interval:
    """Returns where the mean of what values are drawn from lies, with 95 % confidence.

    The percentiles of the means of 1,000 draws, which are moved away from the mean by √(n/(n − 1)): the values' own
    spread is under that of what they come from by that much. It draws from a generator of its own.

    Args:
        values: One of each sample ``[N]``, at least 2, finite. Too few say nothing of a tail that they lack: under 20
            or so the interval is too narrow.

    Raises:
        ValueError: For fewer values, or one that is not finite.
    """
    count = len(values)
    if count < 2 or not bool(values.isfinite().all()):
        raise ValueError(f"values must be at least 2 finite numbers, got {count}")
    values = values.detach().cpu().double()
    mean = float(values.mean())
    # The draws are in single precision: of huge values only the deviations are small.
    scale = float((values - mean).abs().max()) or 1.0
    means = (_draws(count).float() @ ((values - mean) / (scale * count)).float()).sort().values
    cut = int((1 - CONFIDENCE) / 2 * _RESAMPLES)
    stretch = scale * math.sqrt(count / (count - 1))
    return Interval(mean + float(means[cut]) * stretch, mean + float(means[-1 - cut]) * stretch)


# The same rows are scored again and again, and drawing takes a hundred times longer than what is made of it.
@lru_cache(maxsize=4)
def _draws(count: int) -> Tensor:
    """Returns how often each of so many values is in each draw ``[draws, count]``, in a byte: they are kept."""
    source = torch.Generator().manual_seed(_SEED)
    drawn = torch.randint(count, (_RESAMPLES, count), generator=source)
    once = torch.ones(_RESAMPLES, count, dtype=torch.uint8)
    return torch.zeros_like(once).scatter_add_(1, drawn, once)
