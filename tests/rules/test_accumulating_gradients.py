from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from lightning_doctor import Doctor
from lightning_doctor.findings import Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.rules.accumulating_gradients import accumulating_gradients
from tests.histories import history_of
from tests.runs import DigitsNet, fit

BY_HAND = {"automatic_optimization": False}


def run(kept: Sequence[float], skill: float = 0.1, **trainer: Any) -> History:
    history = history_of([2.3] * 40, trainer=trainer)
    for step, value in enumerate(kept):
        history.record("gradients_kept", 1 + 10 * step, value)
        history.record("skill", 1 + 10 * step, skill)
    return history


def judge(*args: Any, **kwargs: Any) -> Finding | None:
    return accumulating_gradients(run(*args, **kwargs))


def test_sick_gradients_that_are_there_before_every_backward_pass_are_an_error() -> None:
    finding = judge([1, 1, 1, 1], **BY_HAND)
    assert finding is not None
    assert (finding.code, finding.severity, finding.confidence) == ("LD210", Severity.ERROR, "confirmed")
    assert finding.onset == 1
    assert (finding.evidence["kept"], finding.evidence["examined"]) == (4, 4)
    assert "before each `self.manual_backward(loss)`" in finding.remedy


def test_sick_two_looks_are_enough() -> None:
    assert judge([1, 1], **BY_HAND) is not None


def test_sick_in_automatic_optimization_the_overridden_hook_is_named() -> None:
    finding = judge([1, 1, 1], automatic_optimization=True)
    assert finding is not None
    assert "optimizer_zero_grad" in finding.remedy


def test_sick_a_run_that_does_well_all_the_same_is_told_in_a_note() -> None:
    finding = judge([1, 1, 1], skill=0.95, **BY_HAND)
    assert finding is not None
    assert finding.severity is Severity.NOTE


def test_healthy_gradients_that_begin_at_zero_are_silent() -> None:
    assert judge([0, 0, 0, 0]) is None


@pytest.mark.parametrize(("kept", "found"), [([1] * 9 + [0], True), ([1] * 8 + [0, 0], False)])
def test_one_look_in_ten_may_have_begun_at_zero(kept: list[float], found: bool) -> None:
    assert (judge(kept) is not None) is found


def test_healthy_a_single_look_is_not_enough() -> None:
    assert judge([1, 0]) is None
    assert accumulating_gradients.lacks(run([1])) == "gradients_kept has 1 of the 2 values needed"


class ByHand(DigitsNet):
    """Steps its optimizer itself after every ``accumulated`` batches, and may forget to zero the gradients."""

    def __init__(self, *, zeroes: bool, accumulated: int = 1) -> None:
        super().__init__(lr=0.01)
        self.automatic_optimization = False
        self.zeroes, self.accumulated = zeroes, accumulated

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer: Any = self.optimizers()
        images, labels = batch
        loss = nn.functional.cross_entropy(self.net(images), labels)
        if self.zeroes and batch_idx % self.accumulated == 0:
            optimizer.zero_grad()
        self.manual_backward(loss)
        if (batch_idx + 1) % self.accumulated == 0:
            optimizer.step()
        return loss


class Never(DigitsNet):
    def optimizer_zero_grad(self, *args: Any, **kwargs: Any) -> None:
        """Forgets to."""


@pytest.mark.parametrize("module", [ByHand(zeroes=False), Never()], ids=["by hand", "overridden hook"])
def test_sick_a_real_run_without_zero_grad_is_found(tmp_path: Path, module: DigitsNet) -> None:
    doctor = Doctor(strict=True, select=["LD210"])
    fit(tmp_path, module, doctor)
    assert [finding.code for finding in doctor.report.findings] == ["LD210"]


@pytest.mark.parametrize(
    ("module", "options"),
    [
        (ByHand(zeroes=True), {}),
        (ByHand(zeroes=True, accumulated=2), {}),
        (DigitsNet(), {"accumulate_grad_batches": 2}),
    ],
    ids=["by hand", "by hand over two batches", "accumulated by the Trainer"],
)
def test_healthy_real_runs_that_zero_or_accumulate_are_well(
    tmp_path: Path, module: DigitsNet, options: dict[str, Any]
) -> None:
    doctor = Doctor(strict=True, select=["LD210"])
    fit(tmp_path, module, doctor, **options)
    assert (doctor.report.findings, doctor.report.healthy) == ([], ["LD210"])
