from __future__ import annotations

import pytest

from lightning_doctor.measure.waiting import Waiting


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def run(self, waiting: Waiting, *, wait: float, work: float, first: bool = False, examined: bool = False) -> None:
        """A batch is waited for, and worked on, with the doctor's own time before, between and after."""
        self.now += wait
        waiting.arrives(first=first)
        self.now += 100.0
        waiting.starts(counts=not examined)
        self.now += work
        waiting.ends()
        self.now += 100.0
        waiting.leaves()


def test_the_share_is_that_of_waiting_without_the_doctors_own_time() -> None:
    clock = Clock()
    waiting = Waiting(clock)
    clock.run(waiting, wait=50.0, work=1.0, first=True)
    for _ in range(3):
        clock.run(waiting, wait=1.0, work=3.0)
    assert waiting.take() == (pytest.approx(0.25), pytest.approx(1.0))
    assert waiting.take() is None


def test_the_first_batch_of_an_epoch_and_what_was_interrupted_do_not_count() -> None:
    clock = Clock()
    waiting = Waiting(clock)
    clock.run(waiting, wait=1.0, work=1.0, first=True)
    clock.run(waiting, wait=2.0, work=2.0)
    waiting.interrupt()
    clock.run(waiting, wait=1000.0, work=1000.0)
    clock.run(waiting, wait=1000.0, work=1000.0, first=True)
    assert waiting.take() == (pytest.approx(0.5), pytest.approx(2.0))


def test_an_examined_batch_is_not_work() -> None:
    clock = Clock()
    waiting = Waiting(clock)
    clock.run(waiting, wait=1.0, work=1.0, first=True)
    clock.run(waiting, wait=1.0, work=3.0)
    clock.run(waiting, wait=1.0, work=900.0, examined=True)
    assert waiting.take() == (pytest.approx(0.25), pytest.approx(1.0))


def test_what_the_device_has_left_to_do_is_work() -> None:
    clock = Clock()
    waiting = Waiting(clock)
    clock.run(waiting, wait=1.0, work=1.0, first=True)
    clock.run(waiting, wait=1.0, work=1.0)
    assert waiting.waited
    # Four seconds of work for two batches.
    assert waiting.take(rest=4.0) == (pytest.approx(0.25), pytest.approx(1.0))


def test_waits_without_work_say_nothing() -> None:
    clock = Clock()
    waiting = Waiting(clock)
    assert waiting.take() is None
    waiting.ends()
    waiting.leaves()
    waiting.arrives(first=False)
    assert waiting.take() is None
