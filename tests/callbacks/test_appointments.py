from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from lightning_doctor.budget import Budget
from lightning_doctor.callbacks.appointments import Appointments
from lightning_doctor.history import History


def case_of(*, step_time: float, step: int, elapsed: float = 0.0, planned: int = 10_000, size: int = 64) -> Any:
    """A run that so many seconds have gone by of, and whose loss has stopped to fall."""
    clock = iter([0.0])
    budget = Budget(0.02, lambda: next(clock, elapsed))
    history = History()
    for index in range(step):
        history.record("train_loss", index, 2.0 + 0.1 * (index % 2))
    history.facts = {
        "trainer": {"planned_steps": planned, "batches_per_epoch": 50},
        "data": {"batch_size": size},
    }
    return SimpleNamespace(
        budget=budget,
        history=history,
        pace=SimpleNamespace(steps=step, following=lambda steps: steps + 50),
        means=SimpleNamespace(batch_time=step_time, forward_time=lambda rows, at_once: 0.5 * step_time * rows / size),
        together=False,
        run=SimpleNamespace(step=step, accumulate=1),
    )


# Four batches choose: 5 · 4 steps are what a probe takes at the least.
@pytest.mark.parametrize(("step_time", "probes"), [(0.009, True), (0.011, False)])
def test_the_first_probe_is_begun_where_what_steps_take_leaves_room_for_it(step_time: float, probes: bool) -> None:
    times = Appointments(256, None)
    assert times.wishes(case_of(step_time=step_time, step=8), 1.9) == [float(probes), 0.0]
    assert times.missed == (0.0 if probes else pytest.approx(20 * step_time))


@pytest.mark.parametrize(("size", "step_time", "probes"), [(64, 0.09, True), (64, 0.11, False), (4, 0.09, False)])
def test_a_verdict_is_begun_where_there_is_room_for_its_least(size: int, step_time: float, probes: bool) -> None:
    times = Appointments(256, None)
    wishes = times.wishes(case_of(step_time=step_time, step=200, size=size), 2.0)
    assert wishes == [float(probes)] * 2
    # Of small batches more are needed.
    assert times.missed == (0.0 if probes else pytest.approx((80 if size == 4 else 20) * step_time))


def test_a_dear_probe_comes_when_the_run_has_earned_it() -> None:
    times = Appointments(256, None)
    assert times.wishes(case_of(step_time=0.11, step=200, elapsed=139.0), 1.9)[0] == 0.0
    assert times.wishes(case_of(step_time=0.11, step=200, elapsed=141.0), 1.9)[0] == 1.0


def test_what_a_probe_took_counts_from_then_on() -> None:
    times = Appointments(256, None)
    times.spent(False, 0.01)
    assert times.wishes(case_of(step_time=1.0, step=8), 1.9) == [1.0, 0.0]
    assert times.missed == 0.0


@pytest.mark.parametrize(("step_time", "kept"), [(0.019, 0.4), (0.021, 0.0)])
def test_time_is_kept_where_it_would_do_for_a_verdict(step_time: float, kept: float) -> None:
    times = Appointments(256, None)
    times.wishes(case_of(step_time=step_time, step=16), 1.9)
    assert times.kept == kept
    # First steps may be slow.
    times.wishes(case_of(step_time=1e-3, step=66), 1.9)
    assert times.kept == 0.4


def test_a_verdict_that_does_not_fit_in_is_missed_though_a_probe_does() -> None:
    times = Appointments(256, None)
    times.spent(False, 0.1)
    assert times.begun
    # It takes five times as long as a probe without.
    assert times.wishes(case_of(step_time=0.02, step=200), 0.45) == [0.0, 0.0]
    assert times.missed == pytest.approx(0.5)
    assert times.wishes(case_of(step_time=0.02, step=200), 0.55)[1] == 1.0
    assert times.missed == 0.0
