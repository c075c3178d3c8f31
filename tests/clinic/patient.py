"""What a program of the clinic consists of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

Loss = Callable[[Tensor, Tensor], Tensor]


class Patient(LightningModule):
    """Any network with any loss and any optimizer.

    Args:
        net: The network.
        loss: Of its output and the targets, a scalar.
        optimizer: Makes the optimizer from the parameters.
        trained: The parameters that the optimizer is given; all of them by default.
        schedule: Makes a scheduler from the optimizer.
        interval: What the scheduler is stepped by, ``"step"`` or ``"epoch"``.
        accuracy: Whether to log the accuracy of the validation pass: the share of rows whose largest output is the
            label, or for a single output whose side of a half it is.
    """

    def __init__(
        self,
        net: nn.Module,
        loss: Loss,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        *,
        trained: Callable[[nn.Module], Iterable[nn.Parameter]] = nn.Module.parameters,
        schedule: Callable[[torch.optim.Optimizer], Any] | None = None,
        interval: str = "step",
        accuracy: bool = False,
    ) -> None:
        super().__init__()
        self.net = net
        self.loss = loss
        self.make_optimizer = optimizer
        self.trained = trained
        self.make_schedule = schedule
        self.interval = interval
        self.accuracy = accuracy
        self.zeroes = True

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.net(inputs)
        return outputs

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        inputs, targets = batch
        return self.loss(self(inputs), targets)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        inputs, targets = batch
        outputs = self(inputs)
        self.log("val_loss", self.loss(outputs, targets))
        if self.accuracy:
            self.log("val_acc", right(outputs, targets))

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.trained(self.net))
        if self.make_schedule is None:
            return optimizer
        schedule = {"scheduler": self.make_schedule(optimizer), "interval": self.interval}
        return {"optimizer": optimizer, "lr_scheduler": schedule}


class ByHand(Patient):
    """Steps its optimizer itself, and may forget to zero the gradients."""

    def __init__(self, *args: Any, zeroes: bool, **options: Any) -> None:
        super().__init__(*args, **options)
        self.automatic_optimization = False
        self.zeroes = zeroes

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        optimizer: Any = self.optimizers()
        loss = super().training_step(batch, batch_idx)
        if self.zeroes:
            optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return loss


@dataclass
class Program:
    """A training program, ready to run.

    Attributes:
        module: The model.
        train: The training data.
        val: The validation data, if there is any.
        options: Of the Trainer; ``max_epochs`` at least.
        gain: How much better than the constant predictor the trained model is, 0 for as good.
    """

    module: Patient
    train: DataLoader[Any]
    gain: Callable[[Patient], float]
    val: DataLoader[Any] | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Pair:
    """A sick program and its healthy twin, or a healthy control alone.

    Attributes:
        number: Its number in the table.
        title: What it is, in a few words.
        causes: The names of the rules that count as having found it.
        healthy: Makes the healthy program from a seed.
        sick: Makes the sick program from a seed; None for a control.
        reachable: The gain of a run that went well, for a control, which has no twin to compare with.
    """

    number: int
    title: str
    causes: tuple[str, ...]
    healthy: Callable[[int], Program]
    sick: Callable[[int], Program] | None = None
    reachable: float | None = None


def loader(inputs: Tensor, targets: Tensor, batch: int | None = None, *, shuffle: bool = True) -> DataLoader[Any]:
    """Serves the rows in batches; without a size all of them in one."""
    return DataLoader(TensorDataset(inputs, targets), batch or len(inputs), shuffle=shuffle and batch is not None)


def right(outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns the accuracy of outputs of shape [N, classes], or [N, 1] for two of them."""
    guesses = outputs.argmax(1) if outputs.shape[1] > 1 else (outputs[:, 0] > 0.5).long()
    return (guesses == targets.reshape(-1).long()).float().mean()


def accuracy_gain(inputs: Tensor, labels: Tensor) -> Callable[[Patient], float]:
    """Measures the accuracy over that of the most frequent class."""
    constant = float(torch.bincount(labels.reshape(-1).long()).max()) / len(labels)

    def gain(module: Patient) -> float:
        outputs = module(inputs)
        return float(right(outputs, labels)) - constant if bool(outputs.isfinite().all()) else float("nan")

    return gain


def error_gain(inputs: Tensor, targets: Tensor) -> Callable[[Patient], float]:
    """Measures the share of the targets' variance that the squared error is under: the mean's own is none."""
    variance = float(targets.var(0, unbiased=False).mean())
    return lambda module: 1 - float((module(inputs).reshape(targets.shape) - targets).square().mean()) / variance


def loss_gain(inputs: Tensor, targets: Tensor, constant: float) -> Callable[[Patient], float]:
    """Measures how far the program's own loss is under that of the best constant prediction."""
    return lambda module: constant - float(module.loss(module(inputs), targets))
