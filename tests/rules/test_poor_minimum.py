from __future__ import annotations

from typing import Any

import pytest

from lightning_doctor.curvature import newest_probe, resting_since
from lightning_doctor.findings import Confidence, Severity
from lightning_doctor.history import History
from lightning_doctor.rule import Undecided
from lightning_doctor.rules.poor_minimum import poor_minimum
from tests.histories import COMPLETED, FULL_BATCH, history_of, noisy, point, reading

MINIMUM = point("minimum", low={"value": 1e-3, "residual": 1e-4})
RESTING = noisy([1.3] * 400, 0.01)


def run(
    curvature: dict[str, Any] = MINIMUM, *, skill: float | None = 0.05, losses: list[float] = RESTING, **facts: Any
) -> History:
    history = history_of(losses, **{"run": COMPLETED, "curvature": curvature, **facts})
    return history if skill is None else reading(history, "skill", [skill] * 40)


def test_sick_a_certified_minimum_where_next_to_nothing_is_learned() -> None:
    finding = poor_minimum(run())
    assert finding is not None
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.SUSPECTED)
    assert "5% of what there was to learn" in finding.summary
    assert "no curvature below −0.01 of the spectral range, for sure but for 0.001" in finding.summary
    assert "another seed" in finding.remedy


@pytest.mark.parametrize(("kind", "ill"), [("linear", False), ("other", True)])
def test_a_linear_model_has_no_better_minimum(kind: str, ill: bool) -> None:
    layers = [{"layer": "body", "class": "Linear", "kind": "linear"}, {"layer": "act", "class": "GELU", "kind": kind}]
    assert (poor_minimum(run(activations=layers)) is not None) is ill


@pytest.mark.parametrize("skill", [0.9, 0.6, None])
def test_healthy_a_run_that_does_well_or_of_which_nothing_tells_how_it_does(skill: float | None) -> None:
    assert poor_minimum(run(skill=skill)) is None


@pytest.mark.parametrize(("skill", "severity"), [(0.19, Severity.WARNING), (0.21, Severity.NOTE)])
def test_a_run_that_learned_something_may_be_held_up_by_noisy_targets(skill: float, severity: Severity) -> None:
    finding = poor_minimum(run(skill=skill))
    assert finding is not None
    assert finding.severity is severity


def test_healthy_a_run_that_is_not_over_and_young() -> None:
    assert poor_minimum(run(run={}, trainer={"planned_steps": 1601})) is None
    assert poor_minimum(run(run={}, trainer={"planned_steps": 1600})) is not None


@pytest.mark.parametrize(
    ("curvature", "residual", "skill", "known"),
    # A quarter of a hundredth of the range is 0.005.
    [(-0.006, 1e-5, 0.05, False), (-0.004, 1e-5, 0.05, True), (-0.006, 1e-3, 0.05, True), (-0.006, 1e-5, 0.3, True)],
)
def test_where_nothing_is_learned_a_direction_that_surely_curves_down_may_be_the_way_out(
    curvature: float, residual: float, skill: float, known: bool
) -> None:
    history = run({**MINIMUM, "low": {"value": curvature, "residual": residual}}, skill=skill)
    if known:
        assert poor_minimum(history) is not None
        return
    with pytest.raises(Undecided, match=r"curves down by 0\.006"):
        poor_minimum(history)


@pytest.mark.parametrize("kind", ["slope", "saddle", "flat", "inconclusive"])
def test_healthy_a_point_of_another_kind(kind: str) -> None:
    assert poor_minimum(run(point(kind))) is None


@pytest.mark.parametrize(("failure", "ill"), [(0.049, True), (0.051, False), (None, False)])
def test_a_minimum_must_be_certified(failure: float | None, ill: bool) -> None:
    assert (poor_minimum(run({**MINIMUM, "failure": failure})) is not None) is ill


def test_healthy_a_minimum_with_a_slope_or_that_the_run_has_left() -> None:
    assert poor_minimum(run({**MINIMUM, "gradient": {"near_zero": False}})) is None
    left = noisy([*[1.8] * 110, *[1.3] * 290], 0.01)
    assert poor_minimum(run({**MINIMUM, "step": 100}, losses=left)) is None
    assert poor_minimum(run({**MINIMUM, "step": 100})) is not None


@pytest.mark.parametrize(("error", "ill"), [(0.064, True), (0.066, False)])
def test_a_slope_that_noise_may_hide_is_no_minimum(error: float, ill: bool) -> None:
    # A twentieth of 1.3.
    gradient = {**MINIMUM["gradient"], "standard_error": error}
    assert (poor_minimum(run({**MINIMUM, "gradient": gradient})) is not None) is ill


@pytest.mark.parametrize(
    ("samples", "facts", "ill"), [(64, {}, True), (63, {}, False), (63, {"trainer": FULL_BATCH}, True)]
)
def test_a_minimum_of_a_few_samples_is_none_of_the_loss_unless_they_are_all(
    samples: int, facts: dict[str, Any], ill: bool
) -> None:
    assert (poor_minimum(run({**MINIMUM, "samples": samples}, **facts)) is not None) is ill


def test_a_run_that_is_worse_than_a_constant_has_learned_nothing() -> None:
    finding = poor_minimum(run(skill=-1.0))
    assert finding is not None
    assert "0% of what there was to learn" in finding.summary


@pytest.mark.parametrize(("skill", "since"), [(-0.5, 0), (0.1, None)])
def test_where_nothing_was_learned_on_the_way_the_first_weights_decided(skill: float, since: int | None) -> None:
    finding = poor_minimum(run(skill=skill))
    assert finding is not None
    assert finding.onset == (resting_since(run(), newest_probe(run())) if since is None else since)
