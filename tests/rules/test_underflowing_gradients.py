from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from lightning_doctor import Doctor
from lightning_doctor.findings import Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.rules.underflowing_gradients import underflowing_gradients
from tests.histories import history_of, noisy, reading
from tests.runs import DigitsNet, fit

FLAT = noisy([2.3] * 200, 0.02)
# A hundred by a hundred weights: the norm of a gradient is a hundred times the size of its elements.
STACK = [{"layer": name, "class": "Linear", "kind": "linear", "units": 100, "features": 100} for name in ("a", "b")]


def run(
    shares: Sequence[float] = (0.1, 0.1, 0.1),
    size: float = 1e-7,
    *,
    scales: Sequence[float] = (),
    precision: str = "16-true",
    skill: float = 0.0,
    layers: Sequence[str] = ("a", "b"),
    dead: float = 0.0,
) -> History:
    history = history_of(FLAT, activations=STACK, trainer={"precision": precision})
    reading(history, "skill", [skill] * 20)
    reading(history, "zero_gradient_share", shares, 60)
    reading(history, "loss_scale", scales, 40)
    reading(history, "scaler_skips", [1.0] * len(scales), 40)
    reading(history, "dead_share", [dead], 60)
    for name in ("a", "b"):
        reading(history, f"zero_gradient_share/{name}", shares if name in layers else [0.0] * len(shares), 60)
        reading(history, f"grad_norm/{name}", [100 * size] * 3, 60)
    return history


def judge(*args: Any, **kwargs: Any) -> Finding | None:
    return underflowing_gradients(run(*args, **kwargs))


def test_sick_most_of_a_tiny_gradient_is_zero_in_fp16() -> None:
    finding = judge([0.5, 0.6, 0.7])
    assert finding is not None
    assert (finding.code, finding.severity, finding.confidence) == ("LD211", Severity.WARNING, "confirmed")
    assert finding.evidence["zeros"] == pytest.approx(0.65)
    assert finding.evidence["size"] == pytest.approx(1e-7)
    assert "bf16-mixed" in finding.remedy


def test_healthy_in_a_run_that_does_well_it_is_a_note() -> None:
    finding = judge([0.5, 0.6, 0.7], skill=0.9)
    assert finding is not None
    assert finding.severity is Severity.NOTE


def test_healthy_zeros_among_gradients_of_a_usual_size_are_sparse() -> None:
    assert judge([0.9, 0.9, 0.9], size=1e-3) is None


@pytest.mark.parametrize(("size", "found"), [(7e-7, False), (5e-7, True)])
def test_elements_must_be_as_small_as_numbers_get(size: float, found: bool) -> None:
    # Ten times 2^-24 is 6e-7.
    assert (judge([0.9, 0.9, 0.9], size=size) is not None) is found


def test_a_scale_lifts_them() -> None:
    assert judge([0.9, 0.9, 0.9], scales=[65536.0] * 4) is None
    assert judge([0.9, 0.9, 0.9], scales=[2.0] * 4) is not None


@pytest.mark.parametrize(("share", "found"), [(0.49, False), (0.51, True)])
def test_half_of_the_elements_must_be_zero(share: float, found: bool) -> None:
    assert (judge([share] * 3) is not None) is found


def test_one_layer_of_two_is_enough_and_none_is_not() -> None:
    assert judge([0.9] * 3, layers=("a",)) is not None
    assert judge([0.9] * 3, layers=()) is None


def test_a_gradient_that_dead_units_cut_off_is_their_illness() -> None:
    assert judge([1.0] * 3, size=0.0, dead=1.0) is None


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_healthy_with_the_range_of_fp32_nothing_underflows(precision: str) -> None:
    assert judge([0.9] * 3, precision=precision) is None


def test_sick_a_scale_that_collapsed() -> None:
    finding = judge(scales=[65536.0, 2048.0, 16.0, 0.25, 0.004], precision="16-mixed")
    assert finding is not None
    assert (finding.severity, finding.onset) == (Severity.WARNING, 120)
    assert finding.evidence["skipped"] == 5
    assert "from 6.55e+04 to 0.004" in finding.summary


@pytest.mark.parametrize(("last", "found"), [(1.0, False), (0.5, True)])
def test_a_scale_under_one_has_collapsed(last: float, found: bool) -> None:
    assert (judge(scales=[65536.0, 256.0, last], precision="16-mixed") is not None) is found


def test_healthy_a_scale_that_finds_its_size_is_silent() -> None:
    assert judge(scales=[65536.0, 32768.0, 32768.0, 65536.0], precision="16-mixed") is None


class Scaled(DigitsNet):
    """Multiplies its loss, and divides its rate by as much: without rounding the same run."""

    def __init__(self, factor: float) -> None:
        super().__init__(lr=0.1 / factor)
        self.factor = factor

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        images, labels = batch
        return self.factor * nn.functional.cross_entropy(self.net(images.half()).float(), labels)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Is not what this is about."""


@pytest.mark.parametrize(("factor", "found"), [(1e-5, ["LD211"]), (1.0, [])])
def test_a_real_run_in_fp16_is_ill_with_a_tiny_loss_and_well_with_a_usual_one(
    tmp_path: Path, factor: float, found: list[str]
) -> None:
    doctor = Doctor(strict=True, select=["LD211"])
    fit(tmp_path, Scaled(factor), doctor, precision="16-true", validate=False)
    assert [finding.code for finding in doctor.report.findings] == found
    assert doctor.report.unassessed == {}
