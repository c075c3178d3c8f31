from __future__ import annotations

import pytest

from lightning_doctor.callbacks.scoring_plan import ScoringPlan
from tests.callbacks.test_appointments import case_of

SIZES = (500, 500)


# Half a step for each 64 of 1,000 rows, of which 0.3 seconds of the first look are for scores along the way.
@pytest.mark.parametrize(("step_time", "rows"), [(0.0, 500), (0.038, 500), (0.0768, 250), (0.29, 66), (0.31, 0)])
def test_as_many_rows_are_scored_as_there_is_time_for_by_what_steps_take(step_time: float, rows: int) -> None:
    plan = ScoringPlan(500)
    assert plan.due(case_of(step_time=step_time, step=200), SIZES, 1.5) == (rows > 0)
    assert plan.rows == pytest.approx(rows, abs=1)
    assert plan.missed == (0.0 if rows else pytest.approx(0.5 * step_time * 1000 / 64))


def test_the_first_look_is_left_to_others_but_at_the_end() -> None:
    times = {"step_time": 0.0768, "step": 200}
    # 0.6 seconds are needed; along the way 0.2 are kept.
    assert not ScoringPlan(500).due(case_of(**times), SIZES, 0.25)
    plan = ScoringPlan(500)
    assert plan.due(case_of(**times, planned=201), SIZES, 0.25)
    assert plan.rows == pytest.approx(0.25 / 0.6 * 500, abs=1)


def test_all_rows_are_scored_once_that_is_earned_and_never_fewer_than_before() -> None:
    plan = ScoringPlan(500)
    assert plan.due(case_of(step_time=0.0768, step=200), SIZES, 1.5)
    plan.spent(500, 0.3)
    # All the time for scores along the way is spent.
    assert not plan.due(case_of(step_time=0.0768, step=700), SIZES, 1.5)
    assert plan.missed == pytest.approx(0.6)
    assert plan.rows == 250
    assert plan.due(case_of(step_time=0.0768, step=700, elapsed=100.0), SIZES, 1.5)
    assert plan.rows == 500
    assert plan.missed == 0.0
    # Of what is left 150 rows of a sample could be scored: better than none, at the end.
    assert not plan.due(case_of(step_time=0.0768, step=2000), SIZES, 0.18)
    assert plan.due(case_of(step_time=0.0768, step=9_990), SIZES, 0.18)
    assert plan.rows == 150


def test_few_rows_are_few_because_there_are_no_more() -> None:
    plan = ScoringPlan(500)
    assert plan.due(case_of(step_time=0.01, step=200), (20, 10), 1.5)
    assert plan.rows == 20


def test_ranks_go_by_the_count_of_passes() -> None:
    plan, case = ScoringPlan(500), case_of(step_time=10.0, step=200)
    case.together = True
    assert [plan.due(case, SIZES, 0.0) for _ in range(8)] == [True, False, False, True] + [False] * 4
    assert plan.rows == 500
