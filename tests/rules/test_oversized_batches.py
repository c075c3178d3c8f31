from __future__ import annotations

from typing import Any

import pytest

from lightning_doctor.findings import Confidence, Severity
from lightning_doctor.history import History
from lightning_doctor.rules.oversized_batches import oversized_batches
from tests.histories import COMPLETED, FULL_BATCH, SGD, history_of, noisy, reading

FALLING = noisy([2.3 - 0.02 * step for step in range(40)], 0.002)


def run(
    losses: list[float] = FALLING, *, skill: float | None = 0.2, scale: float = 30.0, batch: int = 1400, **facts: Any
) -> History:
    facts = {"optimizers": SGD, "run": COMPLETED, "trainer": FULL_BATCH, "data": {"batch_size": batch}, **facts}
    history = history_of(losses, **facts)
    reading(history, "curvature/noise_scale", [scale] * 3)
    return history if skill is None else reading(history, "skill", [skill] * 4)


def test_sick_few_steps_of_batches_that_a_fraction_would_do_for() -> None:
    finding = oversized_batches(run())
    assert finding is not None
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.SUSPECTED)
    assert finding.evidence["recommended"] == 64
    assert "40 steps so far" in finding.summary
    assert "use batches of 64: 22 times as many steps" in finding.remedy


def test_a_run_of_which_nothing_tells_how_it_does_gets_a_note() -> None:
    finding = oversized_batches(run(skill=None))
    assert finding is not None
    assert finding.severity is Severity.NOTE


def test_healthy_a_run_that_does_well_or_has_come_to_rest() -> None:
    assert oversized_batches(run(skill=0.9)) is None
    assert oversized_batches(run(noisy([1.5] * 40, 0.01))) is None


@pytest.mark.parametrize(("scale", "ill"), [(116.0, True), (117.0, False)])
def test_the_batch_must_surely_be_eight_times_the_noise_scale(scale: float, ill: bool) -> None:
    # Half as much again as the scale, eight times: 1392 and 1404.
    assert (oversized_batches(run(scale=scale)) is not None) is ill


@pytest.mark.parametrize(("batch", "ill"), [(64, True), (63, False)])
def test_healthy_a_batch_that_is_small_anyway(batch: int, ill: bool) -> None:
    assert (oversized_batches(run(batch=batch, scale=2.0)) is not None) is ill


@pytest.mark.parametrize(("late", "ill"), [(0.0065, True), (0.0045, False)])
def test_the_fall_of_the_last_quarter_must_be_a_good_share_of_the_whole(late: float, ill: bool) -> None:
    # Down by 0.6 in twenty steps, and then so much a step: a tenth of it all must fall between the last quarters.
    early = [2.3 - 0.03 * step for step in range(20)]
    losses = noisy([*early, *[early[-1] - late * step for step in range(1, 21)]], 1e-4)
    assert (oversized_batches(run(losses)) is not None) is ill


def test_healthy_a_run_that_is_stuck_and_hardly_falls() -> None:
    assert oversized_batches(run(noisy([2.3 - 0.001 * step for step in range(40)], 1e-5))) is None


@pytest.mark.parametrize(("planned", "ill"), [(80, True), (81, False)])
def test_nothing_is_said_in_the_first_half_of_a_run(planned: int, ill: bool) -> None:
    trainer = {**FULL_BATCH, "planned_steps": planned}
    assert (oversized_batches(run(run={}, trainer=trainer)) is not None) is ill
