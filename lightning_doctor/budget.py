"""The doctor's clock: what it has cost so far, and whether it may spend more now."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

FIRST_LOOK = 2.0


def too_dear(seconds: float) -> str:
    """Returns why work of this length was not done, as a clause."""
    return f"it takes about {seconds:.2g} s, more than the budget has for it yet"


class Budget:
    """Keeps the doctor's share of a run's time under a limit.

    Args:
        share: The limit, as a share of the run's time, in (0, 1].
        clock: A monotonic clock [seconds].

    Attributes:
        spent: Time spent inside the doctor since the start [seconds].
    """

    def __init__(self, share: float, clock: Callable[[], float] = perf_counter) -> None:
        self.share = share
        self.clock = clock
        self.spent = 0.0
        self._began = clock()

    @property
    def elapsed(self) -> float:
        """Time since the start, the doctor's own included [seconds]."""
        return self.clock() - self._began

    @property
    def measured(self) -> float:
        """The share of the run's time that the doctor took."""
        elapsed = self.elapsed
        return self.spent / elapsed if elapsed > 0 else 0.0

    def left(self) -> float:
        """Time that may be spent now: under the share, plus two seconds for a run's first look [seconds]."""
        return self.share * self.elapsed + FIRST_LOOK - self.spent

    def allows(self, cost: float) -> bool:
        """Says whether work of this length fits: under the share, plus two seconds for a run's first look."""
        return cost <= self.left()

    def earned(self) -> float:
        """Time that may be spent now under the share alone, the first look apart [seconds]; negative for none."""
        return self.share * self.elapsed - self.spent

    def has_earned(self, cost: float) -> bool:
        """Says whether work of this length fits under the share alone, the first look apart."""
        return cost <= self.earned()
