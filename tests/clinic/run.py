"""Runs one program twice: by a plain loop, which tells how it ends, and under the doctor, who must not know.

The doctor's clock shows the time of this process alone: how busy a machine is must not decide what is found.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from time import perf_counter, process_time
from typing import Any
from unittest.mock import patch

import torch
from lightning.pytorch import Callback, Trainer, seed_everything

from lightning_doctor import Doctor, Severity
from lightning_doctor.budget import Budget
from lightning_doctor.callbacks import case
from lightning_doctor.sinks.report import write
from tests.clinic.outcome import gained, plain
from tests.clinic.patient import Program
from tests.clinic.programs import PAIRS
from tests.clinic.variation import Variation
from tests.runs import QUIET


@dataclass(frozen=True)
class Said:
    """A finding of a report, and since which step it is a warning or an error; None for a note."""

    name: str
    severity: str
    step: int | None


@dataclass(frozen=True)
class Run:
    """What came of one program.

    Attributes:
        number: Of its pair.
        sick: Whether it is the sick one.
        seed: Its seed.
        gain: Over the constant predictor, by the plain loop.
        watched_gain: That of the run that the doctor saw, which draws other batches in another order.
        yardstick: Whether three lines at the end of the plain loop would have flagged it.
        findings: Those of the final report, root cause first.
        withdrawn: Warnings and errors that were given on the way and are none in the final report.
        notes: What the doctor says went wrong inside.
        steps: How many optimizer steps it had.
        seconds: How long it took, both times.
        varied: Whether it is a neighbour of the program that is written down; the seed is then its index.
    """

    number: int
    sick: bool
    seed: int
    gain: float
    watched_gain: float
    yardstick: bool
    findings: tuple[Said, ...]
    withdrawn: tuple[Said, ...]
    notes: tuple[str, ...]
    steps: int
    seconds: float
    varied: bool = False

    @property
    def alarms(self) -> list[Said]:
        """The warnings and errors of the final report."""
        return [said for said in self.findings if said.step is not None]


def execute(number: int, sick: bool, seed: int, keep: Path | None = None, varied: bool = False) -> Run:
    """Runs one program.

    Args:
        number: Of the pair.
        sick: Which of the two.
        seed: Of data, initialization and order.
        keep: A folder for the reports; by default they are thrown away.
        varied: Run the neighbour whose index the seed is, instead of the program that is written down.
    """
    pair = next(pair for pair in PAIRS if pair.number == number)
    make = pair.sick if sick else pair.healthy
    if make is None:
        raise ValueError(f"program {number} is a control: it has no sick twin")
    began = perf_counter()
    torch.set_num_threads(1)
    vary = Variation.neighbour(number, seed) if varied else Variation(seed)
    with _quiet(), tempfile.TemporaryDirectory() as folder:
        seed_everything(vary.seed, verbose=False)
        gain, flagged = plain(make(vary), folder)
        seed_everything(vary.seed, verbose=False)
        program = make(vary)
        doctor, witness = _examine(program, folder)
        watched_gain = gained(program)
    report = doctor.report
    if report is None:
        raise RuntimeError(f"program {number} left no report")
    if keep is not None:
        write(report, keep / f"{number}-{'sick' if sick else 'healthy'}-{seed}")
    findings = tuple(
        Said(f.name, str(f.severity), _alarmed(f.severity, witness.alarms.get(f.name, report.step)))
        for f in report.findings
    )
    ill = {said.name for said in findings if said.step is not None}
    withdrawn = tuple(Said(name, "withdrawn", step) for name, step in witness.alarms.items() if name not in ill)
    return Run(
        number,
        sick,
        seed,
        gain,
        watched_gain,
        flagged,
        findings,
        withdrawn,
        tuple(report.notes),
        report.step + 1,
        perf_counter() - began,
        varied,
    )


def _alarmed(severity: Severity, step: int) -> int | None:
    return step if severity.rank else None


class _Witness(Callback):
    """Reads every report of a doctor: a report at the end does not tell what was a warning in between."""

    def __init__(self, doctor: Doctor) -> None:
        self.doctor = doctor
        self.alarms: dict[str, int] = {}
        self._last: object = None

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._read()

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self._read()

    def _read(self) -> None:
        report = self.doctor.report
        if report is not None and report is not self._last:
            self._last = report
            for finding in report.findings:
                if finding.severity.rank:
                    self.alarms.setdefault(finding.name, report.step)


def _examine(program: Program, folder: str) -> tuple[Doctor, _Witness]:
    doctor = Doctor(strict=True, **program.doctor)
    witness = _Witness(doctor)
    trainer = Trainer(callbacks=[doctor, witness], default_root_dir=folder, **{**QUIET, **program.options})
    with patch.object(case, "Budget", partial(Budget, clock=process_time)):
        trainer.fit(program.module, program.train, program.val)
    return doctor, witness


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Lightning's advice and the doctor's letters off the table."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
