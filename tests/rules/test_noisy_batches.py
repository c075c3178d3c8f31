from __future__ import annotations

from typing import Any

import pytest

from lightning_doctor.findings import Severity
from lightning_doctor.history import History
from lightning_doctor.rules.noisy_batches import noisy_batches
from tests.histories import COMPLETED, FULL_BATCH, SGD, decay, history_of, noisy, reading, scanned

RESTING = noisy([1.5] * 400, 0.4)


def run(
    losses: list[float] = RESTING,
    *,
    change: float | None = 0.002,
    ratio: float | None = None,
    skill: float | None = 0.1,
    scale: float | None = 400.0,
    **facts: Any,
) -> History:
    facts = {
        "optimizers": SGD,
        "run": COMPLETED,
        "trainer": {"batches_per_epoch": 400},
        "data": {"batch_size": 2, "train_samples": 800},
        **facts,
    }
    history = history_of(losses, rates=[0.1], **facts)
    reading(history, "curvature/gradient_noise", [8.0] * 4, every=100)
    reading(history, "curvature/least_noise_scale", [200.0] * 4, every=100)
    if scale is not None:
        reading(history, "curvature/noise_scale", [scale] * 4, every=100)
    if change is not None:
        scanned(history, noisy([change] * 40, 0.001))
    if ratio is not None:
        reading(history, "curvature/step_ratio", [ratio] * 8, every=40)
    return history if skill is None else reading(history, "skill", [skill] * 40)


def test_sick_tiny_batches_whose_steps_are_of_no_use_to_other_samples() -> None:
    finding = noisy_batches(run())
    assert finding is not None
    assert finding.severity is Severity.WARNING
    assert finding.evidence["recommended"] == 64
    assert "batches of 2 are mostly noise" in finding.summary
    assert "on average" in finding.summary
    assert "use batches of 64 (`batch_size`, or `Trainer(accumulate_grad_batches=32)`)" in finding.remedy


@pytest.mark.parametrize(("change", "severity"), [(0.002, Severity.WARNING), (0.0, Severity.NOTE)])
def test_steps_that_do_not_clearly_raise_the_loss_of_others_make_it_a_note(change: float, severity: Severity) -> None:
    finding = noisy_batches(run(change=change))
    assert finding is not None
    assert finding.severity is severity


@pytest.mark.parametrize(
    ("ratio", "severity"), [(1.1, Severity.WARNING), (-0.1, Severity.WARNING), (0.9, Severity.NOTE)]
)
def test_without_scans_the_curvature_along_the_steps_tells(ratio: float, severity: Severity) -> None:
    finding = noisy_batches(run(change=None, ratio=ratio))
    assert finding is not None
    assert finding.severity is severity


def test_healthy_a_run_that_does_well_or_improves() -> None:
    assert noisy_batches(run(skill=0.9)) is None
    assert noisy_batches(run(noisy(decay(1.5, 0.3, 200, 400), 0.01))) is None


def test_healthy_full_batches_and_unknown_ones() -> None:
    assert noisy_batches(run(trainer=FULL_BATCH, data={"batch_size": 2, "train_samples": 2})) is None
    assert noisy_batches(run(data={})) is None


@pytest.mark.parametrize(("scale", "ill"), [(41.0, True), (39.0, False)])
def test_the_noise_scale_must_surely_be_ten_batches(scale: float, ill: bool) -> None:
    assert (noisy_batches(run(scale=scale)) is not None) is ill


def test_where_noise_hides_the_gradient_the_least_that_its_scale_may_be_counts() -> None:
    finding = noisy_batches(run(scale=None))
    assert finding is not None
    assert finding.evidence["least_noise_scale"] == 200.0


def test_a_batch_is_not_made_larger_than_the_training_set() -> None:
    finding = noisy_batches(run(data={"batch_size": 2, "train_samples": 50}))
    assert finding is not None
    assert finding.evidence["recommended"] == 50
    assert "accumulate_grad_batches=25" in finding.remedy


def test_nothing_is_said_in_the_first_quarter() -> None:
    assert noisy_batches(run(run={}, trainer={"planned_steps": 1601})) is None
    assert noisy_batches(run(run={}, trainer={"planned_steps": 1600})) is not None
