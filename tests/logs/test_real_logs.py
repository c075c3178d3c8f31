"""Logs that Lightning's own loggers wrote in a run that the doctor did not watch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import grad_norm
from torch.utils.data import DataLoader, TensorDataset

from lightning_doctor.console import main
from lightning_doctor.history import History
from lightning_doctor.logs.runs import find_runs, read_run

BATCHES, EPOCHS, EVERY = 32, 8, 4


class Line(lightning.LightningModule):
    def __init__(self, lr: float) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
        self.lr = lr

    def loss(self, batch: list[torch.Tensor]) -> torch.Tensor:
        return torch.nn.functional.mse_loss(self.layer(batch[0]), batch[1])

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        loss = self.loss(batch)
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val_loss", self.loss(batch))

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.log_dict(grad_norm(self.layer, 2))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        groups = [{"params": [self.layer.weight]}, {"params": [self.layer.bias], "lr": self.lr / 2}]
        return torch.optim.SGD(groups, lr=self.lr)


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, at a learning rate that works and at one a hundred times its limit, each by both loggers."""
    folder = tmp_path_factory.mktemp("logs")
    torch.manual_seed(0)
    inputs = torch.randn(BATCHES * 8, 4)
    targets = inputs @ torch.tensor([[1.0], [2.0], [-1.0], [0.5]]) + 0.1 * torch.randn(len(inputs), 1)
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=8)
    for name, lr in (("cured", 0.01), ("sick", 100.0)):
        loggers = [CSVLogger(folder / "csv", name, version=""), TensorBoardLogger(folder / "tb", name, version="")]
        lightning.Trainer(
            max_epochs=EPOCHS,
            logger=loggers,
            callbacks=[LearningRateMonitor()],
            log_every_n_steps=EVERY,
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            accelerator="cpu",
        ).fit(Line(lr), loader, [loader, loader])
    return folder


def history(folder: Path) -> History:
    (run,) = find_runs(folder)
    found, notes = read_run(run)
    assert notes == []
    return found


@pytest.mark.parametrize("kind", ["csv", "tb"])
def test_the_signals_of_a_real_log_are_found_on_its_steps(logs: Path, kind: str) -> None:
    found = history(logs / kind / "cured")
    steps = list(range(EVERY - 1, BATCHES * EPOCHS, EVERY))
    assert found["train_loss"].steps == steps
    assert found["grad_norm"].steps == steps
    assert found["val_loss"].steps == [BATCHES * epoch - 1 for epoch in range(1, EPOCHS + 1)]
    assert len(found["val_loss/1"]) == EPOCHS
    # float32 is what an event file holds.
    assert found["learning_rate"].values[0] == pytest.approx(0.01, rel=1e-6)
    assert found["learning_rate/1"].values[0] == pytest.approx(0.005, rel=1e-6)
    assert found.facts["optimizers"] == [{"class": "SGD"}]
    assert found.facts["log"]["tags"]["train_loss"] == "train_loss_step"


def test_both_kinds_of_log_tell_the_same_story(logs: Path) -> None:
    table, events = history(logs / "csv/cured"), history(logs / "tb/cured")
    assert set(table.names()) == set(events.names())
    for name in table.names():
        assert table[name].steps == events[name].steps
        # Both were float32 tensors; the table prints them in full.
        assert table[name].values == pytest.approx(events[name].values, rel=1e-6)


@pytest.mark.parametrize("kind", ["csv", "tb"])
def test_the_command_tells_the_sick_run_from_the_cured_one(
    logs: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = history(logs / kind / "sick")["train_loss"].values
    assert not math.isfinite(losses[-1])
    assert main(["diagnose", str(logs / kind / "sick"), "--fail-on", "error"]) == 1
    assert "LD101" in capsys.readouterr().out
    assert main(["diagnose", str(logs / kind / "cured"), "--fail-on", "warning"]) == 0


def test_all_runs_below_a_folder_are_judged(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", str(logs), "--fail-on", "error"]) == 1
    shown = capsys.readouterr().out
    assert all(str(logs / name) in shown for name in ("csv/cured", "csv/sick", "tb/cured", "tb/sick"))
