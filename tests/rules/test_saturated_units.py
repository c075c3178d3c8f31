from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lightning_doctor import Doctor
from lightning_doctor.findings import Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.rules.saturated_units import saturated_units
from tests.histories import COMPLETED, SGD, history_of, noisy, reading
from tests.runs import DigitsNet, fit

FLAT = noisy([2.3] * 400, 0.02)
STACK = [
    {"layer": "one", "class": "Linear", "kind": "linear", "units": 100, "last": False},
    {"layer": "hidden", "class": "Tanh", "kind": "tanh", "units": 100, "last": False},
    {"layer": "two", "class": "Linear", "kind": "linear", "units": 1, "last": False},
    {"layer": "out", "class": "Sigmoid", "kind": "sigmoid", "units": 1, "last": True},
]


def run(
    hidden: Sequence[float] = (0.0, 0.0, 0.0),
    out: Sequence[float] = (0.0, 0.0, 0.0),
    *,
    skill: float = 0.0,
    weight_norm: float = 10.0,
    **facts: Any,
) -> History:
    history = history_of(FLAT, activations=STACK, optimizers=SGD, **facts)
    reading(history, "skill", [skill] * 40)
    for name, shares in (("hidden", hidden), ("out", out)):
        reading(history, f"saturated_share/{name}", shares, 130)
        reading(history, f"preactivation_std/{name}", [12.0] * len(shares), 130)
    return reading(history, "weight_norm/one", [weight_norm] * 3, 130)


def judge(*args: Any, **kwargs: Any) -> Finding | None:
    return saturated_units(run(*args, **kwargs))


def test_sick_saturated_from_the_start_by_inputs_that_are_too_large() -> None:
    finding = judge([0.95, 0.96, 0.97, 0.97])
    assert finding is not None
    assert (finding.code, finding.severity, finding.confidence) == ("LD205", Severity.WARNING, "confirmed")
    assert finding.onset == 0
    assert finding.evidence["layer"] == "hidden"
    assert finding.evidence["saturated"] == pytest.approx(0.97)
    assert "standard deviation of 12" in finding.summary
    assert finding.remedy.startswith("standardise the inputs")


def test_sick_saturated_by_weights_that_are_too_large() -> None:
    # A hundred units whose rows have length 40 each.
    finding = judge([0.95, 0.96, 0.97, 0.97], weight_norm=400.0)
    assert finding is not None
    assert finding.remedy.startswith("initialise one with Xavier's weights: its own enlarge what goes in 40-fold")


def test_sick_saturated_on_the_way_is_only_suspected_and_blames_the_rate() -> None:
    finding = judge([0.1, 0.7, 0.9, 0.9])
    assert finding is not None
    assert (finding.confidence, finding.onset) == ("suspected", 130)
    assert "lower lr from 0.1 to 0.01" in finding.remedy


def test_sick_a_squashed_output_far_from_its_targets_under_a_squared_error() -> None:
    finding = judge(out=[0.2, 1, 1, 1], loss_head={"loss": "mse"})
    assert finding is not None
    assert finding.evidence["layer"] == "out"
    assert "take Sigmoid out off the output" in finding.remedy


def test_healthy_an_output_layer_that_is_sure_is_silent() -> None:
    assert judge(out=[0.0, 0.6, 1, 1], skill=0.95) is None
    # Cross-entropy gives back what the saturation takes from the gradient.
    assert judge(out=[0.0, 0.6, 1, 1], loss_head={"loss": "bce"}) is None


def test_healthy_a_run_that_does_well_with_hard_switches_is_silent() -> None:
    assert judge([0.9, 0.95, 0.97, 0.97], skill=0.9, run=COMPLETED) is None


def test_healthy_before_harm_shows_it_is_a_note() -> None:
    finding = judge([0.95, 0.96, 0.97], trainer={"planned_steps": 4000})
    assert finding is not None
    assert finding.severity is Severity.NOTE


@pytest.mark.parametrize(("share", "found"), [(0.49, False), (0.51, True)])
def test_half_of_the_outputs_must_be_saturated(share: float, found: bool) -> None:
    assert (judge([0.1, share, share, share]) is not None) is found


class Scores(nn.Module):
    """A network of tanh on raw or scaled pixels."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.one, self.act, self.two = nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.two(self.act(self.one(self.scale * images)))
        return scores


@pytest.mark.parametrize(("scale", "found"), [(1e4, ["LD205"]), (1.0, [])])
def test_sick_a_real_network_on_inputs_that_are_too_large_is_found_and_its_twin_is_well(
    tmp_path: Path, scale: float, found: list[str]
) -> None:
    module = DigitsNet(lr=1e-3)
    module.net = Scores(scale)
    doctor = Doctor(strict=True, select=["LD205"])
    fit(tmp_path, module, doctor)
    assert [finding.code for finding in doctor.report.findings] == found
    assert doctor.report.unassessed == {}
