"""What a kind of work costs: each time, and in all."""

from __future__ import annotations

from collections import deque
from statistics import median_low

# One dear window among so many is a stall, of the machine or of the collector of garbage, and no price.
_WINDOWS = 3


class Ledger:
    """Books of one kind of work.

    Attributes:
        cost: What it takes each time, by the middle one of the last windows in which there was any [seconds].
        total: What it took in all [seconds].
        times: How often it was done, up to the last window.
    """

    def __init__(self) -> None:
        self.cost = self.total = 0.0
        self.times = 0
        self._time, self._times = 0.0, 0
        self._recent: deque[float] = deque(maxlen=_WINDOWS)

    def add(self, seconds: float) -> None:
        """Books time."""
        self._time += seconds
        self.total += seconds

    def count(self) -> None:
        """Books that it was done once more."""
        self._times += 1

    def settle(self) -> None:
        """Closes the books of a window."""
        if self._times:
            self._recent.append(self._time / self._times)
            self.cost = median_low(self._recent)
            self.times += self._times
            self._time, self._times = 0.0, 0
