from __future__ import annotations

from collections.abc import Iterable

import pytest

from lightning_doctor.findings import Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.rules.stale_validation import stale_validation
from tests.histories import decay, gauss, noisy


def passes(losses: Iterable[float]) -> History:
    """A validation pass every 10 steps."""
    history = History()
    for number, loss in enumerate(losses):
        history.record("val_loss", 10 * number + 9, loss)
    return history


def judge(losses: Iterable[float], **thresholds: float) -> Finding | None:
    return stale_validation(passes(losses), **thresholds)


def test_sick_a_loss_that_rests_above_its_best_is_a_note_from_the_best_pass_on() -> None:
    finding = judge([1.0, 0.7, 0.6, 0.61, 0.62, 0.63, 0.63, 0.64])
    assert finding is not None
    assert (finding.code, finding.severity, finding.onset) == ("LD504", Severity.NOTE, 29)
    assert finding.evidence["waited"] == 5
    assert finding.evidence["best"] == 0.6
    assert "step 29" in finding.remedy


def test_the_error_bar_of_the_figures_stands_beside_the_verdict() -> None:
    history = passes([1.0, 0.7, 0.6, 0.61, 0.62, 0.63, 0.63, 0.64])
    history.facts = {"data": {"val_samples": 100}, "scored": {"validation": 100}}
    history.record("eval_error/validation", 79, 0.02)
    finding = stale_validation(history)
    assert finding is not None
    # 0.02 times the normal quantile of 1 − 0.05 / 8 / 2.
    assert finding.evidence["bar"] == pytest.approx(0.0547, abs=0.0005)
    assert "100 samples tell the loss to ± 0.055 (95%, the best of 8)" in finding.summary
    # By the bootstrap over the rows where there is one: that of one pass widened to eight.
    history.record("eval_bar/validation", 79, 2 * 0.0392)
    finding = stale_validation(history)
    assert finding is not None
    assert finding.evidence["bar"] == pytest.approx(2 * 0.0547, abs=0.001)
    assert "± 0.11 (95%, the best of 8)" in finding.summary


def test_healthy_a_falling_loss_is_well() -> None:
    assert judge([1.0, 0.9, 0.8, 0.7, 0.65, 0.61, 0.58, 0.56]) is None


def test_healthy_a_cosine_schedule_that_improves_late_is_well() -> None:
    assert judge([1.0, 0.6, 0.61, 0.62, 0.63, 0.62, 0.60, 0.55, 0.5, 0.47]) is None


@pytest.mark.parametrize("seed", range(20))
def test_healthy_a_converged_run_that_rests_at_its_floor_is_well_however_long(seed: int) -> None:
    # The best of 400 passes of plain noise lies three standard deviations under them: luck, not a best.
    assert judge([*decay(2.0, 0.5, 3, 20), *noisy([0.5] * 400, 0.02, seed)]) is None


@pytest.mark.parametrize(("waited", "ill"), [(4, False), (5, True)])
def test_patience_is_the_number_of_passes_since_the_best(waited: int, ill: bool) -> None:
    losses = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, *[0.7] * waited]
    assert (judge(losses) is not None) is ill


@pytest.mark.parametrize(("rise", "ill"), [(0.03, False), (0.06, True)])
def test_the_rise_is_judged_against_the_noise_of_a_pass(rise: float, ill: bool) -> None:
    # Noise of 0.01 and 30 passes: 2 standard deviations and √(2 ln 30) = 2.6 more for the luck of the best one.
    losses = [value + 0.01 * wobble for value, wobble in zip([0.5] * 15 + [0.5 + rise] * 15, gauss(30), strict=True)]
    losses[5] = 0.5
    assert (judge([max(loss, 0.5) for loss in losses[:15]] + losses[15:]) is not None) is ill


def test_thresholds_can_be_set() -> None:
    losses = [1.0, 0.7, 0.6, 0.61, 0.62, 0.63, 0.63, 0.64]
    assert judge(losses, patience=6) is None
    assert judge(losses, sigmas=100.0) is None
