"""How long a run waits between two batches, by the host's clock."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter


class Waiting:
    """Measures the time from the end of one batch to the arrival of the next, and what a batch takes.

    Args:
        clock: A monotonic clock [seconds].
    """

    def __init__(self, clock: Callable[[], float] = perf_counter) -> None:
        self.clock = clock
        self._left: float | None = None
        self._started: float | None = None
        self._counts = False
        self._forget()

    @property
    def waited(self) -> bool:
        """Whether any wait counts so far."""
        return bool(self._waits)

    def arrives(self, *, first: bool) -> None:
        """The next batch is here; the wait for the ``first`` of an epoch does not count."""
        self._counts = self._left is not None and not first
        if self._left is not None and not first:
            self._waits.append(self.clock() - self._left)
        self._left = None

    def starts(self, *, counts: bool) -> None:
        """Work on it starts; it is not to count where the doctor examines it, or has before it came."""
        self._started = self.clock() if counts and self._counts else None
        self._batches += 1

    def ends(self) -> None:
        """Work on it is done."""
        if self._started is not None:
            self._busy.append(self.clock() - self._started)
        self._started = None

    def leaves(self) -> None:
        """Waiting for the next one starts."""
        self._left = self.clock()

    def interrupt(self) -> None:
        """Something else, like a validation pass, comes before the next batch: that wait does not count."""
        self._left = None

    def take(self, rest: float = 0.0) -> tuple[float, float] | None:
        """Returns the share and the mean length [seconds] of the waits since the last call; None where none counts.

        Args:
            rest: What the device still had to do for these batches after the host was done with them [seconds].
        """
        result = None
        if self._waits and self._busy:
            wait = sum(self._waits) / len(self._waits)
            work = sum(self._busy) / len(self._busy) + rest / max(1, self._batches)
            result = (wait / max(wait + work, 1e-12), wait)
        self._forget()
        return result

    def _forget(self) -> None:
        self._waits: list[float] = []
        self._busy: list[float] = []
        self._batches = 0
