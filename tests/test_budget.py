from __future__ import annotations

import pytest

from lightning_doctor.budget import FIRST_LOOK, Budget


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_measured_share_is_what_was_spent_of_what_went_by() -> None:
    clock = Clock()
    budget = Budget(0.02, clock)
    assert budget.measured == 0.0
    clock.now += 50
    budget.spent += 1
    assert budget.measured == 0.02


def test_the_first_look_is_free_and_after_it_the_share_decides() -> None:
    clock = Clock()
    budget = Budget(0.02, clock)
    assert budget.allows(FIRST_LOOK)
    assert not budget.allows(FIRST_LOOK + 0.01)
    budget.spent = FIRST_LOOK
    assert not budget.allows(0.01)
    clock.now += 100
    assert budget.allows(1.6)
    assert not budget.allows(1.61)


def test_of_a_run_that_is_not_short_a_quarter_of_the_share_is_kept_back_for_what_no_clock_sees() -> None:
    clock = Clock()
    budget = Budget(0.02, clock)
    clock.now += 20
    assert budget.earned() == pytest.approx(0.02 * 20)
    clock.now += 1000
    assert budget.earned() == pytest.approx(0.02 * 20 + 0.015 * 1000)


def test_what_is_earned_leaves_the_first_look_apart() -> None:
    clock = Clock()
    budget = Budget(0.02, clock)
    assert not budget.has_earned(0.001)
    clock.now += 100
    assert budget.has_earned(1.6)
    assert not budget.has_earned(1.61)


def test_work_under_way_counts_before_it_is_booked_and_once_however_it_is_nested() -> None:
    clock = Clock()
    budget = Budget(0.02, clock)
    began = budget.begin()
    clock.now += 1
    assert budget.left() == pytest.approx(FIRST_LOOK + 0.02 - 1)
    assert budget.earned() == pytest.approx(0.02 - 1)
    part = budget.begin()
    clock.now += 0.5
    assert budget.end(part) == pytest.approx(0.5)
    assert budget.spent == 0.0
    assert budget.left() == pytest.approx(FIRST_LOOK + 0.03 - 1.5)
    assert budget.end(began) == pytest.approx(1.5)
    assert budget.spent == pytest.approx(1.5)
    clock.now += 10
    assert budget.left() == pytest.approx(FIRST_LOOK + 0.02 * 11.5 - 1.5)
