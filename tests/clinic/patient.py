"""What a program of the clinic consists of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tests.clinic.variation import Variation

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

    def score(self, batch: Any) -> Tensor:
        """Returns the loss of a batch."""
        inputs, targets = batch
        return self.loss(self(inputs), targets)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.score(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.score(batch))
        if self.accuracy:
            inputs, targets = batch
            self.log("val_acc", right(self(inputs), targets).mean())

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
        loss = self.score(batch)
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
        by_trainer: Whether a Trainer runs it even without the doctor, as what it is about is Lightning's: precision,
            accumulation, several optimizers.
        doctor: Options of the Doctor.
    """

    module: Patient
    train: DataLoader[Any]
    gain: Callable[[Patient], float]
    val: DataLoader[Any] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    by_trainer: bool = False
    doctor: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Pair:
    """A sick program and its healthy twin, or a healthy control alone.

    Attributes:
        number: Its number in the table.
        title: What it is, in a few words.
        causes: The names of the rules that count as having found it.
        healthy: Makes the healthy program.
        sick: Makes the sick program; None for a control.
        reachable: The gain of a run that went well, for a control, which has no twin to compare with: the median of
            its plain runs over seeds 0, 1 and 2.
        wasteful: Whether the sick one is sick whatever it gains, as it only takes longer than it has to.
    """

    number: int
    title: str
    causes: tuple[str, ...]
    healthy: Callable[[Variation], Program]
    sick: Callable[[Variation], Program] | None = None
    reachable: float | None = None
    wasteful: bool = False


def right(outputs: Tensor, targets: Tensor, over: float = 0.5) -> Tensor:
    """Returns which rows are right, [N], of outputs of shape [N, classes], or [N, 1] for two of them.

    Args:
        outputs: Scores, or probabilities, or logits.
        targets: Labels.
        over: What a single output must be over to mean the second class.
    """
    guesses = outputs.argmax(1) if outputs.shape[1] > 1 else (outputs[:, 0] > over).long()
    return (guesses == targets.reshape(-1).long()).float()


def accuracy_gain(inputs: Tensor, labels: Tensor, over: float = 0.5) -> Callable[[Patient], float]:
    """Measures the accuracy over that of the most frequent class."""
    constant = float(torch.bincount(labels.reshape(-1).long()).max()) / len(labels)

    def gain(module: Patient) -> float:
        outputs = module(inputs)
        return float(right(outputs, labels, over).mean()) - constant if _finite(outputs) else float("nan")

    return gain


def balanced_gain(inputs: Tensor, labels: Tensor, over: float = 0.5) -> Callable[[Patient], float]:
    """Measures the mean of the classes' recalls over that of a constant guess."""
    classes = labels.reshape(-1).long()

    def gain(module: Patient) -> float:
        outputs = module(inputs)
        correct = right(outputs, labels, over)
        recalls = [float(correct[classes == label].mean()) for label in classes.unique()]
        return sum(recalls) / len(recalls) - 1 / len(recalls) if _finite(outputs) else float("nan")

    return gain


def _finite(outputs: Tensor) -> bool:
    return bool(outputs.isfinite().all())


def error_gain(inputs: Tensor, targets: Tensor) -> Callable[[Patient], float]:
    """Measures the share of the targets' variance that the squared error is under: the mean's own is none."""
    variance = float(targets.var(0, unbiased=False).mean())
    return lambda module: 1 - float((module(inputs).reshape(targets.shape) - targets).square().mean()) / variance


def loss_gain(inputs: Tensor, targets: Tensor, constant: float) -> Callable[[Patient], float]:
    """Measures how far the program's own loss is under that of the best constant prediction."""
    return lambda module: constant - float(module.loss(module(inputs), targets))
