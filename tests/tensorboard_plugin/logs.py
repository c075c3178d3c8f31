"""Log directories for the tests of the Doctor tab: runs of the clinic, and snapshots written as a run writes them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter

from lightning_doctor import Doctor
from lightning_doctor.findings import Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.report import Report
from lightning_doctor.sinks.tensorboard import Letterbox
from tests.clinic.programs import PAIRS
from tests.clinic.variation import Variation
from tests.runs import QUIET

# Programs of the clinic: descent that overshoots and ends in NaN, the same that does not, a saddle, and the way by it.
PROGRAMS = {"descent/sick": (25, True), "descent/cured": (25, False), "saddle": (133, True), "way by": (133, False)}


class Logger:
    """What a letterbox needs of a logger."""

    def __init__(self, folder: Path) -> None:
        self.experiment = SummaryWriter(str(folder))


def train(folder: Path, name: str, number: int, *, sick: bool, callbacks: Iterable[Callback] = ()) -> Report:
    """Trains a program of the clinic with a doctor and a TensorBoard logger."""
    pair = next(pair for pair in PAIRS if pair.number == number)
    make = pair.sick if sick else pair.healthy
    assert make is not None
    torch.set_num_threads(1)
    seed_everything(0, verbose=False)
    program = make(Variation(0))
    # All the time it wants: how far a share goes depends on how busy the machine is.
    doctor = Doctor(strict=True, overhead=1.0, **program.doctor)
    options: dict[str, Any] = {**QUIET, **program.options}
    options["logger"] = TensorBoardLogger(folder, name=name, version="")
    Trainer(callbacks=[doctor, *callbacks], default_root_dir=folder, **options).fit(
        program.module, program.train, program.val
    )
    assert doctor.report is not None
    return doctor.report


def write(folder: Path, snapshots: Iterable[tuple[int, bytes]]) -> None:
    """Writes snapshots into a run, each with its step."""
    logger = Logger(folder)
    box = Letterbox([logger])
    for step, data in snapshots:
        box.snapshot(data, step)
    logger.experiment.close()
    assert box.failures() == []


def plain(folder: Path) -> None:
    """Writes a run that never saw a doctor."""
    writer = SummaryWriter(str(folder))
    writer.add_scalar("loss", 1.0, 0)
    writer.close()


def crowded(findings: int, seed: int = 0) -> Report:
    """A report with many findings, each with three curves."""
    history = History()
    for name in ("train_loss", "val_loss", "grad_norm"):
        for step in range(2_000):
            history.record(name, step, 1.0 + ((step * 7919 + seed) % 101) / 1000 + 2000 / (step + 100))
    found = [
        Finding(
            code=f"LD{101 + index}",
            name=f"illness_{index}",
            severity=(Severity.ERROR, Severity.WARNING, Severity.NOTE)[index % 3],
            summary=f"what was seen of {index}",
            remedy=f"what to do about {index}",
            evidence={"best": 1.25, "now": 2.5, "noise": 0.01},
            signals=("train_loss", "val_loss", "grad_norm"),
            onset=10 * index,
            step=20 * index,
            last_step=1999,
        )
        for index in range(findings)
    ]
    return Report(findings=found, healthy=["LD101"], step=1999, history=history)
