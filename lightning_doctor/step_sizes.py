"""What the scans of a run say of the length of its steps."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

from lightning_doctor.history import History, Series

_SMALLER = ("scan/0.015625", "scan/0.0625", "scan/0.25")
_LONGER = (4.0, 16.0, 64.0)
# Beyond this a limit is no closer to the step than chance: the search stops at the first length that raises the loss.
_FAR = 1.0
# The share of the loss that the longest step of a network that answers to steps changes it by.
_FELT = 0.05
# The share of a layer's outputs beyond which no gradient passes it.
_FLAT = 0.95


@dataclass(frozen=True)
class ScannedStep:
    """One step of the run and what others of the same direction would have done to samples that did not make it.

    Attributes:
        step: Which step.
        rate: Its learning rate; None where it is unknown.
        change: What it did to the loss of those samples, as a share of it.
        smaller: The least change at a smaller step.
        limit: The smallest learning rate along it that raised the loss, as every longer step that was tried; None where
            none was found.
    """

    step: int
    rate: float | None
    change: float
    smaller: float
    limit: float | None

    @property
    def overshoots(self) -> bool:
        """Whether this step raised the loss where a smaller one lowered it: its length was wrong, not its direction."""
        if self.change <= 0:
            return False
        return self.smaller < 0 or (self.limit is not None and self.rate is not None and self.limit < _FAR * self.rate)


def scanned_steps(history: History) -> list[ScannedStep]:
    """Returns the scanned steps, oldest first."""
    made = history.get("scan/1")
    smaller = [_table(history.get(name)) for name in _SMALLER]
    limits = _table(history.get("scan_limit"))
    longer = [(factor, _table(history.get(f"scan/{factor:g}"))) for factor in _LONGER]
    scans = []
    for step, change in zip(made.steps, made.values, strict=True):
        rate, limit = rate_at(history, step), limits.get(step)
        least = min((table[step] for table in smaller if step in table), default=math.inf)
        if limit is not None and rate:
            # What a longer step along the same direction lowers again is no limit, but chance or rounding.
            lowered = any(table.get(step, 0.0) < 0 for factor, table in longer if factor * rate > limit)
            limit = None if lowered else limit
        scans.append(ScannedStep(step, rate, change, least, limit))
    return scans


def rate_at(history: History, step: int) -> float | None:
    """Returns the learning rate of the first parameter group at a step; None where it is unknown."""
    rates = history.get("learning_rate")
    index = bisect_right(rates.steps, step) - 1
    return rates.values[index] if index >= 0 else None


def smallest_limit(scans: Sequence[ScannedStep]) -> float | None:
    """Returns the smallest learning rate that raised the loss where a smaller one lowered it; None without one."""
    return min((scan.limit for scan in scans if scan.limit), default=None)


def median_change(history: History, factor: float, since: int) -> float | None:
    """Returns the median change of the loss at this multiple of the steps since then; None without a scan."""
    changes = history.get(f"scan/{factor:g}").since(since)
    return median(changes) if changes else None


def longer_lowers(history: History, since: int, share: float, factor: float) -> bool:
    """Whether steps so much longer lower the loss of other samples, nearly always or beyond the noise of batches."""
    pairs = list(zip(*(history.get(f"scan/{t:g}").since(since) for t in (1.0, factor)), strict=False))
    changes = [change for _, change in pairs]
    if len(changes) < 3 or fmean(changes) >= 0:
        return False
    lowering = sum(change < 0 for change in changes) >= share * len(changes)
    surely = -fmean(changes) * math.sqrt(len(changes)) > 2 * stdev(changes)
    return (lowering or surely) and fmean(changes) < 2 * fmean([made for made, _ in pairs]) < 0


def none_helps(history: History, least: int) -> bool:
    """Whether no length of a step surely lowered the loss of other samples, though long ones did change it.

    Then it is not their length that keeps a run from learning, and the network is no dead one.

    Args:
        history: Of the run.
        least: How many scans tell anything.
    """
    lengths = [history.get(name).finite().values for name in (*_SMALLER, "scan/1", *(f"scan/{t:g}" for t in _LONGER))]
    if min(map(len, lengths)) < least:
        return False
    lowered = any(fmean(changes) + 2 * stdev(changes) / math.sqrt(len(changes)) < 0 for changes in lengths)
    return not lowered and max(map(abs, lengths[-1])) > _FELT


def _table(series: Series) -> dict[int, float]:
    return dict(zip(series.steps, series.values, strict=True))


def began_saturated(history: History) -> bool:
    """Whether a sigmoid or tanh layer was flat for next to all of its outputs before any step could have made it so."""
    layers = [history[name] for name in history.names("saturated_share/")]
    return any(series.steps[0] <= 1 and series.values[0] >= _FLAT for series in layers)


def began_dead(history: History) -> bool:
    """Whether most ReLU units were dead before any step could have killed them."""
    shares = history.get("dead_share")
    return len(shares) > 0 and shares.steps[0] <= 1 and shares.values[0] > 0.5
