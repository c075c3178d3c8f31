"""Small real training runs for the tests of the callbacks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_doctor import Doctor
from lightning_doctor.findings import Finding

_images, _labels = load_digits(return_X_y=True)
IMAGES = torch.tensor(_images / 16, dtype=torch.float32)
LABELS = torch.tensor(_labels)


# Options of a Trainer that only trains.
QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "num_sanity_val_steps": 0,
}


class DigitsNet(LightningModule):
    """A two-layer perceptron on scikit-learn's digits."""

    def __init__(self, lr: float = 0.1, optimizer: type[torch.optim.Optimizer] = torch.optim.SGD, **options: Any):
        super().__init__()
        torch.manual_seed(0)
        self.lr = lr
        self.optimizer = optimizer
        self.options = options
        self.net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        images, labels = batch
        loss = nn.functional.cross_entropy(self.net(images), labels)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        images, labels = batch
        scores = self.net(images)
        self.log("val_loss", nn.functional.cross_entropy(scores, labels))
        self.log("val_acc", (scores.argmax(1) == labels).float().mean())

    def configure_optimizers(self) -> Any:
        return self.optimizer(self.parameters(), lr=self.lr, **self.options)


def digits(first: int = 0, last: int = 320, batch_size: int = 32, shuffle: bool = True) -> DataLoader[Any]:
    return DataLoader(TensorDataset(IMAGES[first:last], LABELS[first:last]), batch_size, shuffle=shuffle)


def validation_digits() -> DataLoader[Any]:
    return digits(1400, 1797, 397, shuffle=False)


def trainer(folder: Path, *callbacks: Any, **options: Any) -> Trainer:
    return Trainer(callbacks=list(callbacks), default_root_dir=folder, **{"max_epochs": 2, **QUIET, **options})


def fit(folder: Path, module: LightningModule, *callbacks: Any, validate: bool = True, **options: Any) -> Trainer:
    """Trains on 320 digits, ten batches an epoch, always with the same seed."""
    seed_everything(0, verbose=False)
    run = trainer(folder, *callbacks, **options)
    run.fit(module, digits(), validation_digits() if validate else None)
    return run


def flat(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()])


class Fitted(LightningModule):
    """Any network with any loss, trained by plain gradient descent."""

    def __init__(self, net: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], lr: float) -> None:
        super().__init__()
        self.net = net
        self.loss = loss
        self.lr = lr

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        inputs, targets = batch
        return self.loss(self.net(inputs), targets)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def found(
    folder: Path,
    rule: str,
    net: Callable[[], nn.Module],
    loss: Callable[[Tensor, Tensor], Tensor],
    targets: Tensor,
    *,
    inputs: Tensor = IMAGES,
    lr: float = 0.1,
    **options: Any,
) -> Finding | None:
    """Returns what a rule finds in a short run on the first 320 rows."""
    seed_everything(0, verbose=False)
    doctor = Doctor(select=[rule], strict=True, overhead=1.0)
    rows = TensorDataset(inputs[:320], targets[:320])
    trainer(folder, doctor, **options).fit(Fitted(net(), loss, lr), DataLoader(rows, 32, shuffle=True))
    assert doctor.report is not None
    assert doctor.report.unassessed == {}
    return next(iter(doctor.report.findings), None)
