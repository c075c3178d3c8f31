from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from lightning_doctor.budget import FIRST_LOOK, Budget
from lightning_doctor.callbacks.monitor import Monitor
from lightning_doctor.callbacks.pace import Pace
from lightning_doctor.callbacks.staff import Staff


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Works(Monitor):
    """Takes some seconds, and notes what was left before."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        super().__init__()
        self.clock, self.seconds = clock, seconds
        self.left: list[float] = []

    def after_validation(self, case: Any) -> None:
        self.left.append(case.budget.left())
        self.clock.now += self.seconds


class Failing(Works):
    def after_validation(self, case: Any) -> None:
        super().after_validation(case)
        raise KeyboardInterrupt


def test_a_monitor_sees_what_those_before_it_took_in_the_same_hook() -> None:
    clock = Clock()
    budget = Budget(1e-9, clock)
    first, second = Works(clock, 0.4), Works(clock, 0.3)
    case: Any = SimpleNamespace(budget=budget, pace=Pace(budget, 10))
    Staff(case, [first, second]).each("after_validation")
    assert first.left == [pytest.approx(FIRST_LOOK)]
    assert second.left == [pytest.approx(FIRST_LOOK - 0.4)]
    assert budget.spent == pytest.approx(0.7)


def test_work_that_is_interrupted_is_booked() -> None:
    clock = Clock()
    budget = Budget(1e-9, clock)
    case: Any = SimpleNamespace(budget=budget, pace=Pace(budget, 10))
    with pytest.raises(KeyboardInterrupt):
        Staff(case, [Failing(clock, 0.4)]).each("after_validation")
    clock.now += 100
    assert budget.left() == pytest.approx(FIRST_LOOK - 0.4, abs=1e-6)
