from __future__ import annotations

from typing import Any

import pytest

from lightning_doctor.findings import Confidence, Severity
from lightning_doctor.history import History
from lightning_doctor.rules.ill_conditioned import ill_conditioned
from tests.histories import ADAM, COMPLETED, FULL_BATCH, SGD, history_of, noisy, point, reading

STEEP, SHALLOW, RATE = 10.0, 0.005, 0.1


def quadratic(shallow: float = SHALLOW, *, steep: float = STEEP, rate: float = RATE, floor: float = 0.0) -> list[float]:
    """Gradient descent on two directions, of which the shallow one holds most of the loss."""
    return [
        floor + 0.1 * (1 - rate * steep) ** (2 * step) + 2.0 * (1 - rate * shallow) ** (2 * step) for step in range(400)
    ]


def run(
    losses: list[float] | None = None,
    *,
    steep: float = STEEP,
    rate: float = RATE,
    skill: float | None = 0.3,
    optimizers: object = SGD,
    kind: str = "slope",
    rates: list[float] | None = None,
    **facts: Any,
) -> History:
    facts = {"optimizers": optimizers, "run": COMPLETED, "trainer": FULL_BATCH, "curvature": point(kind), **facts}
    history = history_of(noisy(losses or quadratic(), 1e-4), rates=rates or [rate], **facts)
    reading(history, "curvature/high", [steep] * 4, every=100)
    return history if skill is None else reading(history, "skill", [skill] * 40)


def test_sick_a_steep_direction_bounds_the_step_and_a_shallow_one_holds_the_loss() -> None:
    finding = ill_conditioned(run())
    assert finding is not None
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.SUSPECTED)
    assert finding.evidence["largest_rate"] == 0.2
    # Medians of quarters, and a fall that is taken for a straight line: within a fifth of 10 / 0.005.
    assert finding.evidence["ratio"] == pytest.approx(STEEP / SHALLOW, rel=0.2)
    assert "momentum (0.9) or Adam instead of plain SGD" in finding.remedy


@pytest.mark.parametrize(("shallow", "ill"), [(0.02, True), (0.05, False)])
def test_the_spread_must_be_some_hundreds(shallow: float, ill: bool) -> None:
    # Spreads of 500 and 200.
    assert (ill_conditioned(run(quadratic(shallow, floor=0.5))) is not None) is ill


@pytest.mark.parametrize(("steep", "ill"), [(4.1, True), (3.9, False)])
def test_healthy_a_rate_with_room_to_be_raised(steep: float, ill: bool) -> None:
    # The limit at 0.1 is 20: five times these curvatures.
    assert (ill_conditioned(run(steep=steep)) is not None) is ill


def test_healthy_a_run_that_does_well() -> None:
    assert ill_conditioned(run(skill=0.9)) is None


def test_a_run_of_which_nothing_tells_how_it_does_gets_a_note() -> None:
    finding = ill_conditioned(run(skill=None))
    assert finding is not None
    assert finding.severity is Severity.NOTE


@pytest.mark.parametrize("optimizers", [ADAM, [{"class": "SGD", "groups": [{"lr": 0.1, "momentum": 0.9}]}], []])
def test_healthy_an_optimizer_that_bears_it_or_an_unknown_one(optimizers: object) -> None:
    assert ill_conditioned(run(optimizers=optimizers)) is None


@pytest.mark.parametrize("kind", ["saddle", "flat"])
def test_healthy_a_saddle_is_slow_for_another_reason(kind: str) -> None:
    assert ill_conditioned(run(kind=kind)) is None


def test_healthy_a_loss_that_rests_tells_no_pace() -> None:
    assert ill_conditioned(run([1.0] * 400)) is None


@pytest.mark.parametrize(("floor", "ill"), [(2.0, True), (40.0, False)])
def test_healthy_a_loss_that_has_little_left_to_fall(floor: float, ill: bool) -> None:
    # Of 1.3 that are left over a floor of 40 a fifth of the loss does not come.
    assert (ill_conditioned(run(quadratic(floor=floor))) is not None) is ill


def test_healthy_a_schedule_that_takes_the_pace_away() -> None:
    assert ill_conditioned(run(rates=[0.1] * 250 + [0.04] * 150)) is None


@pytest.mark.parametrize(("scale", "ill"), [(300.0, False), (100.0, True)])
def test_healthy_where_the_noise_of_small_batches_holds_it_up(scale: float, ill: bool) -> None:
    # Half of the scale for sure: over four batches of 32, or under.
    history = run(trainer={"batches_per_epoch": 40}, data={"batch_size": 32})
    assert (ill_conditioned(reading(history, "curvature/noise_scale", [scale] * 3, every=100)) is not None) is ill
