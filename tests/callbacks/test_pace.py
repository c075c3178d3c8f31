from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import pytest

from lightning_doctor.budget import Budget
from lightning_doctor.callbacks.pace import Pace


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def paced(
    steps: int, *, cost: float | Callable[[int], float], step_time: float = 0.01, every: int = 50, kept: float = 0.0
) -> tuple[list[int], Budget]:
    """Runs so many steps whose examination costs so many seconds; returns which were examined."""
    clock = Clock()
    budget = Budget(0.02, clock)
    pace = Pace(budget, every, kept=lambda: kept)
    examined = []
    for step in range(steps):
        if pace.examining:
            examined.append(step)
            took = cost(step) if callable(cost) else cost
            spend(pace, "before_batch", took)
            budget.spent += took
            clock.now += took
        clock.now += step_time
        pace.advance()
        if pace.closes:
            pace.heed(pace.wishes())
    return examined, budget


def spend(pace: Pace, hook: str, seconds: float) -> None:
    ledger = pace.ledger(hook)
    assert ledger is not None
    ledger.add(seconds)


def test_cheap_examinations_come_in_every_window() -> None:
    examined, _ = paced(500, cost=1e-4)
    assert examined == [0, 1, 3, 7, 15, 31, *range(81, 500, 50)]


def test_dear_examinations_keep_to_the_share_plus_the_first_look() -> None:
    examined, budget = paced(20_000, cost=0.2)
    assert budget.spent <= 0.02 * budget.elapsed + 2.0
    # Of the 200 seconds of this run 4 are earned, and the first look takes what it may at once.
    assert examined[:6] == [0, 1, 3, 7, 15, 31]
    assert 15 <= len(examined) <= 30


def test_an_examination_that_is_never_affordable_again_happens_once() -> None:
    examined, _ = paced(1000, cost=30.0)
    assert examined == [0]


@pytest.mark.parametrize("stalled", [0, 1, 3, 7])
@pytest.mark.parametrize("kept", [0.0, 0.7])
def test_one_examination_that_stalls_costs_none_of_the_next_ones(stalled: int, kept: float) -> None:
    examined, _ = paced(300, cost=lambda step: 0.9 if step == stalled else 0.01, step_time=2e-3, kept=kept)
    assert examined[:6] == [0, 1, 3, 7, 15, 31]


@pytest.mark.parametrize("dear", [lambda step: step >= 7, lambda step: step % 3 == 0], ids=["later", "now and then"])
def test_examinations_that_are_dear_now_and_then_keep_to_the_share(dear: Callable[[int], bool]) -> None:
    examined, budget = paced(3000, cost=lambda step: 1.0 if dear(step) else 0.02, step_time=0.02)
    assert len(examined) > 2
    assert budget.spent <= 0.02 * budget.elapsed + 2.0


def test_a_first_examination_that_took_all_there_is_has_no_second() -> None:
    examined, budget = paced(300, cost=lambda step: 0.01 if step else 1.3, step_time=2e-3)
    assert examined == [0]
    assert budget.spent == 1.3


def test_one_rank_that_cannot_afford_it_keeps_all_from_it() -> None:
    pace = Pace(Budget(0.02, Clock()), 50)
    pace.advance()
    affordable, examine, *rest = pace.wishes()
    assert examine == 1.0
    pace.heed([affordable, 0.5, *rest])
    for _ in range(200):
        pace.advance()
        assert not pace.examining


def test_a_model_too_large_to_be_tried_at_once_is_examined_untried_until_that_is_earned() -> None:
    clock = Clock()
    budget = Budget(0.02, clock)
    pace = Pace(budget, 50, trial_cost=40.0)
    examined, tried = [], []
    for step in range(3000):
        if pace.examining:
            examined.append(step)
            if pace.tries:
                tried.append(step)
            cost = 6.0 if pace.tries else 0.05
            spend(pace, "before_batch", cost)
            budget.spent += cost
            clock.now += cost
        clock.now += 1.0
        pace.advance()
        if pace.closes:
            pace.heed(pace.wishes())
        assert budget.spent <= 0.02 * budget.elapsed + 2.0
    assert examined[:6] == [0, 1, 3, 7, 15, 31]
    # A trial takes no longer than six steps, as they turned out: 6 seconds are earned in 300.
    assert 281 <= tried[0] <= 381
    assert tried == [step for step in examined if step >= tried[0]]
    assert len(tried) > 3


def test_the_trial_of_the_first_step_is_reckoned_with_before_it_is_made() -> None:
    clock = Clock()
    budget = Budget(0.02, clock)
    pace = Pace(budget, 50, trial_cost=0.7)
    assert pace.tries
    clock.now += 0.5
    budget.spent += 0.5
    pace.advance()
    # Of the 2 seconds 1.5 are left: for the trial that comes now there is time, for an examination and another not.
    spend(pace, "after_batch", 0.5)
    examine, tries = pace.wishes()[1:3]
    assert examine == tries == 0.0


def test_what_follows_an_examination_is_a_part_of_its_cost_and_other_steps_are_not() -> None:
    pace = Pace(Budget(0.02, Clock()), 50)
    spend(pace, "after_batch", 1.0)
    pace.advance()
    assert pace.examining
    pace.advance()
    spend(pace, "before_batch", 3.0)
    spend(pace, "after_batch", 100.0)
    assert pace.wishes()[5] == 0.0
    assert pace.examinations.cost == 2.0


