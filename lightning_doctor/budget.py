"""The doctor's clock: what it has cost so far, and whether it may spend more now."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

FIRST_LOOK = 2.0
# The part of the share that is kept back, once a run has lasted so long [seconds], for what the doctor's own clock does
# not see: what Lightning takes to call it, and what others no longer find in the processor's caches.
_UNSEEN, _SHORT = 0.25, 20.0


def too_dear(seconds: float) -> str:
    """Returns why work of this length was not done, as a clause."""
    return f"it takes about {seconds:.2g} s, more than the budget has for it yet"


class Budget:
    """Keeps the doctor's share of a run's time under a limit, which is a quarter less where a run is not short.

    Args:
        share: The limit, as a share of the run's time, in (0, 1].
        clock: A monotonic clock [seconds].

    Attributes:
        spent: Time spent inside the doctor since the start, the work under way apart [seconds].
    """

    def __init__(self, share: float, clock: Callable[[], float] = perf_counter) -> None:
        self.share = share
        self.clock = clock
        self.spent = 0.0
        self._began = self._work_began = clock()
        self._works = 0

    def begin(self) -> float:
        """Work begins, or a part of work that is under way; returns when [seconds]."""
        now = self.clock()
        if not self._works:
            self._work_began = now
        self._works += 1
        return now

    def end(self, began: float) -> float:
        """Work, or a part of it, is done that began then: it is booked once. Returns what it took [seconds]."""
        seconds = self.clock() - began
        self._works -= 1
        if not self._works:
            self.spent += seconds
        return seconds

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
        return self.earned() + FIRST_LOOK

    def allows(self, cost: float) -> bool:
        """Says whether work of this length fits: under the share, plus two seconds for a run's first look."""
        return cost <= self.left()

    def earned(self) -> float:
        """Time that may be spent now under the share alone, the first look apart [seconds]; negative for none."""
        now = self.clock()
        under_way = now - self._work_began if self._works else 0.0
        elapsed = now - self._began
        kept_back = _UNSEEN * max(0.0, elapsed - _SHORT)
        return self.share * (elapsed - kept_back) - self.spent - under_way

    def has_earned(self, cost: float) -> bool:
        """Says whether work of this length fits under the share alone, the first look apart."""
        return cost <= self.earned()
