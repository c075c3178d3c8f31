"""What a training run may be watched by: nothing, the doctor, and what one would pick instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from io import StringIO
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import DeviceStatsMonitor, LearningRateMonitor
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import grad_norm

from lightning_doctor import CurvatureProbe, Doctor
from tests.benchmarks.switched import Turn, beside, run_switched
from tests.benchmarks.turns import Turns, take_turns
from tests.benchmarks.watched_models import Task, Trained
from tests.reads import CountReads


@dataclass(frozen=True)
class Arm:
    """One way to watch a run.

    Attributes:
        callbacks: Makes the callbacks, one that logs what another lives off among them.
        needs: The module without which this arm is left out.
        validates: Whether the run has a validation loader.
    """

    callbacks: Callable[[], list[Any]] = list
    needs: str | None = None
    validates: bool = False


class LogLoss(Callback):
    """Logs the training loss of each step, as models do."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any) -> None:
        pl_module.log("train_loss", outputs["loss"])


class LogGradNorm(Callback):
    """Logs the norms of all gradients at each step, as Lightning's manual has it."""

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        pl_module.log_dict(grad_norm(pl_module, norm_type=2))


PLAIN, DOCTOR = "plain", "Doctor()"
PLAIN_VALIDATING, DOCTOR_VALIDATING = "plain, validating", "Doctor(), validating"


def _everything() -> list[Any]:
    return [Doctor(overhead=1.0), CurvatureProbe(every_n_steps=100)]


def _gradsnitch() -> list[Any]:
    return [LogLoss(), import_module("gradsnitch.integrations").lightning()]


def _training_doctor() -> list[Any]:
    return [import_module("training_doctor.integrations.lightning").TrainCheckLightningCallback(auto_print=False)]


ARMS = {
    PLAIN: Arm(),
    "a callback that does nothing": Arm(lambda: [Callback()]),
    DOCTOR: Arm(lambda: [Doctor()]),
    "Doctor, everything": Arm(_everything),
    "grad_norm, each step": Arm(lambda: [LogGradNorm()]),
    "DeviceStats + LearningRate": Arm(lambda: [DeviceStatsMonitor(), LearningRateMonitor("step")], needs="psutil"),
    "gradsnitch": Arm(_gradsnitch, needs="gradsnitch.integrations"),
    "training-doctor": Arm(_training_doctor, needs="training_doctor.integrations.lightning"),
    PLAIN_VALIDATING: Arm(validates=True),
    DOCTOR_VALIDATING: Arm(lambda: [Doctor()], validates=True),
}
# An arm is compared with the plain run of its kind.
BESIDE = {DOCTOR_VALIDATING: PLAIN_VALIDATING}


@dataclass
class Timing:
    """One run and its clock.

    Attributes:
        turns: The clock.
        spent: What the doctor says it took [seconds]; None without one.
    """

    turns: Turns
    spent: float | None = None

    @property
    def whole(self) -> float:
        """The processor time of the whole fit [seconds]."""
        return sum(self.turns.processor)

    def steps(self, times: list[float]) -> list[float]:
        """The length of a step in each turn of the second half, long after the first look [seconds]."""
        # The last turn ends with the fit.
        last = max(1, len(times) - 1)
        return [
            time / count for time, count in zip(times[last // 2 : last], self.turns.steps[last // 2 :], strict=False)
        ]


def available(names: list[str]) -> tuple[list[str], list[str]]:
    """The arms that can be run, and why the others cannot."""
    there, missing = [], []
    for name in names:
        needs = ARMS[name].needs
        try:
            if needs is not None:
                import_module(needs)
        except Exception as error:  # noqa: BLE001
            missing.append(f"{name} is left out: {needs} cannot be imported ({error})")
        else:
            there.append(name)
    return there, missing


def train_side_by_side(task: Task, names: list[str], steps: int) -> dict[str, Timing]:
    """Trains once under each arm, all of them taking turns."""
    timings = {name: Timing(Turns()) for name in names}
    callbacks = {name: ARMS[name].callbacks() for name in names}

    def work(name: str) -> None:
        fit(task, ARMS[name], callbacks[name], steps, timings[name].turns.step)

    with quiet():
        take_turns([(timing.turns, lambda name=name: work(name)) for name, timing in timings.items()])
    for name, timing in timings.items():
        report = next((c.report for c in callbacks[name] if isinstance(c, Doctor)), None)
        timing.spent = None if report is None else report.seconds
    return timings


def train_switched(task: Task, name: str, steps: int) -> list[tuple[Turn, Turn]]:
    """Trains once, an arm's callbacks there and away by turns; returns the turns that compare."""
    arm = ARMS[name]
    with quiet():
        turns = run_switched(lambda callbacks: fit(task, arm, callbacks, steps, lambda: None), arm.callbacks(), steps)
    return beside(turns)


def reads_per_ordinary_step(task: Task, steps: int) -> tuple[float, int]:
    """The blocking reads that the doctor adds to a step inside a window, and how many such steps there were."""
    doctor = Doctor()
    watched = _reads(task, ARMS[DOCTOR], [doctor], steps)
    plain = _reads(task, ARMS[PLAIN], [], steps)
    unordinary = _unordinary(doctor, steps)
    added = [watched[step] - plain[step] for step in range(1, steps - 1) if step not in unordinary]
    return (fmean(added) if added else 0.0), len(added)


def _reads(task: Task, arm: Arm, callbacks: list[Any], steps: int) -> list[int]:
    """Returns the reads from the beginning of each step to that of the next, hooks of callbacks included."""
    mode = CountReads()
    before: list[int] = []
    with quiet(), mode:
        fit(task, arm, callbacks, steps, _Note(mode, before))
    return [after - at for at, after in zip(before, [*before[1:], mode.reads], strict=True)]


class _Note:
    """Notes how many reads there were before each step."""

    def __init__(self, mode: CountReads, before: list[int]) -> None:
        self._mode, self._before = mode, before

    def __call__(self) -> None:
        self._before.append(self._mode.reads)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Note:
        return self


def _unordinary(doctor: Doctor, steps: int) -> set[int]:
    """Steps that are examined or probed or close a window, and those before them: a count ends in the next step."""
    closes = {1, 2, 4, 8, 16, *range(32, steps + 1, doctor.settings.every_n_steps)}
    assert doctor.report is not None
    marked = {step - 1 for step in closes} | set(doctor.report.history.get("curvature/loss").steps)
    return marked | {step - 1 for step in marked}


def fit(task: Task, arm: Arm, callbacks: list[Any], steps: int, at_step: Callable[[], object]) -> None:
    torch.manual_seed(0)
    module = Trained(task.net(), at_step)
    with TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="cpu", max_steps=steps, max_epochs=-1, callbacks=callbacks,
            logger=TensorBoardLogger(folder), default_root_dir=Path(folder), enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        )  # fmt: skip
        trainer.fit(module, task.loader(), task.loader(8) if arm.validates else None)


@contextmanager
def quiet() -> Iterator[None]:
    """What the arms print is not this benchmark's."""
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        yield
