from __future__ import annotations

from typing import Any

import pytest

from lightning_doctor.findings import Confidence, Severity
from lightning_doctor.history import History
from lightning_doctor.rules.saddle_point import saddle_point
from tests.histories import ADAM, COMPLETED, FULL_BATCH, SADDLE, SGD, decay, history_of, noisy, point, reading

RESTING = noisy([1.3] * 400, 0.01)


def run(
    curvature: dict[str, Any] = SADDLE, *, losses: list[float] = RESTING, skill: float | None = 0.05, **facts: Any
) -> History:
    history = history_of(losses, rates=[0.1], **{"optimizers": SGD, "run": COMPLETED, "curvature": curvature, **facts})
    return history if skill is None else reading(history, "skill", [skill] * 40)


def escaping(**details: float) -> dict[str, Any]:
    return {**SADDLE, "escape": {**SADDLE["escape"], **details}}


def test_sick_a_run_that_rests_at_a_saddle() -> None:
    finding = saddle_point(run())
    assert finding is not None
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.CONFIRMED)
    assert "down by 0.12 (9%) at distance 0.4" in finding.summary
    assert finding.evidence["lowest_curvature"] == -2.0
    assert "use momentum (0.9)" in finding.remedy
    assert "go 0.4 along" in finding.remedy


def test_sick_without_a_skill_a_loss_near_its_start_tells() -> None:
    finding = saddle_point(run(skill=None))
    assert finding is not None
    assert finding.severity is Severity.WARNING


def test_a_run_that_is_neither_well_nor_bad_gets_a_note() -> None:
    finding = saddle_point(run(skill=0.65))
    assert finding is not None
    assert (finding.severity, finding.confidence) == (Severity.NOTE, Confidence.SUSPECTED)


@pytest.mark.parametrize(
    ("optimizers", "facts", "words"),
    [
        (SGD, {"trainer": FULL_BATCH}, "train on batches, whose noise"),
        (SGD, {"data": {"batch_size": 64}}, "batches of 16 instead of 64"),
        ([{"class": "SGD", "groups": [{"lr": 0.1, "momentum": 0.9}]}], {}, "use Adam instead of SGD"),
        (ADAM, {}, "raise lr from 0.1 to 0.3"),
    ],
)
def test_the_remedy_fits_the_optimizer(optimizers: object, facts: dict[str, Any], words: str) -> None:
    finding = saddle_point(run(optimizers=optimizers, **facts))
    assert finding is not None
    assert words in finding.remedy


def test_healthy_a_run_that_does_well() -> None:
    assert saddle_point(run(skill=0.9)) is None


def test_healthy_a_run_that_is_leaving_it() -> None:
    assert saddle_point(run(losses=decay(1.3, 0.2, 200, 400), run={})) is None


@pytest.mark.parametrize("kind", ["slope", "minimum", "flat", "inconclusive", ""])
def test_healthy_a_point_of_another_kind(kind: str) -> None:
    assert saddle_point(run({**SADDLE, "kind": kind})) is None


def test_healthy_a_saddle_whose_way_down_nobody_measured_or_that_has_a_slope() -> None:
    assert saddle_point(run(point("saddle"))) is None
    assert saddle_point(run({**SADDLE, "gradient": {**SADDLE["gradient"], "near_zero": False}})) is None


def test_healthy_a_saddle_that_the_run_has_left() -> None:
    losses = noisy([*[1.3] * 210, *[0.9] * 190], 0.01)
    assert saddle_point(run({**SADDLE, "step": 205}, losses=losses)) is None
    assert saddle_point(run({**SADDLE, "step": 390}, losses=losses)) is not None


@pytest.mark.parametrize(("error", "ill"), [(0.059, True), (0.061, False)])
def test_the_way_down_must_be_sure(error: float, ill: bool) -> None:
    assert (saddle_point(run(escaping(standard_error=error))) is not None) is ill


def test_a_share_that_is_missing_follows_from_the_fall() -> None:
    escape = {"distance": 0.4, "fall": 0.13, "standard_error": 0.01}
    finding = saddle_point(run({**SADDLE, "escape": escape}))
    assert finding is not None
    assert finding.evidence["share"] == pytest.approx(0.1)


def test_the_onset_is_the_begin_of_the_plateau() -> None:
    finding = saddle_point(run(losses=[*decay(4.0, 1.3, 5, 40), *noisy([1.3] * 360, 0.01)]))
    assert finding is not None
    # 2.7·e^(−t/5) is a tenth of 1.3 at t = 15.2.
    assert finding.onset == 15


ENDED, RESTARTED = [*[0.1] * 30, *[0.0] * 370], [*[0.1] * 190, *[0.0] * 10, *[0.1] * 200]


@pytest.mark.parametrize(("rates", "ill"), [(ENDED, False), (RESTARTED, True), ([0.0] * 400, True)])
def test_healthy_a_saddle_where_a_schedule_had_long_left_no_steps(rates: list[float], ill: bool) -> None:
    history = history_of(RESTING, rates=rates, optimizers=SGD, run=COMPLETED, curvature={**SADDLE, "step": 395})
    assert (saddle_point(reading(history, "skill", [0.05] * 40)) is not None) is ill
