"""What a kind of work costs: each time, and in all."""

from __future__ import annotations

from collections import deque

# The dearest window among so many is left out: it may be a stall, of the machine or of the collector of garbage.
_WINDOWS = 8


class Ledger:
    """Books of one kind of work.

    Attributes:
        cost: What it takes each time, on average over the last windows but the dearest [seconds].
        dearest: What it took each time in the dearest of those windows [seconds].
        total: What it took in all [seconds].
        times: How often it was done, up to the last window.
    """

    def __init__(self) -> None:
        self.cost = self.dearest = self.total = 0.0
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
            least = sorted(self._recent)[: max(1, len(self._recent) - 1)]
            self.cost, self.dearest = sum(least) / len(least), max(self._recent)
            self.times += self._times
            self._time, self._times = 0.0, 0
