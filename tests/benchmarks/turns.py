"""Several runs at once that take turns, a few steps each, so that whatever slows the machine down slows all alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from threading import Event, Thread, local
from time import perf_counter, thread_time
from typing import Any
from unittest import mock

from lightning_doctor.budget import Budget

# Steps a turn: long beside a change of threads, short beside what other programs on the machine do.
STEPS = 20


_away = local()


def own_time() -> float:
    """Returns the time that has gone by in this thread's turns [seconds]."""
    # On the wall's clock a doctor would earn its budget while others train.
    return perf_counter() - getattr(_away, "seconds", 0.0)


def pass_over(seconds: float) -> None:
    """Leaves out so much of the time that has gone by in this thread's turns."""
    _away.seconds = getattr(_away, "seconds", 0.0) + seconds


class Turns:
    """The clock of one run, which goes while it is this run's turn.

    Attributes:
        wall: The length of each turn [seconds]; what comes before the first step and after the last included.
        processor: The processor time of each turn [seconds].
        steps: The number of steps begun in each turn.
    """

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.processor: list[float] = []
        self.steps: list[int] = []
        self.error: BaseException | None = None
        self._mine, self._over = Event(), Event()
        self._begun = 0
        self._ended = False

    def __deepcopy__(self, memo: dict[int, Any]) -> Turns:
        return self

    def step(self) -> None:
        """A step begins: after so many the others' turn comes."""
        if self._begun == STEPS:
            self._book()
            self._over.set()
            self._await()
        self._begun += 1

    def run(self, work: Callable[[], object]) -> None:
        """The run, in a thread of its own."""
        self._await()
        try:
            work()
        except BaseException as error:  # noqa: BLE001
            self.error = error
        self._book()
        self._ended = True
        self._over.set()

    def give(self) -> bool:
        """Lets the run have its turn; says whether it goes on after that."""
        if not self._ended:
            self._over.clear()
            self._mine.set()
            self._over.wait()
        return not self._ended

    def _await(self) -> None:
        left = perf_counter()
        self._mine.wait()
        self._mine.clear()
        pass_over(perf_counter() - left)
        self._started = perf_counter(), thread_time()
        self._begun = 0

    def _book(self) -> None:
        wall, processor = self._started
        self.wall.append(perf_counter() - wall)
        self.processor.append(thread_time() - processor)
        self.steps.append(self._begun)


def take_turns(runs: list[tuple[Turns, Callable[[], object]]]) -> None:
    """Trains all of them to the end, in threads of which one at a time is awake.

    Raises:
        BaseException: What the first run that failed has raised.
    """
    threads = [Thread(target=turns.run, args=(work,)) for turns, work in runs]
    with doctors_clock():
        for thread in threads:
            thread.start()
        going = True
        forwards = True
        while going:
            order = runs if forwards else runs[::-1]
            alive = [turns.give() for turns, _ in order]
            going = any(alive)
            forwards = not forwards
        for thread in threads:
            thread.join()
    for turns, _ in runs:
        if turns.error is not None:
            raise turns.error


@contextmanager
def doctors_clock() -> Iterator[None]:
    """Within this a doctor keeps time by :func:`own_time`."""
    with mock.patch("lightning_doctor.callbacks.case.Budget", partial(Budget, clock=own_time)):
        yield
