from __future__ import annotations

from typing import Any

import pytest

from lightning_doctor.findings import Confidence, Severity
from lightning_doctor.history import History
from lightning_doctor.rules.flat_region import flat_region
from tests.histories import COMPLETED, decay, history_of, noisy, point, reading

FLAT = point("flat", low={"value": 0.0, "residual": 0.0}, high={"value": 0.0, "residual": 0.0})
RESTING = noisy([2.3] * 400, 0.01)
LAYERS = [
    {"layer": "one", "class": "ReLU", "kind": "relu"},
    {"layer": "two", "class": "Sigmoid", "kind": "sigmoid"},
]


def run(
    curvature: dict[str, Any] = FLAT, *, losses: list[float] = RESTING, skill: float | None = 0.0, **facts: Any
) -> History:
    history = history_of(losses, **{"run": COMPLETED, "curvature": curvature, "activations": LAYERS, **facts})
    return history if skill is None else reading(history, "skill", [skill] * 40)


def test_sick_nothing_changes_the_loss_any_more() -> None:
    finding = flat_region(run())
    assert finding is not None
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.CONFIRMED)
    assert "at finite distances too" in finding.summary
    assert ".detach()" in finding.remedy


def test_sick_the_layers_that_are_out_of_use_are_named() -> None:
    dead = flat_region(reading(run(), "dead_share/one", [0.2, 1.0, 1.0]))
    saturated = flat_region(reading(run(), "saturated_share/two", [0.9] * 3))
    assert dead is not None
    assert saturated is not None
    assert "most units of one are dead" in dead.summary
    assert "LeakyReLU in place of one" in dead.remedy
    assert "most units of two are saturated" in saturated.summary
    assert "ReLU in place of two" in saturated.remedy


@pytest.mark.parametrize(("share", "named"), [(0.51, True), (0.49, False)])
def test_only_a_layer_most_of_whose_units_are_dead_is_named(share: float, named: bool) -> None:
    finding = flat_region(reading(run(), "dead_share/one", [share] * 3))
    assert finding is not None
    assert ("dead" in finding.evidence) is named


def test_healthy_a_network_that_has_converged() -> None:
    assert flat_region(run(skill=0.99)) is None
    assert flat_region(run(losses=decay(2.3, 0.001, 30, 400), skill=None)) is None


@pytest.mark.parametrize("kind", ["slope", "saddle", "minimum", "inconclusive"])
def test_healthy_a_point_of_another_kind(kind: str) -> None:
    assert flat_region(run(point(kind))) is None


def test_healthy_a_gradient_that_is_not_near_zero() -> None:
    assert flat_region(run({**FLAT, "gradient": {"near_zero": False}})) is None
