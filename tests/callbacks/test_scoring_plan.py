from __future__ import annotations

from typing import Any

import pytest

from lightning_doctor.callbacks.scoring_plan import ScoringPlan
from tests.callbacks.test_appointments import case_of

SIZES = (500, 500)


def mean_of(**options: Any) -> Any:
    """A run whose loss is a mean over samples."""
    case = case_of(**options)
    case.history.facts["loss_head"] = {"reduction": "mean"}
    return case


# Half a step for each 64 of 1,000 rows, of which 0.3 seconds of the first look are for scores along the way.
@pytest.mark.parametrize(
    ("step_time", "rows"), [(0.0, 500), (0.038, 500), (0.04, 250), (0.15, 125), (0.3, 62), (0.32, 0)]
)
def test_as_many_rows_are_scored_as_there_is_time_for_by_what_steps_take(step_time: float, rows: int) -> None:
    plan = ScoringPlan(500)
    assert plan.due(mean_of(step_time=step_time, step=200), SIZES, 1.5) == (rows > 0)
    assert plan.rows == rows
    # What the fewest would have taken.
    assert plan.missed == (0.0 if rows else pytest.approx(0.5 * step_time * 2 * 62 / 64))


def test_all_rows_or_none_are_scored_where_their_losses_add_up() -> None:
    plan = ScoringPlan(500)
    assert not plan.due(case_of(step_time=0.04, step=200), SIZES, 1.5)
    assert plan.missed == pytest.approx(0.5 * 0.04 * 1000 / 64)
    assert plan.due(case_of(step_time=0.038, step=200), SIZES, 1.5)


def test_the_first_look_is_left_to_others_but_at_the_end() -> None:
    times = {"step_time": 0.0768, "step": 200}
    # 0.6 seconds are needed; along the way 0.2 are kept.
    assert not ScoringPlan(500).due(mean_of(**times), SIZES, 0.25)
    plan = ScoringPlan(500)
    assert plan.due(mean_of(**times, planned=201), SIZES, 0.25)
    assert plan.rows == 125


def test_more_rows_are_scored_once_that_is_earned_and_never_fewer_than_before() -> None:
    plan = ScoringPlan(500)
    assert plan.due(mean_of(step_time=0.0768, step=200), SIZES, 1.5)
    plan.spent(0.3)
    # All the time for scores along the way is spent.
    assert not plan.due(mean_of(step_time=0.0768, step=700), SIZES, 1.5)
    assert plan.missed == pytest.approx(0.3)
    assert plan.due(mean_of(step_time=0.0768, step=700, elapsed=20.0), SIZES, 1.5)
    assert plan.rows == 250
    assert plan.due(mean_of(step_time=0.0768, step=2000, elapsed=34.0), SIZES, 1.5)
    assert (plan.rows, plan.missed) == (500, 0.0)
    # Later 250 rows could be scored, which will do at the end only, and at the end 125.
    assert not plan.due(mean_of(step_time=0.0768, step=4_000), SIZES, 0.7)
    assert not plan.due(mean_of(step_time=0.0768, step=9_990), SIZES, 0.2)
    assert plan.due(mean_of(step_time=0.0768, step=9_990), SIZES, 0.4)
    assert plan.rows == 250


def test_the_cost_is_that_of_the_quickest_score() -> None:
    plan = ScoringPlan(500)
    for seconds, room in ((0.2, 1.5), (0.05, 1.5), (0.2, 0.07)):
        assert plan.due(mean_of(step_time=0.001, step=9_990), SIZES, room)
        plan.spent(seconds)


def test_held_out_rows_count_too() -> None:
    plan = ScoringPlan(500)
    assert plan.due(mean_of(step_time=0.026, step=200), (500, 500, 500), 1.5)
    assert plan.rows == 250


def test_a_resumed_run_does_not_begin_at_its_end() -> None:
    # One pass in 200 steps: the next ends well before the run does.
    plan = ScoringPlan(500, begins=5_000)
    assert not plan.due(mean_of(step_time=0.0768, step=5_200), SIZES, 0.25)
    assert plan.due(mean_of(step_time=0.0768, step=5_400, planned=5_500), SIZES, 0.25)


def test_few_rows_are_few_because_there_are_no_more() -> None:
    plan = ScoringPlan(500)
    assert plan.due(mean_of(step_time=0.01, step=200), (20, 10), 1.5)
    assert plan.rows == 20


def test_ranks_go_by_the_count_of_passes() -> None:
    plan, case = ScoringPlan(500), case_of(step_time=10.0, step=200)
    case.together = True
    assert [plan.due(case, SIZES, 0.0) for _ in range(8)] == [True, False, False, True] + [False] * 4
    assert plan.rows == 500
