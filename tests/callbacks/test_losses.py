from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import nn

from lightning_doctor import Doctor, LossMonitor
from tests.runs import DigitsNet, digits, fit, trainer


class Recording(DigitsNet):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.losses: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.losses.append(float(loss.detach()))
        return loss


def test_every_step_has_its_loss_on_the_axis_of_the_logged_metrics(tmp_path: Path) -> None:
    monitor, net = LossMonitor(), Recording()
    fit(tmp_path, net, monitor)
    series = monitor.report.history["train_loss"]
    assert series.steps == list(range(20))
    assert series.values == pytest.approx(net.losses, rel=1e-6)


def test_an_accumulated_step_has_the_mean_of_its_micro_batches_even_a_last_short_one(tmp_path: Path) -> None:
    monitor, net = LossMonitor(), Recording()
    fit(tmp_path, net, monitor, max_epochs=1, accumulate_grad_batches=4)
    groups = [net.losses[0:4], net.losses[4:8], net.losses[8:10]]
    assert monitor.report.history["train_loss"].values == pytest.approx([sum(g) / len(g) for g in groups], rel=1e-6)


def test_a_scaled_fp16_loss_is_recorded_unscaled(tmp_path: Path) -> None:
    plugin = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))
    monitor, net = LossMonitor(), Recording()
    fit(tmp_path, net, monitor, plugins=[plugin])
    assert monitor.report.history["train_loss"].values == pytest.approx(net.losses, rel=1e-6)


def test_a_dict_with_a_loss_is_read(tmp_path: Path) -> None:
    class Dict(Recording):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return {"loss": super().training_step(batch, batch_idx), "scores": "anything"}

    monitor, net = LossMonitor(), Dict()
    fit(tmp_path, net, monitor)
    assert monitor.report.history["train_loss"].values == pytest.approx(net.losses, rel=1e-6)


def test_a_training_step_that_returns_none_leaves_a_reason(tmp_path: Path) -> None:
    class Nothing(DigitsNet):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            return None

    doctor = Doctor(strict=True)
    fit(tmp_path, Nothing(), doctor)
    assert doctor.report.unassessed["LD102"] == "training_step has returned no loss"


def test_a_step_that_was_skipped_now_and_then_leaves_the_others(tmp_path: Path) -> None:
    class Sometimes(Recording):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            if batch_idx % 3 == 0:
                self.losses.pop()
                return None
            return loss

    doctor, net = Doctor(strict=True), Sometimes()
    fit(tmp_path, net, doctor)
    assert doctor.report.history["train_loss"].values == pytest.approx(net.losses, rel=1e-6)


def test_manual_optimization_that_returns_nothing_is_read_from_the_backward_pass(tmp_path: Path) -> None:
    class Manual(Recording):
        automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
            self.losses.append(float(loss.detach()))
            self.manual_backward(loss)
            optimizer.step()

    doctor, net = Doctor(strict=True), Manual()
    net.automatic_optimization = False
    trainer(tmp_path, doctor).fit(net, digits())
    assert doctor.report.history["train_loss"].values == pytest.approx(net.losses, rel=1e-6)


def test_a_loss_that_is_not_finite_is_recorded_as_it_is(tmp_path: Path) -> None:
    class Broken(DigitsNet):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            return loss * float("nan") if self.global_step == 5 else loss

    doctor = Doctor(strict=True)
    fit(tmp_path, Broken(), doctor)
    values = doctor.report.history["train_loss"].values
    assert values[5] != values[5]
    assert doctor.report.findings[0].code == "LD101"
    assert doctor.report.findings[0].severity == "error"
