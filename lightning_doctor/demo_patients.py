"""The sick and cured networks of ``lightning-doctor demo``, and how one of them is trained."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_doctor.callbacks.doctor import Doctor
from lightning_doctor.findings import Finding
from lightning_doctor.report import Report

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.loggers import TensorBoardLogger
else:
    try:
        from lightning.pytorch import Callback, LightningModule, Trainer
        from lightning.pytorch.loggers import TensorBoardLogger
    except ModuleNotFoundError:
        from pytorch_lightning import Callback, LightningModule, Trainer
        from pytorch_lightning.loggers import TensorBoardLogger

_BATCH_SIZE = 32
_VALIDATION = slice(1300, None)

Optimizer = torch.optim.Optimizer


class Classifier(LightningModule):
    """A network that tells ten digits apart.

    Args:
        network: From 64 pixels to 10 scores.
        optimizer: Makes the optimizer of its parameters.
        schedule: Makes the scheduler of that optimizer.
        interval: What the schedule is stepped by: ``"epoch"`` or ``"step"``.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        schedule: Callable[[Optimizer], Any] | None = None,
        interval: str = "epoch",
    ) -> None:
        super().__init__()
        self.network = network
        self.optimizer = optimizer
        self.schedule = schedule
        self.interval = interval

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Returns the cross-entropy of a batch."""
        pixels, digits = batch
        loss = nn.functional.cross_entropy(self.network(pixels), digits)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Logs the cross-entropy and the accuracy."""
        pixels, digits = batch
        scores = self.network(pixels)
        self.log("val_loss", nn.functional.cross_entropy(scores, digits))
        self.log("val_acc", (scores.argmax(dim=1) == digits).float().mean())

    def configure_optimizers(self) -> Any:
        """Returns the optimizer, with its schedule where there is one."""
        optimizer = self.optimizer(self.parameters())
        if self.schedule is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.schedule(optimizer), "interval": self.interval},
        }


@dataclass(frozen=True, kw_only=True)
class Patient:
    """One network and the way it is trained.

    Attributes:
        name: Its folder under the demo's.
        story: What is done to it, as a clause.
        sick: Whether the doctor should find something.
        build: Makes it, given the number of epochs.
        epochs: How long it is trained where nothing else is asked for.
        samples: How many digits it is trained on.
        floor: The least deviation that a pixel is divided by; some pixels are always blank.
    """

    name: str
    story: str
    sick: bool
    build: Callable[[int], Classifier]
    epochs: int = 20
    samples: int = 1200
    floor: float = 0.1


def _layers(*widths: int, dropout: float = 0.0) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(widths[0], widths[1])]
    for before, after in pairwise(widths[1:]):
        layers += [nn.ReLU(), nn.Dropout(dropout)] if dropout else [nn.ReLU()]
        layers.append(nn.Linear(before, after))
    return nn.Sequential(*layers)


def _plain(lr: float = 0.1) -> Classifier:
    return Classifier(_layers(64, 64, 10), lambda parameters: torch.optim.SGD(parameters, lr=lr))


def _decaying(epochs: int, interval: str) -> Classifier:
    def schedule(optimizer: Optimizer) -> Any:
        return torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=epochs)

    network = _layers(64, 64, 10)
    return Classifier(network, lambda parameters: torch.optim.SGD(parameters, lr=0.1), schedule, interval)


def _memorizing() -> Classifier:
    return Classifier(_layers(64, 512, 512, 10), lambda parameters: torch.optim.Adam(parameters, lr=0.003))


def _regularized() -> Classifier:
    network = _layers(64, 128, 10, dropout=0.3)
    return Classifier(network, lambda parameters: torch.optim.AdamW(parameters, lr=0.001, weight_decay=0.01))


PATIENTS = (
    Patient(
        name="step_size_sick",
        story="SGD with lr 10, a hundred times too high",
        sick=True,
        build=lambda _: _plain(lr=10.0),
    ),
    Patient(
        name="step_size_cured",
        story="SGD with lr 0.1",
        sick=False,
        build=lambda _: _plain(),
    ),
    Patient(
        name="memorizing_sick",
        story="300,000 parameters on 60 digits",
        sick=True,
        build=lambda _: _memorizing(),
        epochs=40,
        samples=60,
    ),
    Patient(
        name="memorizing_cured",
        story="10,000 parameters on 1,200 digits, with dropout and weight decay",
        sick=False,
        build=lambda _: _regularized(),
    ),
    Patient(
        name="schedule_sick",
        story="a decay over all epochs, but stepped per batch",
        sick=True,
        build=lambda epochs: _decaying(epochs, "step"),
    ),
    Patient(
        name="schedule_cured",
        story="the same decay, stepped per epoch",
        sick=False,
        build=lambda epochs: _decaying(epochs, "epoch"),
    ),
    Patient(
        name="blank_pixels_sick",
        story="pixels divided by their deviation, which is 0 where all are blank",
        sick=True,
        build=lambda _: _plain(),
        epochs=5,
        floor=0.0,
    ),
    Patient(
        name="blank_pixels_cured",
        story="pixels divided by their deviation or 0.1",
        sick=False,
        build=lambda _: _plain(),
    ),
)


def train(
    patient: Patient,
    pixels: Any,
    digits: Any,
    folder: str | Path,
    epochs: int,
    *,
    on_epoch: Callable[[], Any],
    on_finding: Callable[[Finding], Any],
) -> Report:
    """Trains one network under a doctor's eyes.

    Args:
        patient: Which one.
        pixels: All digits, shape ``[N, 64]``.
        digits: What they show, shape ``[N]``.
        folder: Where its log goes.
        epochs: How long.
        on_epoch: Called after each epoch.
        on_finding: Called with what the doctor finds, as it is found.
    """
    doctor = Doctor(on_finding=on_finding)
    with _quiet():
        torch.manual_seed(0)
        training, validation = _loaders(patient, torch.tensor(pixels, dtype=torch.float32), torch.tensor(digits))
        trainer = Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=TensorBoardLogger(folder, name=patient.name),
            callbacks=[doctor, _Counter(on_epoch)],
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        try:
            trainer.fit(patient.build(epochs), training, validation)
        except SystemExit:
            # What Lightning makes of Ctrl-C.
            raise KeyboardInterrupt from None
    if doctor.report is None:
        raise RuntimeError(f"there is no report on {patient.name}")
    return doctor.report


class _Counter(Callback):
    def __init__(self, count: Callable[[], Any]) -> None:
        self.count = count

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.count()


def _loaders(patient: Patient, pixels: Tensor, digits: Tensor) -> tuple[DataLoader[Any], DataLoader[Any]]:
    known = pixels[: patient.samples]
    scaled = (pixels - known.mean(dim=0)) / known.std(dim=0).clamp(min=patient.floor)
    training = TensorDataset(scaled[: patient.samples], digits[: patient.samples])
    validation = TensorDataset(scaled[_VALIDATION], digits[_VALIDATION])
    return DataLoader(training, _BATCH_SIZE, shuffle=True), DataLoader(validation, len(validation))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Holds back what would bury the table: Lightning's lines, and the doctor's summary of every single run."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "pytorch_lightning")]
    levels = [logger.level for logger in loggers]
    threads = torch.get_num_threads()
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        # More would make so small a network slower, and its sums differ from machine to machine.
        torch.set_num_threads(1)
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        torch.set_num_threads(threads)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
