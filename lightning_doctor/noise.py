"""Noise-aware statistics of a series, in plain Python: a signal is judged against its own noise and scale."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median

from lightning_doctor.history import Series

# A normal distribution's standard deviation over its median absolute deviation.
_SIGMA_PER_MAD = 1.4826
# The standard error of a median over that of a mean, for normal noise: √(π/2).
_MEDIAN_ERROR = 1.2533
# What float32 arithmetic alone can blur, relative to the size of the number.
_RESOLUTION = 1e-6
# The share of the run whose median tells where it has come, and how much of what the first half brought the second
# must bring to fall as steadily.
_END, _FADING = 0.1, 0.25


def noise(values: Sequence[float]) -> float:
    """Returns the standard deviation of one value about its local trend [unit of the values].

    Taken from second differences, which a straight trend does not enter and which independent noise of standard
    deviation σ gives the standard deviation σ√6; their median absolute value, so that single spikes do not enter
    either. Never below what float32 resolves, so that a noiseless series has a noise to be compared with.
    Noise with heavy tails is put at its core: for squares of normal numbers at about two thirds of its deviation.

    Args:
        values: At least 3 finite values; with fewer only the resolution is left.
    """
    resolution = _RESOLUTION * max((abs(value) for value in values), default=0.0)
    bends = [abs(a - 2 * b + c) for a, b, c in zip(values, values[1:], values[2:], strict=False)]
    if not bends:
        return resolution
    return max(_SIGMA_PER_MAD * median(bends) / math.sqrt(6), resolution)


def lucky(count: int) -> float:
    """Returns how far under the mean the lowest of ``count`` values of plain noise is expected to lie, at most [σ].

    The best of many equal values is not better, it was lucky: √(2 ln n), the classic bound for normal noise.
    """
    return math.sqrt(2 * math.log(count)) if count > 1 else 0.0


def blocks(values: Sequence[float], count: int) -> list[list[float]]:
    """Cuts values into ``count`` runs of (nearly) equal length, fewer where there are fewer values; none is empty."""
    count = max(1, min(count, len(values)))
    edges = [len(values) * i // count for i in range(count + 1)]
    return [list(values[a:b]) for a, b in pairwise(edges) if b > a]


def stretch(series: Series, begin: float, end: float = 1.0) -> list[float]:
    """Returns the values between two shares of the run so far, counted in steps: points alone mislead where thinned.

    Args:
        series: Its steps must not fall.
        begin: Share of the steps from the first point to the last at which the stretch begins, in [0, 1].
        end: Share at which it ends, itself included.
    """
    if not series.steps:
        return []
    first, span = series.steps[0], series.steps[-1] - series.steps[0]
    return series.values[
        bisect_left(series.steps, first + begin * span) : bisect_right(series.steps, first + end * span)
    ]


def levels(values: Sequence[float], count: int) -> list[float]:
    """Returns the medians of ``count`` consecutive blocks: the course of a series without its spikes."""
    return [median(block) for block in blocks(values, count)]


@dataclass(frozen=True)
class Trend:
    """By how much a series went up or down, and how sure that is.

    Attributes:
        change: End less beginning [unit of the values]; negative for a falling series.
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
        count: Number of blocks; the scatter has ``count - 2`` degrees of freedom: without any trend, 8 blocks give
            over 3 ``sigmas`` once in 40 times and over 4 once in 140.
    """
    # Relative to the largest value: squares of losses over 1e154 would overflow.
    scale = max((abs(value) for value in values), default=0.0) or 1.0
    means = [fmean([value / scale for value in block]) for block in blocks(values, count)]
    n = len(means)
    if n < 3:
        return Trend(0.0, 0.0)
    centre = (n - 1) / 2
    spread = sum((i - centre) ** 2 for i in range(n))
    middle = fmean(means)
    slope = sum((i - centre) * (mean - middle) for i, mean in enumerate(means)) / spread
    rest = sum((mean - middle - slope * (i - centre)) ** 2 for i, mean in enumerate(means))
    scatter = math.sqrt(rest / (n - 2)) + _RESOLUTION * max(abs(mean) for mean in means)
    # From the first value to the last: the blocks' centres alone span one block less.
    length = n * (1 - 1 / len(values))
    return Trend(slope * length * scale, scatter / math.sqrt(spread) * length * scale)


def shift(before: Sequence[float], after: Sequence[float]) -> Trend:
    """Compares the medians of two stretches; the error comes from the noise of single values.

    Surer than :func:`trend` where a series bends, as its scatter about a straight line does not enter; too sure
    where successive values are alike beyond their trend.

    Args:
        before: The earlier values, at least one; with none there is no change.
        after: The later values, likewise.
    """
    if not before or not after:
        return Trend(0.0, 0.0)
    errors = [_MEDIAN_ERROR * noise(part) / math.sqrt(len(part)) for part in (before, after)]
    return Trend(median(after) - median(before), math.hypot(*errors))


def fades(losses: Series) -> bool:
    """Whether the second half of the run brought far less than the first."""
    start = losses.values[: max(1, len(losses) // 32)]
    places = [stretch(losses, begin, begin + _END) for begin in (0.5 - _END / 2, 1 - _END)]
    if not all(places):
        return False
    middle, end = map(median, places)
    return middle - end < _FADING * (median(start) - middle)
