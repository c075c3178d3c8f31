from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, seed_everything
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_doctor import Doctor
from lightning_doctor.history import History
from lightning_doctor.rules.late_instability import late_instability
from tests.histories import ADAM, HEAD, LOGITS, SGD, gauss, history_of, reading
from tests.runs import trainer


def orders(*levels: tuple[int, float]) -> list[float]:
    """Losses whose logarithm goes straight from level to level, (steps, log10), with noise of a fifth of an order."""
    logs, before = [], 2.0
    for steps, level in levels:
        logs += [before + (level - before) * (i + 1) / steps for i in range(steps)]
        before = level
    return [10 ** (log + error) for log, error in zip(logs, gauss(len(logs), 0.2), strict=True)]


def run_of(losses: list[float], optimizers: list[dict[str, Any]] = ADAM, **facts: Any) -> History:
    return history_of(losses, rates=[0.001], optimizers=optimizers, **facts)


BLOWN_UP = orders((200, -11.0), (400, -11.0), (100, -4.0), (300, -3.5))


def test_sick_adam_that_blows_up_after_convergence_is_confirmed() -> None:
    finding = late_instability(run_of(BLOWN_UP, loss_head=HEAD))
    assert finding is not None
    assert (finding.code, finding.severity, finding.confidence) == ("LD115", "warning", "confirmed")
    assert finding.onset == pytest.approx(620, abs=40)
    assert finding.evidence["orders_gained"] == pytest.approx(13, abs=0.5)
    assert finding.evidence["orders_lost"] == pytest.approx(7.4, abs=0.5)
    assert "eps of Adam" in finding.remedy


def test_under_another_optimizer_it_is_only_suspected() -> None:
    finding = late_instability(run_of(BLOWN_UP, SGD))
    assert finding is not None
    assert finding.confidence == "suspected"
    assert "eps" not in finding.remedy


def test_healthy_spike_that_recovers_is_another_matter() -> None:
    losses = orders((200, -11.0), (400, -11.0), (20, -3.0), (40, -11.0), (340, -11.0))
    assert late_instability(run_of(losses)) is None


BOUT = ((40, -4.0), (100, -5.0), (60, -11.0))


def test_sick_run_that_is_lost_and_found_again_and_again_is_so_while_it_is_found_too() -> None:
    losses = orders((200, -11.0), (400, -11.0), *BOUT, (200, -11.0), *BOUT, (300, -11.0))
    finding = late_instability(run_of(losses))
    assert finding is not None
    assert finding.onset == pytest.approx(600, abs=40)
    assert finding.evidence["orders_lost"] > 4
    assert "has been back at" in finding.summary


def test_healthy_restarts_of_the_rate_lose_and_find_it_on_purpose() -> None:
    losses = orders((200, -11.0), (400, -11.0), *BOUT, (200, -11.0), *BOUT, (300, -11.0))
    rates = [1e-3 * (1 - (step + 200) % 400 / 400) + 1e-6 for step in range(len(losses))]
    history = history_of(losses, rates=rates, optimizers=ADAM)
    assert late_instability(history) is None


def test_healthy_run_that_was_lost_and_found_once_for_as_long_is_well() -> None:
    losses = orders((200, -11.0), (400, -11.0), (40, -4.0), (260, -5.0), (60, -11.0), (500, -11.0))
    assert late_instability(run_of(losses)) is None


def test_healthy_spikes_that_recover_are_another_matter_however_many() -> None:
    spike = ((20, -3.0), (20, -11.0), (200, -11.0))
    assert late_instability(run_of(orders((200, -11.0), (300, -11.0), *spike, *spike, *spike))) is None


def test_healthy_run_that_rests_at_its_best_is_well() -> None:
    assert late_instability(run_of(orders((200, -11.0), (800, -11.0)))) is None


@pytest.mark.parametrize(("best", "ill"), [(-3.0, False), (-5.5, True)])
def test_the_loss_must_have_been_tiny(best: float, ill: bool) -> None:
    # Six orders under the start at 100 are asked for; what is lost is the same share of them each time.
    losses = orders((200, best), (400, best), (100, 0.5 * best + 1), (300, 0.5 * best + 1))
    assert (late_instability(run_of(losses)) is not None) is ill


@pytest.mark.parametrize(("now", "ill"), [(-5.5, False), (-4.0, True)])
def test_a_share_of_what_was_gained_must_be_lost(now: float, ill: bool) -> None:
    # Of ten orders three.
    losses = orders((200, -8.0), (400, -8.0), (100, now), (300, now))
    assert (late_instability(run_of(losses)) is not None) is ill


@pytest.mark.parametrize(("now", "ill"), [(-8.0, False), (-5.0, True)])
def test_healthy_wandering_in_what_float32_leaves_of_a_loss_is_no_loss(now: float, ill: bool) -> None:
    # Eight orders under the start are -6.
    losses = orders((200, -14.0), (400, -14.0), (100, now), (300, now))
    assert (late_instability(run_of(losses)) is not None) is ill


