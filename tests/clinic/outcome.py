"""How a program ends without the doctor."""

from __future__ import annotations

import math
from statistics import fmean
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from tests.clinic.patient import Program
from tests.runs import QUIET


def plain(program: Program, folder: str) -> tuple[float, bool]:
    """Returns the gain, NaN for a model that is lost, and whether the yardstick flags the losses."""
    epochs = _by_trainer(program, folder) if program.by_trainer else _by_loop(program)
    return gained(program), _flagged(epochs)


def gained(program: Program) -> float:
    """Returns the gain of the trained model, NaN for one that is lost."""
    program.module.eval()
    with torch.no_grad():
        return program.gain(program.module)


def _flagged(epochs: list[float]) -> bool:
    """Whether the three lines that any doctor has to beat find something in the mean losses of the epochs."""
    if not epochs:
        return False
    last = epochs[-1]
    return not math.isfinite(last) or last < 0 or last > 0.97 * epochs[0]


def _by_loop(program: Program) -> list[float]:
    module = program.module
    configured = module.configure_optimizers()
    optimizer = configured["optimizer"] if isinstance(configured, dict) else configured
    schedule = configured["lr_scheduler"] if isinstance(configured, dict) else None
    limit = program.options.get("gradient_clip_val")
    module.train()
    epochs: list[float] = []
    for _ in range(program.options["max_epochs"]):
        losses = []
        for batch in program.train:
            loss = module.score(batch)
            if module.zeroes:
                optimizer.zero_grad()
            loss.backward()
            if limit is not None:
                torch.nn.utils.clip_grad_norm_(module.parameters(), limit)
            optimizer.step()
            if schedule is not None and schedule["interval"] == "step":
                schedule["scheduler"].step()
            losses.append(loss.item())
        if schedule is not None and schedule["interval"] == "epoch":
            schedule["scheduler"].step()
        epochs.append(fmean(losses))
    return epochs


class _Losses(Callback):
    """Keeps the mean training loss of every epoch."""

    def __init__(self) -> None:
        self.epochs: list[float] = []
        self._losses: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if outputs:
            self._losses.append(float(outputs["loss"]))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if self._losses:
            self.epochs.append(fmean(self._losses))
        self._losses = []


def _by_trainer(program: Program, folder: str) -> list[float]:
    losses = _Losses()
    trainer = Trainer(callbacks=[losses], default_root_dir=folder, **{**QUIET, **program.options})
    trainer.fit(program.module, program.train, program.val)
    return losses.epochs
