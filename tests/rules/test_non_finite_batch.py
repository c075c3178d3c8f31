from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything
from torch.utils.data import DataLoader, TensorDataset

from lightning_doctor import Doctor
from lightning_doctor.history import History
from lightning_doctor.rules.non_finite_batch import non_finite_batch
from tests.histories import history_of, reading
from tests.runs import IMAGES, LABELS, DigitsNet, trainer

NAN = math.nan


def run_of(losses: list[float], counts: list[float], first: int | None) -> History:
    history = reading(history_of(losses), "batch_non_finite", counts, every=1)
    if first is not None:
        history.happened("non_finite_batch", first, key="[0]", batch_idx=first % 10, epoch=first // 10)
    return history


def test_sick_batch_that_ruins_the_loss_is_an_error_with_its_place() -> None:
    history = run_of([0.9] * 12 + [NAN] * 8, [0.0] * 12 + [1.0] + [0.0] * 7, first=12)
    finding = non_finite_batch(history)
    assert finding is not None
    assert (finding.code, finding.severity, finding.confidence, finding.onset) == ("LD603", "error", "confirmed", 12)
    assert "[0] of batch 2 of epoch 1" in finding.summary
    assert "[0]" in finding.remedy


def test_a_loss_that_is_finite_again_is_a_warning() -> None:
    # As where a scaler skips the step.
    history = run_of([0.9] * 12 + [NAN] + [0.8] * 7, [0.0] * 12 + [1.0] + [0.0] * 7, first=12)
    finding = non_finite_batch(history)
    assert finding is not None
    assert finding.severity == "warning"


def test_a_gradient_that_is_lost_under_a_finite_loss_is_a_warning() -> None:
    history = run_of([0.9] * 20, [0.0] * 12 + [1.0] + [0.0] * 7, first=12)
    reading(history, "grad_non_finite", [0.0] * 12 + [4.0] * 8, every=1)
    finding = non_finite_batch(history)
    assert finding is not None
    assert finding.severity == "warning"


def test_healthy_loss_that_leaves_the_values_out_is_noted_where_they_are_rare() -> None:
    finding = non_finite_batch(run_of([0.9] * 20, [0.0] * 12 + [1.0] + [0.0] * 7, first=12))
    assert finding is not None
    assert finding.severity == "note"


@pytest.mark.parametrize(("share", "noted"), [(0.85, True), (0.95, False)])
def test_healthy_padding_in_nearly_every_batch_is_meant(share: float, noted: bool) -> None:
    with_values = round(40 * share)
    history = run_of([0.9] * 40, [5.0] * with_values + [0.0] * (40 - with_values), first=0)
    assert (non_finite_batch(history) is not None) is noted


def test_healthy_batches_have_none() -> None:
    assert non_finite_batch(run_of([0.9] * 20, [0.0] * 20, first=None)) is None


def test_a_loss_that_was_lost_before_is_not_blamed_on_a_later_batch() -> None:
    losses = [0.9, NAN, *[0.8] * 18]
    finding = non_finite_batch(run_of(losses, [0.0] * 12 + [1.0] + [0.0] * 7, first=12))
    assert finding is not None
    assert finding.severity == "note"


@pytest.mark.parametrize(("value", "severity"), [(NAN, "error"), (math.inf, "error"), (0.5, None)])
def test_on_a_real_run_the_batch_is_named_before_the_loss(tmp_path: Path, value: float, severity: Any) -> None:
    rows = IMAGES[:320].clone()
    rows[100, 5] = value
    doctor = Doctor(strict=True)
    seed_everything(0, verbose=False)
    data = DataLoader(TensorDataset(rows, LABELS[:320]), 32)
    trainer(tmp_path, doctor, max_epochs=1).fit(DigitsNet(), data)
    assert doctor.report is not None
    found = {finding.name: finding for finding in doctor.report.findings}
    if severity is None:
        assert not {"non_finite_batch", "non_finite_loss"} & set(found)
        return
    # Row 100 is in the fourth batch of 32.
    assert (found["non_finite_batch"].severity, found["non_finite_batch"].onset) == (severity, 3)
    assert found["non_finite_loss"].explained_by == "LD603"
    assert torch.isfinite(IMAGES).all()