def test_sick_waves_that_come_again_and_again_are_seen_in_a_trough_too() -> None:
    wave = [(10, -3.0), (60, -6.0), (30, -11.0)]
    finding = late_instability(run_of(orders((200, -11.0), (500, -11.0), *wave * 3)))
    assert finding is not None
    assert finding.severity == "warning"


@pytest.mark.parametrize(("late", "ill"), [(25, False), (80, True)])
def test_it_must_stay_lost_over_half_of_the_last_tenth(late: int, ill: bool) -> None:
    # Of about a thousand steps.
    losses = orders((200, -11.0), (700, -11.0), (20, -3.5), (late, -3.5))
    assert (late_instability(run_of(losses)) is not None) is ill


@pytest.mark.parametrize(("skill", "severity"), [(1.0, "note"), (0.2, "warning")])
def test_healthy_classes_do_not_hang_on_so_small_a_loss(skill: float, severity: str) -> None:
    history = run_of(BLOWN_UP, loss_head=LOGITS)
    finding = late_instability(reading(history, "skill", [skill] * 100))
    assert finding is not None
    assert finding.severity == severity


def test_a_loss_of_nothing_is_very_small_and_one_under_zero_has_no_orders_of_magnitude() -> None:
    assert late_instability(run_of([*BLOWN_UP[:300], 0.0, *BLOWN_UP[300:]])) is not None
    assert late_instability(run_of([*BLOWN_UP[:-1], -1.0])) is None


def test_the_gradients_at_the_best_say_how_large_eps_should_be() -> None:
    history = run_of(BLOWN_UP, model={"trainable": 10_000})
    finding = late_instability(reading(history, "grad_norm", [1e-4] * 100))
    assert finding is not None
    # 1e-4 over the root of ten thousand weights.
    assert "about 1e-06" in finding.remedy


class Linear(LightningModule):
    """More weights than rows: the squared error can be anything but for rounding."""

    def __init__(self, optimizer: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(400, 1)
        self.optimizer = optimizer

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return (self.layer(batch[0]) - batch[1]).square().sum()

    def configure_optimizers(self) -> Any:
        return self.optimizer(self.parameters())


@pytest.mark.parametrize(
    ("optimizer", "ill"),
    # A longer memory of small gradients, and a higher rate, than by default: it comes after hundreds of steps.
    [
        (lambda p: torch.optim.Adam(p, 3e-3, betas=(0.9, 0.98)), True),
        (lambda p: torch.optim.SGD(p, 3e-4), False),
    ],
)
def test_on_a_real_run(tmp_path: Path, optimizer: Any, ill: bool) -> None:
    source = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(32, 400, generator=source), torch.randn(32, 1, generator=source))
    doctor = Doctor(strict=True, overhead=1.0, select=["LD115"])
    seed_everything(0, verbose=False)
    trainer(tmp_path, doctor, max_epochs=1500).fit(Linear(optimizer), DataLoader(data, 32))
    assert doctor.report is not None
    assert [finding.code for finding in doctor.report.findings] == (["LD115"] if ill else [])
    assert all(math.isfinite(value) for value in doctor.report.history["train_loss"].values)


def test_healthy_a_few_early_losses_that_were_kept_for_being_extreme() -> None:
    # Of a long run few early steps are kept: one lucky batch among them is no convergence.
    late = [10**error for error in gauss(2000, 0.5)]
    early = [10**error for error in gauss(12, 0.5)]
    early[5] = 1e-9
    history = History()
    for step, loss in zip([*range(0, 6000, 500), *range(6000, 8000)], [*early, *late], strict=True):
        history.record("train_loss", step, loss)
    assert late_instability(history) is None


def test_healthy_margins_that_are_kept_cost_nothing_and_now_and_then_a_little() -> None:
    losses = [1.0, *orders((100, -2.0)), *([0.0] * 300), *([0.0, 0.05, 0.01, 0.0, 0.03] * 60)]
    assert late_instability(run_of(losses)) is None


@pytest.mark.parametrize(("best", "severity"), [(1e-5, "warning"), (0.1, "note")])
def test_healthy_what_validation_rows_never_came_near_is_no_loss_to_them(best: float, severity: str) -> None:
    history = run_of(BLOWN_UP, loss_head=HEAD)
    for step, loss in ((0, 10.0), (500, best), (900, 2 * best)):
        history.record("eval_loss/validation", step, loss)
    finding = late_instability(history)
    assert finding is not None
    assert finding.severity == severity


@pytest.mark.parametrize(("step", "by"), [(60, "training_step"), (900, "validation_step")])
def test_scores_of_before_or_in_another_unit_say_nothing_of_it(step: int, by: str) -> None:
    history = run_of(BLOWN_UP, loss_head=HEAD, scored={"step": by})
    history.record("eval_loss/validation", step, 3.0)
    finding = late_instability(history)
    assert finding is not None
    assert finding.severity == "warning"
