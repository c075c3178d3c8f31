from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_doctor import Doctor, OptimizerMonitor
from tests.runs import DigitsNet, fit


class Scheduled(DigitsNet):
    def __init__(self, *args: Any, interval: str = "step", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.interval = interval
        self.used: list[float] = []

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": self.interval}}

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.used.append(optimizer.param_groups[0]["lr"])


def test_the_rate_of_a_step_is_the_one_the_step_used(tmp_path: Path) -> None:
    monitor, net = OptimizerMonitor(), Scheduled()
    fit(tmp_path, net, monitor)
    series = monitor.report.history["learning_rate"]
    assert series.steps == list(range(20))
    assert series.values == pytest.approx(net.used)


def test_the_rate_is_recorded_where_it_changes(tmp_path: Path) -> None:
    monitor, net = OptimizerMonitor(), Scheduled(interval="epoch")
    fit(tmp_path, net, monitor)
    series = monitor.report.history["learning_rate"]
    assert dict(zip(series.steps, series.values, strict=True))[10] == pytest.approx(0.05)
    assert len(series) < 20


def test_every_group_has_a_rate_and_a_momentum(tmp_path: Path) -> None:
    class Groups(DigitsNet):
        def configure_optimizers(self) -> Any:
            groups = [
                {"params": self.net[0].parameters(), "lr": 0.1, "momentum": 0.5},
                {"params": self.net[2].parameters(), "lr": 0.2, "momentum": 0.9},
            ]
            return torch.optim.SGD(groups)

    monitor = OptimizerMonitor()
    fit(tmp_path, Groups(), monitor)
    history = monitor.report.history
    assert history["learning_rate"].values[0] == 0.1
    assert history["learning_rate/1"].values[0] == 0.2
    assert history["momentum"].values[0] == 0.5
    assert history["momentum/1"].values[0] == 0.9


def test_the_momentum_of_adam_is_its_first_beta(tmp_path: Path) -> None:
    monitor = OptimizerMonitor()
    fit(tmp_path, DigitsNet(optimizer=torch.optim.Adam, lr=torch.tensor(0.01), betas=(0.8, 0.99)), monitor)
    assert monitor.report.history["momentum"].values[0] == 0.8
    # The rate is a tensor here: it is read with the window, not before.
    assert monitor.report.history["learning_rate"].values[0] == pytest.approx(0.01)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_what_adagrad_has_left_of_its_step_is_measured(tmp_path: Path, decay: float) -> None:
    class Adagrad(DigitsNet):
        def __init__(self) -> None:
            super().__init__(lr=0.1, optimizer=torch.optim.Adagrad, lr_decay=decay)
            self.expected: list[float] = []

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            square = sum(float(p.grad.square().sum()) for p in self.parameters())
            total = sum(float(optimizer.state[p]["sum"].sum()) for p in self.parameters())
            rate = 0.1 / (1 + decay * len(self.expected))
            self.expected.append(rate * (square / (total + square)) ** 0.5)

    monitor, net = OptimizerMonitor(), Adagrad()
    fit(tmp_path, net, monitor)
    series = monitor.report.history["adagrad_step"]
    assert series.values == pytest.approx([net.expected[step] for step in series.steps], rel=1e-4)
    assert series.values[0] == pytest.approx(0.1, rel=1e-4)


def test_no_optimizer_leaves_a_reason(tmp_path: Path) -> None:
    class Without(DigitsNet):
        def configure_optimizers(self) -> None:
            return None

    doctor = Doctor(strict=True)
    fit(tmp_path, Without(), doctor)
    assert doctor.report.history.absent["grad_norm"] == "no optimizer holds a trainable parameter"
    assert "learning_rate" not in doctor.report.history
