"""What a small training run is made of, for the cells of the harmlessness matrix."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset
from torchmetrics.classification import MulticlassAccuracy

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01),
    "LBFGS": lambda parameters: torch.optim.LBFGS(parameters, lr=0.1, max_iter=2),
}
FEATURES = (
    "dropout",
    "batch normalisation",
    "random data set",
    "random step",
    "torchmetrics",
    "user lists",
    "weight averaging",
    "step scheduler",
    "plateau scheduler",
)
PRECISIONS = ("32-true", "bf16-mixed")
MACHINERY = (
    "accumulation",
    "clipping",
    "manual, one optimizer",
    "manual, two optimizers",
    "several validation loaders",
    "gradient checkpointing",
    "compile",
)


@dataclass(frozen=True)
class Cell:
    """One combination."""

    optimizer: str
    feature: str
    precision: str
    machinery: str

    def __str__(self) -> str:
        return f"{self.optimizer}, {self.feature}, {self.precision}, {self.machinery}"

    @property
    def options(self) -> dict[str, Any]:
        """Those of the Trainer."""
        options: dict[str, Any] = {"precision": self.precision}
        if self.machinery == "accumulation":
            options["accumulate_grad_batches"] = 2
        if self.machinery == "clipping":
            options["gradient_clip_val"] = 0.5
        return options

    def callbacks(self) -> list[Any]:
        return [EMAWeightAveraging(decay=0.9)] if self.feature == "weight averaging" else []

    def module(self) -> Net:
        kind = {"manual, one optimizer": ManualNet, "manual, two optimizers": TwiceManualNet}.get(self.machinery, Net)
        net = kind(self)
        if self.machinery == "compile":
            net.body.compile(backend="aot_eager")
        return net


class Rows(Dataset[Any]):
    """Thirty-two rows, with noise from every generator where wanted."""

    def __init__(self, rows: int = 32, noisy: bool = False, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.inputs = torch.randn(rows, 4, generator=generator)
        self.targets = (self.inputs[:, :3]).argmax(1)
        self.noisy = noisy

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        inputs = self.inputs[index]
        if self.noisy:
            inputs = inputs + 0.1 * torch.randn(4) + 0.1 * random.random() + 0.1 * float(np.random.rand())
        return inputs, self.targets[index]


class Net(LightningModule):
    """A network of two layers with one feature more."""

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.cell = cell
        body: list[nn.Module] = [nn.Linear(4, 8)]
        body += [nn.BatchNorm1d(8)] if cell.feature == "batch normalisation" else []
        body += [nn.Tanh()]
        body += [nn.Dropout(0.3)] if cell.feature == "dropout" else []
        self.body, self.head = nn.Sequential(*body), nn.Linear(8, 3)
        if cell.feature == "torchmetrics":
            self.train_accuracy, self.val_accuracy = MulticlassAccuracy(3), MulticlassAccuracy(3)
        self.seen: list[float] = []

    def loaders(self) -> tuple[Any, Any]:
        train = DataLoader(Rows(noisy=self.cell.feature == "random data set"), 8, shuffle=True)
        validation = DataLoader(Rows(16, seed=1), 8)
        return train, [validation, validation] if self.cell.machinery == "several validation loaders" else validation

    def forward(self, inputs: Tensor) -> Tensor:
        if self.cell.machinery == "gradient checkpointing" and self.training:
            return self.head(checkpoint(self.body, inputs, use_reentrant=False))
        return self.head(self.body(inputs))

    def loss(self, batch: Any) -> Tensor:
        inputs, targets = batch
        if self.cell.feature == "random step":
            inputs = inputs + 0.1 * torch.randn_like(inputs) + 0.1 * random.random() + 0.1 * float(np.random.rand())
        scores = self(inputs)
        loss = cross_entropy(scores, targets)
        if self.cell.feature == "torchmetrics":
            self.train_accuracy(scores, targets)
            self.log("train_accuracy", self.train_accuracy, on_step=True, on_epoch=True)
        if self.cell.feature == "user lists":
            self.seen.append(float(loss.detach()))
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(batch)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        scores = self(batch[0])
        self.log("val_loss", cross_entropy(scores, batch[1]))
        if self.cell.feature == "torchmetrics":
            self.val_accuracy(scores, batch[1])
            self.log("val_accuracy", self.val_accuracy)

    def configure_optimizers(self) -> Any:
        optimizer = OPTIMIZERS[self.cell.optimizer](self.parameters())
        return {"optimizer": optimizer, **self._scheduler(optimizer)}

    def _scheduler(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        if self.cell.feature == "step scheduler":
            scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.95)
            return {"lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
        if self.cell.feature == "plateau scheduler":
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.5)
            several = self.cell.machinery == "several validation loaders"
            metric = "val_loss/dataloader_idx_0" if several else "val_loss"
            return {"lr_scheduler": {"scheduler": plateau, "monitor": metric}}
        return {}


class ManualNet(Net):
    """The same, where the user's code steps the optimizer."""

    def __init__(self, cell: Cell) -> None:
        super().__init__(cell)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for optimizer in _listed(self.optimizers()):

            def closure(optimizer: Any = optimizer) -> Tensor:
                optimizer.zero_grad()
                loss = self.loss(batch)
                self.manual_backward(loss)
                return loss

            optimizer.step(closure=closure)
        if self.cell.feature == "step scheduler":
            for scheduler in _listed(self.lr_schedulers()):
                scheduler.step()

    def on_validation_epoch_end(self) -> None:
        if self.cell.feature == "plateau scheduler":
            for scheduler in _listed(self.lr_schedulers()):
                scheduler.step(self.trainer.callback_metrics["val_loss"])


class TwiceManualNet(ManualNet):
    """The same with an optimizer for the body and one for the head."""

    def configure_optimizers(self) -> Any:
        parts = [OPTIMIZERS[self.cell.optimizer](part.parameters()) for part in (self.body, self.head)]
        return [{"optimizer": optimizer, **self._scheduler(optimizer)} for optimizer in parts]


def _listed(found: Any) -> list[Any]:
    return found if isinstance(found, list) else [found]
