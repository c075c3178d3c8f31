"""What is left of a run of 200,000 steps, and what it took meanwhile: `python -m tests.benchmarks.long_run`.

A network of a few weights is trained twice, each time in a process of its own, without and with the doctor, both with
TensorBoard's logger. Printed are the memory of the process over time, the bytes in the event file, its own and the
doctor's, each a thousand steps, the snapshots of the report in it, and the size of `doctor.json`.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.compat.proto.event_pb2 import Event
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from lightning_doctor import Doctor
from lightning_doctor.logs.event_files import _records
from lightning_doctor.sinks.snapshot_bytes import TAG

STEPS, EPOCH, ROWS = 200_000, 500, 16
# Ends of the stretches whose event bytes and memory are told apart.
_STRETCHES = 10


class Batches(Dataset[Any]):
    """Batches that are there already, with labels of which every tenth is wrong: the loss never rests."""

    def __init__(self, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.inputs = torch.randn(count, ROWS, 4, generator=generator)
        self.labels = self.inputs[..., :3].argmax(-1)
        wrong = torch.rand(count, ROWS, generator=generator) < 0.1
        self.labels = torch.where(wrong, torch.randint(0, 3, (count, ROWS), generator=generator), self.labels)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.labels[index]


class Tiny(LightningModule):
    """Two layers of a few weights: a step takes hardly longer than Lightning's loop."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05)


class Watch(Callback):
    """Notes now and then what ``measure`` says."""

    def __init__(self, every: int, measure: Callable[[], float]) -> None:
        self.every = every
        self.measure = measure
        self.seen: dict[int, float] = {}

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step % self.every == 0:
            self.seen[trainer.global_step] = self.measure()


@dataclass
class Remains:
    """What a run has left.

    Attributes:
        memory: What was measured, by step.
        seconds: How long it took.
        events: The bytes of the event file, by the stretch of the run they speak of.
        own: Those of them that the doctor wrote.
        snapshots: The size of each snapshot of the report in the event file [bytes].
        report: The size of ``doctor.json``; 0 without one.
        points: The points of all series in the report.
        share: The doctor's share of the time, by its own clock.
    """

    memory: dict[int, float]
    seconds: float
    events: Counter[int] = field(default_factory=Counter)
    own: Counter[int] = field(default_factory=Counter)
    snapshots: list[int] = field(default_factory=list)
    report: int = 0
    points: int = 0
    share: float = 0.0


def resident() -> float:
    """The memory of this process [MiB]."""
    if sys.platform == "linux":
        import os

        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)


def train(folder: Path, steps: int, *callbacks: Any, measure: Callable[[], float] = resident) -> Remains:
    """Trains for so many steps, and looks at what is left."""
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    watch = Watch(max(1, steps // _STRETCHES), measure)
    logger = TensorBoardLogger(folder)
    trainer = Trainer(
        accelerator="cpu", max_steps=steps, max_epochs=-1, callbacks=[*callbacks, watch], logger=logger,
        default_root_dir=folder, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0,
    )  # fmt: skip
    batches = min(EPOCH, steps)
    began = perf_counter()
    trainer.fit(
        Tiny(),
        DataLoader(Batches(batches, 0), batch_size=None, shuffle=True),
        DataLoader(Batches(8, 1), batch_size=None),
    )
    remains = Remains(watch.seen, perf_counter() - began)
    doctor = next((callback for callback in callbacks if isinstance(callback, Doctor)), None)
    _read_folder(Path(logger.log_dir), steps, remains)
    if doctor is not None:
        assert doctor.report is not None
        assert doctor.report.notes == []
        history = doctor.report.history
        remains.points = sum(len(history[name]) for name in history.names())
        remains.share = doctor.report.overhead or 0.0
    return remains


def _read_folder(folder: Path, steps: int, remains: Remains) -> None:
    for path in folder.glob("*tfevents*"):
        for data, _ in _records(path):
            event = Event.FromString(data)
            stretch = min(_STRETCHES - 1, event.step * _STRETCHES // steps)
            # Its header and both checksums take sixteen bytes.
            remains.events[stretch] += len(data) + 16
            tags = [value.tag for value in event.summary.value]
            if any(tag.startswith(("doctor/", "custom_scalars")) for tag in tags):
                remains.own[stretch] += len(data) + 16
            if TAG in tags:
                remains.snapshots.append(len(data))
    file = folder / "doctor.json"
    remains.report = file.stat().st_size if file.exists() else 0


def lines(steps: int, plain: Remains, watched: Remains) -> list[str]:
    """Returns both runs side by side."""
    found = [
        f"{steps:,} steps; plain {plain.seconds:.0f} s, with the doctor {watched.seconds:.0f} s, "
        f"of which it took {100 * watched.share:.2f} % by its own clock",
        f"{'step':>10}{'memory [MiB], plain':>22}{'with the doctor':>18}{'event bytes per 1,000 steps, plain':>38}"
        f"{'the doctor’s':>15}",
    ]
    thousands = steps / _STRETCHES / 1000
    for index, step in enumerate(sorted(watched.memory)[:_STRETCHES]):
        found.append(
            f"{step:>10,}{plain.memory[step]:22.1f}{watched.memory[step]:18.1f}"
            f"{(plain.events[index]) / thousands:38,.0f}{watched.own[index] / thousands:15,.0f}"
        )
    found += [
        f"event file: plain {sum(plain.events.values()) / 1e6:.2f} MB, with the doctor "
        f"{sum(watched.events.values()) / 1e6:.2f} MB, {sum(watched.own.values()) / 1e6:.2f} MB of them its own",
        f"snapshots of the report: {len(watched.snapshots)}, "
        f"{max(watched.snapshots, default=0):,} bytes at most, {sum(watched.snapshots):,} together",
        f"doctor.json: {watched.report:,} bytes; {watched.points:,} points in its series",
    ]
    return found


def _arm(watched: bool, steps: int) -> Remains:
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    with TemporaryDirectory() as folder, redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        return train(Path(folder), steps, *([Doctor()] if watched else []))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measures what a long run leaves and takes.")
    parser.add_argument("--steps", type=int, default=STEPS, help="how long it is (default: %(default)s)")
    options = parser.parse_args(argv)
    found = []
    for watched in (False, True):
        # A process of its own each: memory that one has had does not come back.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            found.append(pool.submit(_arm, watched, options.steps).result())
    print(*lines(options.steps, *found), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
