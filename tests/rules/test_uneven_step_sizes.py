from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything
from torch import nn

from lightning_doctor import Doctor
from lightning_doctor.history import History
from lightning_doctor.rules.uneven_step_sizes import uneven_step_sizes
from tests.histories import ADAM, COMPLETED, LOGITS, SGD, headed, reading
from tests.runs import DigitsNet, digits, trainer


def run_of(
    ratios: dict[str, float],
    norms: dict[str, float] | None = None,
    *,
    skill: float = 0.1,
    optimizers: list[dict[str, Any]] = SGD,
    **facts: Any,
) -> History:
    history = headed(LOGITS, skill=skill, baseline=None, optimizers=optimizers, **facts)
    for layer, ratio in ratios.items():
        reading(history, f"update_ratio/{layer}", [ratio] * 10)
    for layer, norm in (norms or {}).items():
        reading(history, f"weight_norm/{layer}", [norm] * 10)
    return history


APART, NORMS = {"first": 1e-6, "second": 1e-2, "head": 5e-3}, {"first": 500.0, "second": 0.1, "head": 3.0}


def test_sick_layers_whose_weights_lie_far_apart_are_confirmed() -> None:
    finding = uneven_step_sizes(run_of(APART, NORMS))
    assert finding is not None
    assert (finding.code, finding.severity, finding.confidence) == ("LD111", "warning", "confirmed")
    assert finding.summary == "second moves by 0.01 of its weights a step, first by 1e-06"
    assert "initialise first with smaller weights and second with larger ones" in finding.remedy
    assert "Adam instead of SGD" in finding.remedy


def test_gradients_that_differ_by_themselves_are_a_note() -> None:
    # They vanish or explode, and rules of that name say so.
    finding = uneven_step_sizes(run_of(APART, {"first": 3.0, "second": 3.0, "head": 3.0}))
    assert finding is not None
    assert (finding.severity, finding.confidence) == ("note", "suspected")
    assert "initialise" not in finding.remedy


def test_healthy_layers_move_alike() -> None:
    assert uneven_step_sizes(run_of({"first": 0.005, "second": 0.001, "head": 0.007}, NORMS)) is None


@pytest.mark.parametrize(("spread", "ill"), [(250.0, False), (350.0, True)])
def test_orders_of_magnitude_must_lie_between_them(spread: float, ill: bool) -> None:
    ratios = {"first": 1e-5, "second": 1e-5 * spread}
    assert (uneven_step_sizes(run_of(ratios, NORMS)) is not None) is ill


def test_healthy_run_that_learns_all_the_same_is_left_alone() -> None:
    assert uneven_step_sizes(run_of(APART, NORMS, skill=0.9)) is None


def test_healthy_adaptive_optimizer_evens_steps_out_by_itself() -> None:
    assert uneven_step_sizes(run_of(APART, NORMS, optimizers=ADAM)) is None


def test_healthy_frozen_layer_does_not_move_and_normalisations_move_as_they_like() -> None:
    assert uneven_step_sizes(run_of({"trunk": 0.0, "second": 0.01, "head": 0.005}, NORMS)) is None
    normalising = [{"layer": "first", "kind": "norm"}]
    assert uneven_step_sizes(run_of(APART, NORMS, activations=normalising)) is None


def test_a_layer_of_zeros_that_leaps_at_first_is_not_what_is_usual() -> None:
    history = run_of({"first": 0.005, "second": 0.001}, NORMS)
    reading(history, "update_ratio/zero", [1000.0, 1.0, 0.01, *[0.004] * 7])
    assert uneven_step_sizes(history) is None


class Lopsided(DigitsNet):
    """Three layers, of which the first is as much too large as the second is too small: the product is the same."""

    def __init__(self, factor: float, **options: Any) -> None:
        super().__init__(lr=0.03, **options)
        first, second = nn.Linear(64, 16), nn.Linear(16, 16)
        self.net = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(16, 10))
        with torch.no_grad():
            first.weight.mul_(factor)
            second.weight.div_(factor)


@pytest.mark.parametrize(("factor", "ill"), [(300.0, True), (1.0, False)])
def test_on_a_real_run(tmp_path: Path, factor: float, ill: bool) -> None:
    doctor = Doctor(strict=True)
    seed_everything(0, verbose=False)
    trainer(tmp_path, doctor, max_epochs=12).fit(Lopsided(factor), digits())
    assert doctor.report is not None
    found = {finding.code: finding.severity for finding in doctor.report.findings}
    assert found.get("LD111") == ("warning" if ill else None)


@pytest.mark.parametrize(("low", "severity"), [(1e-6, "warning"), (0.01, "note")])
def test_groups_whose_rates_lie_apart_are_a_warning_where_the_run_does_badly(low: float, severity: str) -> None:
    history = run_of(APART, {"first": 3.0, "second": 3.0, "head": 3.0}, run=COMPLETED)
    reading(reading(history, "learning_rate", [low] * 10), "learning_rate/1", [0.1] * 10)
    finding = uneven_step_sizes(history)
    assert finding is not None
    assert finding.severity == severity
