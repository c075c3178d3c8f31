from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchmetrics
from lightning.pytorch.callbacks import EarlyStopping
from torch import nn

from lightning_doctor import Doctor, GeneralizationMonitor
from tests.runs import DigitsNet, digits, fit, trainer, validation_digits


def test_loss_and_metric_are_found_by_themselves_at_the_step_they_were_logged_at(tmp_path: Path) -> None:
    monitor = GeneralizationMonitor()
    run = fit(tmp_path, DigitsNet(), monitor)
    history = monitor.report.history
    assert history["val_loss"].steps == [9, 19]
    assert history["val_loss"].values[-1] == pytest.approx(float(run.callback_metrics["val_loss"]))
    assert history["val_metric"].values[-1] == pytest.approx(float(run.callback_metrics["val_acc"]))
    assert history.facts["validation"] == {"metric": "val_acc", "mode": "max"}
    assert len(history["train_loss"]) == 20


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("val_loss", True),
        ("val/loss", True),
        ("loss/val", True),
        ("valid_loss", True),
        ("validation-loss", True),
        ("val_nll", True),
        ("train_loss_again", False),
        ("value_loss", False),
        ("val_closs_x", False),
    ],
)
def test_a_validation_loss_is_known_by_its_name(tmp_path: Path, name: str, found: bool) -> None:
    class Named(DigitsNet):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log(name, nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    monitor = GeneralizationMonitor()
    fit(tmp_path, Named(), monitor)
    assert ("val_loss" in monitor.report.history) == found


def test_the_user_may_name_both(tmp_path: Path) -> None:
    class Odd(DigitsNet):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", torch.tensor(1.0))
            self.log("elbo", torch.tensor(2.0))
            self.log("val_acc", torch.tensor(3.0))
            self.log("quality", torch.tensor(4.0))

    monitor = GeneralizationMonitor(loss="elbo", metric="quality", mode="min")
    fit(tmp_path, Odd(), monitor)
    history = monitor.report.history
    assert history["val_loss"].values == [2.0, 2.0]
    assert history["val_metric"].values == [4.0, 4.0]
    assert history.facts["validation"] == {"metric": "quality", "mode": "min"}


def test_what_early_stopping_monitors_is_the_metric(tmp_path: Path) -> None:
    class Two(DigitsNet):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            super().validation_step(batch, batch_idx)
            self.log("val_gloss", torch.tensor(5.0))

    monitor = GeneralizationMonitor()
    fit(tmp_path, Two(), monitor, EarlyStopping("val_gloss", mode="min"))
    assert monitor.report.history.facts["validation"] == {"metric": "val_gloss", "mode": "min"}


def test_a_loss_that_is_returned_but_not_logged_is_averaged(tmp_path: Path) -> None:
    class Returned(DigitsNet):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            return {"loss": torch.tensor(float(batch_idx))}

    monitor = GeneralizationMonitor()
    trainer(tmp_path, monitor).fit(Returned(), digits(), digits(0, 96))
    assert monitor.report.history["val_loss"].values == [1.0, 1.0]


def test_every_validation_loader_has_a_series(tmp_path: Path) -> None:
    class Several(DigitsNet):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.log("val_loss", torch.tensor(float(dataloader_idx)))

    monitor = GeneralizationMonitor()
    trainer(tmp_path, monitor).fit(Several(), digits(), [validation_digits() for _ in range(3)])
    history = monitor.report.history
    assert [history[name].values[-1] for name in ("val_loss", "val_loss/1", "val_loss/2")] == [0.0, 1.0, 2.0]


def test_no_validation_loader_leaves_a_reason(tmp_path: Path) -> None:
    doctor = Doctor(strict=True)
    fit(tmp_path, DigitsNet(), doctor, validate=False)
    assert doctor.report.unassessed["LD501"] == "there was no validation pass"


def test_a_validation_that_logs_nothing_leaves_a_reason(tmp_path: Path) -> None:
    class Silent(DigitsNet):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            return None

    doctor = Doctor(strict=True)
    fit(tmp_path, Silent(), doctor)
    assert doctor.report.unassessed["LD501"] == "no validation loss was logged or returned"


def test_the_sanity_check_is_no_validation_pass(tmp_path: Path) -> None:
    monitor = GeneralizationMonitor()
    fit(tmp_path, DigitsNet(), monitor, num_sanity_val_steps=1)
    assert len(monitor.report.history["val_loss"]) == 2


def test_the_states_of_the_users_metrics_are_left_alone(tmp_path: Path) -> None:
    class Counting(torchmetrics.MeanMetric):
        computed = 0

        def compute(self) -> Any:
            type(self).computed += 1
            return super().compute()

    class Measured(DigitsNet):
        def __init__(self) -> None:
            super().__init__()
            self.mean = Counting()
            self.train_mean = Counting()
            self.seen: list[float] = []

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            self.train_mean.update(loss.detach())
            self.log("train_mean", self.train_mean, on_step=False, on_epoch=True)
            return loss

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.mean.update(batch[0].mean())
            self.log("val_loss", self.mean)

        def on_train_epoch_end(self) -> None:
            self.seen.append(float(self.train_mean.mean_value))

    def seen(*callbacks: Any) -> tuple[list[float], int]:
        Counting.computed = 0
        net = Measured()
        fit(tmp_path, net, *callbacks, val_check_interval=5)
        return net.seen, Counting.computed

    assert seen(Doctor(strict=True)) == seen()


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="mode must be 'max', 'min' or None, got 'up'"):
        GeneralizationMonitor(mode="up")
