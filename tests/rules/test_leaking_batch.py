from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import seed_everything
from torch import nn

from lightning_doctor import Doctor
from lightning_doctor.history import History
from lightning_doctor.rules.leaking_batch import leaking_batch
from tests.histories import LOGITS, headed, reading
from tests.runs import DigitsNet, digits, trainer


def run_of(changed: float, skill: float | None = 0.1, layers: dict[str, int] | None = None) -> History:
    return headed(
        LOGITS,
        skill=skill,
        baseline=None,
        leak={"tested": True, "changed": changed},
        model={"layers": layers or {"Linear": 2}, "layer_names": ["body", "head"]},
    )


def test_sick_predictions_that_hang_on_other_samples_are_a_warning_at_once() -> None:
    finding = leaking_batch(run_of(1.0))
    assert finding is not None
    assert (finding.code, finding.severity, finding.confidence, finding.onset) == ("LD608", "warning", "confirmed", 0)
    assert "100% of the samples" in finding.summary
    assert "`view` or `reshape`" in finding.remedy


def test_healthy_samples_are_predicted_apart() -> None:
    assert leaking_batch(run_of(0.0)) is None


@pytest.mark.parametrize(("changed", "ill"), [(0.09, False), (0.11, True)])
def test_a_share_of_the_samples_must_depend_on_others(changed: float, ill: bool) -> None:
    assert (leaking_batch(run_of(changed)) is not None) is ill


@pytest.mark.parametrize(("skill", "severity"), [(0.9, "note"), (0.7, "warning"), (None, "warning")])
def test_healthy_model_that_compares_samples_and_does_well_is_noted(skill: float | None, severity: str) -> None:
    finding = leaking_batch(run_of(1.0, skill))
    assert finding is not None
    assert finding.severity == severity


@pytest.mark.parametrize(("accuracy", "severity"), [(0.2, "warning"), (0.5, "note")])
def test_sick_predictions_that_are_right_in_training_batches_only(accuracy: float, severity: str) -> None:
    history = run_of(1.0, skill=0.9)
    history.facts["validation"] = {"metric": "val_acc", "mode": "max"}
    history.facts["labels"] = {"counts": {str(label): 100 for label in range(10)}, "samples": 1000}
    reading(history, "val_metric", [accuracy] * 5)
    finding = leaking_batch(history)
    assert finding is not None
    assert finding.severity == severity


def test_the_remedy_names_the_layers_of_this_model() -> None:
    finding = leaking_batch(run_of(1.0, layers={"LSTM": 1, "Linear": 1}))
    assert finding is not None
    assert "LSTM" in finding.remedy
    assert "batch_first=True" in finding.remedy
    finding = leaking_batch(run_of(1.0, layers={"Softmax": 1, "Linear": 1}))
    assert finding is not None
    assert "dim=-1" in finding.remedy
    assert "batch_first" not in finding.remedy


def test_a_model_that_was_not_tried_is_not_judged() -> None:
    history = run_of(1.0)
    del history.facts["leak"]
    history.absent["leak"] = "the model cannot be copied"
    assert leaking_batch.lacks(history) == "the model cannot be copied"


class Rows(nn.Module):
    """Reads a digit row by row."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(8, 16, batch_first=batch_first)
        self.head = nn.Linear(16, 10)

    def forward(self, images: Any) -> Any:
        return self.head(self.recurrent(images.reshape(-1, 8, 8))[0][:, -1])


@pytest.mark.parametrize("batch_first", [True, False])
def test_on_a_real_run_it_is_told_after_the_first_step(tmp_path: Path, batch_first: bool) -> None:
    doctor, net = Doctor(strict=True), DigitsNet()
    seed_everything(0, verbose=False)
    net.net = nn.Sequential(Rows(batch_first))
    trainer(tmp_path, doctor, max_epochs=1).fit(net, digits())
    assert doctor.report is not None
    steps = [finding.step for finding in doctor.report.findings if finding.code == "LD608"]
    assert steps == ([] if batch_first else [1])


@pytest.mark.parametrize(("validation", "severity"), [(3.5, "warning"), (0.5, "note")])
def test_what_is_right_in_its_batches_is_worth_what_validation_says(validation: float, severity: str) -> None:
    history = headed(LOGITS, skill=0.95, baseline=2.3, leak={"tested": True, "changed": 1.0})
    for step in range(5):
        history.record("val_loss", 40 * step, validation)
    finding = leaking_batch(history)
    assert finding is not None
    assert finding.severity == severity