def test_a_step_takes_what_it_took_in_the_quickest_window_the_doctor_apart() -> None:
    clock = Clock()
    budget = Budget(0.02, clock)
    pace = Pace(budget, 50)
    for taken, spent, expected in ((0.5, 0.1, 0.4), (0.05, 0.03, 0.02), (3.0, 0.0, 0.02)):
        clock.now += taken
        budget.spent += spent
        pace.advance()
        pace.wishes()
        assert pace.step_time == pytest.approx(expected)
    # No step since.
    clock.now += 1e-3
    pace.wishes()
    assert pace.step_time == pytest.approx(0.02)


def test_a_validation_sample_takes_what_the_quickest_pass_does_the_doctors_part_apart() -> None:
    clock = Clock()
    budget = Budget(0.02, clock)
    pace = Pace(budget, 50)
    for seconds, own in ((3.0, 2.0), (1.5, 0.0), (0.5, 0.1)):
        pace.validation_begins()
        clock.now += seconds
        budget.spent += own
        pace.validation_ends(100)
    assert pace.validation_time == pytest.approx(0.004)
    pace.validation_begins()
    # A loader that does not say how many it serves.
    pace.validation_ends(0)
    assert pace.validation_time == pytest.approx(0.004)


def test_windows_stretch_until_what_every_step_takes_fits_too_and_shrink_once_steps_are_longer() -> None:
    clock = Clock()
    budget = Budget(0.02, clock)
    pace = Pace(budget, 50)
    closed, sampled = [], []

    def work(seconds: float) -> None:
        budget.spent += seconds
        clock.now += seconds

    for step in range(420_000):
        clock.now += 6e-4 if step < 400_000 else 0.1
        work(6e-6)
        if pace.sampling:
            sampled.append(step)
            spend(pace, "after_batch", 5e-4)
            work(5e-4)
        pace.advance()
        if pace.closes or (pace.steps % 500 == 0 and pace.closes_early):
            closed.append(pace.steps)
            pace.heed(pace.wishes())
            work(4e-3)
            pace.closed(4e-3)
        if step < 400_000:
            assert budget.spent <= 0.02 * budget.elapsed + 2.0
    lengths = [(end, end - begin) for begin, end in pairwise(closed)]
    # 12 µs are earned a step, of which six are gone; what the first look has left over is used up first.
    assert max(length for end, length in lengths if end < 40_000) <= 500
    assert 500 < max(length for _, length in lengths) <= 6400
    assert lengths[-1][1] == 50
    assert max(second - first for first, second in pairwise(sampled)) <= 401


@pytest.mark.parametrize(
    ("epoch", "least"), [(1, 0), (2, 0), (10, 1), (20, 2), (30, 3), (64, 3), (100, 3), (500, 3), (5000, 3)]
)
def test_gradients_are_glanced_at_in_every_epoch_whatever_the_budget_says(epoch: int, least: int) -> None:
    clock = Clock()
    budget = Budget(0.02, clock)
    budget.spent = 1e6
    pace = Pace(budget, 50, epoch_steps=lambda: epoch)
    glanced, apart = [], []
    for step in range(max(4 * epoch, 4000)):
        clock.now += 1e-3
        if pace.sampling:
            spend(pace, "after_batch", 1.0)
        if pace.glancing and not pace.sampling:
            apart.append(step - glanced[-1])
        if pace.sampling or pace.glancing:
            glanced.append(step)
        pace.advance()
        if pace.closes:
            pace.heed(pace.wishes())
    counts = Counter(step // epoch for step in glanced)
    assert min(counts[number] for number in range(max(4, 4000 // epoch))) >= least
    # No more often than that either.
    assert min(apart, default=epoch) >= max(10, epoch // 3)
    # Of epochs of a step or two every tenth step.
    assert epoch > 2 or max(second - first for first, second in pairwise(glanced)) <= 10


def test_where_nobody_knows_how_long_an_epoch_is_the_one_before_tells() -> None:
    pace = Pace(Budget(0.02, Clock()), 50)
    pace.epoch_begins()
    for _ in range(300):
        assert pace.next_glance == math.inf
        pace.advance()
        if pace.closes:
            pace.heed(pace.wishes())
    pace.epoch_begins()
    pace.heed(pace.wishes())
    assert pace.next_glance == pace._glanced_at + 100


def test_the_rest_of_an_epoch_after_a_checkpoint_tells_nothing_of_the_next() -> None:
    pace = Pace(Budget(0.02, Clock()), 50)
    for steps, whole in ((20, False), (300, True), (90, True)):
        pace.epoch_begins(whole=whole)
        pace.heed(pace.wishes())
        assert pace.next_glance == (math.inf if steps > 90 or not whole else pace._glanced_at + 100)
        for _ in range(steps):
            pace.advance()
    pace.epoch_begins()
    pace.heed(pace.wishes())
    # Of the longest.
    assert pace.next_glance == pace._glanced_at + 100


def test_in_an_epoch_that_does_not_end_gradients_are_measured_with_the_samples_alone() -> None:
    pace = Pace(Budget(0.02, Clock()), 50)
    pace.epoch_begins()
    for _ in range(1000):
        assert not pace.glancing
        pace.advance()
        if pace.closes:
            pace.heed(pace.wishes())


def test_what_was_overspent_at_once_makes_no_window_longer() -> None:
    clock = Clock()
    budget = Budget(0.02, clock)
    pace = Pace(budget, 50)
    closed = []
    for step in range(4000):
        clock.now += 0.01
        if step == 1000:
            budget.spent += 15.0
            clock.now += 15.0
        pace.advance()
        if pace.closes:
            closed.append(pace.steps)
            pace.heed(pace.wishes())
            pace.closed(1e-3)
            budget.spent += 1e-3
            clock.now += 1e-3
    assert budget.left() < 0
    assert max(end - begin for begin, end in pairwise(closed)) <= 100
