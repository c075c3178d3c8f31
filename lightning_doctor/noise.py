"""Noise-aware statistics of a series, in plain Python: a signal is judged against its own noise and scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median

# A normal distribution's standard deviation over its median absolute deviation.
_SIGMA_PER_MAD = 1.4826
# What float32 arithmetic alone can blur, relative to the size of the number.
_RESOLUTION = 1e-6


def noise(values: Sequence[float]) -> float:
    """Returns the standard deviation of one value about its local trend [unit of the values].

    Taken from second differences, which a straight trend does not enter and which independent noise of standard
    deviation σ gives the standard deviation σ√6; their median absolute value, so that single spikes do not enter
    either. Never below what float32 resolves, so that a noiseless series has a noise to be compared with.

    Args:
        values: At least 3 finite values; with fewer only the resolution is left.
    """
    resolution = _RESOLUTION * max((abs(value) for value in values), default=0.0)
    bends = [abs(a - 2 * b + c) for a, b, c in zip(values, values[1:], values[2:], strict=False)]
    if not bends:
        return resolution
    return max(_SIGMA_PER_MAD * median(bends) / math.sqrt(6), resolution)


def blocks(values: Sequence[float], count: int) -> list[list[float]]:
    """Cuts values into ``count`` runs of (nearly) equal length, fewer where there are fewer values; none is empty."""
    count = max(1, min(count, len(values)))
    edges = [len(values) * i // count for i in range(count + 1)]
    return [list(values[a:b]) for a, b in pairwise(edges) if b > a]


def levels(values: Sequence[float], count: int) -> list[float]:
    """Returns the medians of ``count`` consecutive blocks: the course of a series without its spikes."""
    return [median(block) for block in blocks(values, count)]


@dataclass(frozen=True)
class Trend:
    """A straight line through a stretch of a series.

    Attributes:
        change: End of the line less its beginning [unit of the values]; negative for a falling series.
        error: Standard error of ``change``.
        sigmas: ``change / error``: how many standard errors the change is away from none.
    """

    change: float
    error: float

    @property
    def sigmas(self) -> float:
        """The change in standard errors; negative for a falling series."""
        return self.change / self.error if self.error > 0 else 0.0


def trend(values: Sequence[float], count: int = 8) -> Trend:
    """Fits a line through the means of ``count`` blocks; its error comes from how the blocks scatter about it.

    Blocks, not single values, because successive losses are not independent: the blocks' own scatter holds for
    correlated noise too, as long as it is correlated over less than a block.

    Args:
        values: At least 3 finite values; fewer have no trend.
        count: Number of blocks; the scatter has ``count - 2`` degrees of freedom.
    """
    means = [fmean(block) for block in blocks(values, count)]
    n = len(means)
    if n < 3:
        return Trend(0.0, 0.0)
    centre = (n - 1) / 2
    spread = sum((i - centre) ** 2 for i in range(n))
    middle = fmean(means)
    slope = sum((i - centre) * (mean - middle) for i, mean in enumerate(means)) / spread
    rest = sum((mean - middle - slope * (i - centre)) ** 2 for i, mean in enumerate(means))
    scatter = math.sqrt(rest / (n - 2)) + _RESOLUTION * max(abs(mean) for mean in means)
    return Trend(slope * (n - 1), scatter / math.sqrt(spread) * (n - 1))
