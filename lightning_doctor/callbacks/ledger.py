"""What a kind of work costs: each time, and in all."""

from __future__ import annotations


class Ledger:
    """Books of one kind of work.

    Attributes:
        cost: What it took each time, on average over the last window in which there was any [seconds].
        total: What it took in all [seconds].
    """

    def __init__(self) -> None:
        self.cost = self.total = 0.0
        self._time, self._times = 0.0, 0

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
            self.cost = self._time / self._times
            self._time, self._times = 0.0, 0
