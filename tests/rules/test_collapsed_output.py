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
from lightning_doctor.rules.collapsed_output import collapsed_output
from tests.histories import SGD, history_of, noisy, reading
from tests.runs import DigitsNet, fit

FLAT = noisy([2.3] * 400, 0.02)
DISTANCE = [{"layer": "distance", "class": "relu", "kind": "relu", "units": 1, "last": True}]


def run(
    spreads: Sequence[float], levels: Sequence[float] | None = None, *, skill: float = 0.0, **facts: Any
) -> History:
    history = history_of(FLAT, optimizers=SGD, **facts)
    reading(history, "activation_std/out", [1.0] * len(spreads), 50)
    reading(history, "output_spread", spreads, 50)
    reading(history, "output_level", levels or [1.0] * len(spreads), 50)
    return reading(history, "skill", [skill] * 40)


def judge(*args: Any, **kwargs: Any) -> Finding | None:
    return collapsed_output(run(*args, **kwargs))


def test_sick_outputs_that_no_longer_differ() -> None:
    finding = judge([0.3, 0.1, 0.02, 0.001, 0.001, 0.001])
    assert finding is not None
    assert (finding.code, finding.severity, finding.confidence) == ("LD209", Severity.WARNING, "suspected")
    assert finding.onset == 150
    assert finding.evidence["first_spread"] == 0.3
    assert "by 0.001, where they differed by 0.3 at first" in finding.summary
    assert "dead or saturated units" in finding.remedy


def test_sick_steps_that_threw_the_output_far_away_are_blamed_on_the_rate() -> None:
    finding = judge([0.3, 80.0, 0.001, 0.0, 0.0, 0.0], [1.0, 300.0, 250.0, 240.0, 240.0, 240.0])
    assert finding is not None
    assert finding.remedy.startswith("lower lr from 0.1 to 0.01 or less: steps threw the output to 240 times")


def test_sick_a_spread_that_is_lost_beside_its_level() -> None:
    assert judge([0.3] * 6, [1.0, 1e3, 1e4, 1e4, 1e4, 1e4]) is not None
    # It was from the start: biases put out more than what differs.
    assert judge([0.3] * 6, [1e4] * 6) is None


def test_healthy_outputs_that_spread_are_silent() -> None:
    assert judge([0.3, 0.5, 1.2, 3.4, 3.5, 3.5]) is None
    assert judge([0.003, 0.002, 0.002, 0.003, 0.4, 1.0]) is None


def test_healthy_a_run_that_does_well_may_put_out_what_it_likes() -> None:
    assert judge([0.3, 0.1, 0.001, 0.001, 0.001], skill=0.9) is None


def test_healthy_a_network_that_was_constant_from_the_start_has_not_collapsed() -> None:
    assert judge([0.0] * 8) is None
    assert judge([1e-6] * 8) is None


def test_a_last_layer_of_zeros_is_measured_by_its_first_steps() -> None:
    assert judge([0.0, 0.2, 0.5, 0.001, 0.001, 0.001]) is not None


@pytest.mark.parametrize(("now", "found"), [(0.0031, False), (0.0029, True)])
def test_a_hundredth_of_the_first_spread_is_a_collapse(now: float, found: bool) -> None:
    assert (judge([0.3, 0.1, 0.1, now, now, now]) is not None) is found


def test_healthy_one_look_at_a_batch_of_equals_is_not_enough() -> None:
    assert judge([0.3, 0.3, 0.3, 0.3, 0.0001]) is None


def unread(stds: Sequence[float], means: Sequence[float], layers: Sequence[dict[str, Any]] = DISTANCE) -> History:
    """A run of a loss that could not be read, whose last layer has one unit."""
    history = history_of(FLAT, activations=list(layers), optimizers=SGD)
    reading(history, "activation_std/distance", stds, 50)
    return reading(history, "activation_mean/distance", means, 50)


def test_sick_a_loss_of_distances_that_all_become_the_same() -> None:
    finding = collapsed_output(unread([0.03, 0.005, 2e-4, 1e-5, 1e-5], [0.9, 1.0, 1.0, 1.0, 1.0]))
    assert finding is not None
    assert (finding.severity, finding.onset) == (Severity.WARNING, 100)
    assert "samples that must differ" in finding.remedy


def test_healthy_a_hinge_that_holds_everywhere_comes_to_zero() -> None:
    assert collapsed_output(unread([0.03, 0.005, 2e-4, 1e-5, 1e-5], [0.9, 0.1, 3e-4, 2e-5, 2e-5])) is None


def test_of_several_units_it_is_not_known_whether_samples_or_units_differ() -> None:
    wide = [{**DISTANCE[0], "units": 8}]
    assert collapsed_output(unread([0.03, 0.005, 2e-4, 1e-5, 1e-5], [1.0] * 5, wide)) is None


class Distances(DigitsNet):
    """Learns to put digits near each other, and some of them apart."""

    def __init__(self, *, apart: bool) -> None:
        super().__init__(lr=0.01, optimizer=torch.optim.Adam)
        self.apart = apart

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        images, labels = batch
        shifted = (labels != labels.roll(1)) & self.apart
        distances = (self.net(images) - self.net(images.roll(1, 0))).square().sum(1, keepdim=True)
        unlike = shifted.float()[:, None]
        return ((1 - unlike) * distances + unlike * nn.functional.relu(1 - distances)).mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Is not what this is about."""


@pytest.mark.parametrize(("apart", "found"), [(False, ["LD209"]), (True, [])])
def test_a_real_loss_of_distances_collapses_without_pairs_that_are_unlike(
    tmp_path: Path, apart: bool, found: list[str]
) -> None:
    doctor = Doctor(strict=True, select=["LD209"])
    fit(tmp_path, Distances(apart=apart), doctor, max_epochs=15, validate=False)
    assert [finding.code for finding in doctor.report.findings] == found
    assert doctor.report.unassessed == {}
