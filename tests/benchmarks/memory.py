"""How much memory a piece of work takes at once; and a probe beside a step: `python -m tests.benchmarks.memory`."""

from __future__ import annotations

import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_doctor.budget import Budget
from lightning_doctor.callbacks.curvature import CurvatureProbe
from lightning_doctor.measure.lanczos import ends
from lightning_doctor.measure.landscape import Landscape
from tests.benchmarks.models import MODELS, Batch, Transformer

_QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}
# Batches of the run, enough for the most that a probe collects, and the step at which it begins to.
_BATCHES, _PROBE_AT = 48, 8


def peak(work: Callable[[], object]) -> int:
    """The most memory that tensors made meanwhile take at once [bytes]."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with quiet(), torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        work()
    now = most = 0
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps to itself what the profiler's own code says when it starts and stops."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


class Task(LightningModule):
    """A network in training, as a probe meets it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters())


def training_step(net: nn.Module, batch: Batch) -> int:
    """The peak of a forward and a backward pass, gradients included [bytes]."""
    return peak(lambda: cross_entropy(net(batch[0]), batch[1]).backward())


def optimizer_state(net: nn.Module) -> int:
    """The peak of the first step of Adam, which makes its state [bytes]."""
    return peak(torch.optim.Adam(net.parameters()).step)


def at_equal_batch(net: nn.Module, batch: Batch) -> int:
    """The peak of both ends of the spectrum on the batch of a step, certified [bytes]."""
    land = Landscape(net, lambda module, batch: cross_entropy(module(batch[0]), batch[1]))

    def verdict() -> None:
        hessian = land.hessian(batch)
        ends(hessian, hessian.gradient)
        hessian.release()

    return peak(verdict)


def as_it_chooses(net: nn.Module, batch: Batch) -> tuple[int, dict[str, Any]]:
    """The peak of all of a probe with a verdict in a run with batches like this, its copy included; and the verdict."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(len(batch[1]), (_BATCHES * len(batch[1]),), generator=generator)
    loader = DataLoader(TensorDataset(batch[0][rows], batch[1][rows]), len(batch[1]))
    look, taken = CurvatureProbe._look, []

    def measured(probe: CurvatureProbe, *arguments: Any, judges: bool) -> None:
        if judges and not taken:
            taken.append(peak(partial(look, probe, *arguments, judges=judges)))

    probe = CurvatureProbe(every_n_steps=_PROBE_AT)
    probe.settings.strict = True
    unlimited = patch.multiple(Budget, left=lambda _: 1e9, has_earned=lambda *_: True)
    said = redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO())
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(CurvatureProbe, "_look", measured),
        unlimited,
        said[0],
        said[1],
    ):
        Trainer(default_root_dir=Path(folder), callbacks=[probe], max_epochs=1, **_QUIET).fit(Task(net), loader)
    assert probe.report is not None
    return taken[0], dict(probe.report.history.facts["curvature"])


def many() -> tuple[nn.Module, Batch]:
    return Transformer(), (torch.randint(0, 1024, (32, 64)), torch.randint(0, 1024, (32, 64)))


def main() -> None:
    torch.set_num_threads(1)
    print("peaks of memory [MiB], and in training steps at the run's own batch size")
    columns = ("step", "Adam's state", "at equal batch", "the probe as it chooses", "samples")
    print(f"{'':24}{columns[0]:>8}{columns[1]:>14}{columns[2]:>18}{columns[3]:>26}{columns[4]:>9}")
    for name, make in {**MODELS, "GPT, 32 sequences": many}.items():
        torch.manual_seed(0)
        net, batch = make()
        step, state = training_step(net, batch), optimizer_state(net)
        net.zero_grad(set_to_none=True)
        equal = at_equal_batch(net, batch)
        chosen, verdict = as_it_chooses(net, batch)
        cells = [f"{size / 2**20:.1f} ({size / step:.1f})" for size in (equal, chosen)]
        print(
            f"{f'{name}, {len(batch[1])}':24}{step / 2**20:8.1f}{state / 2**20:14.1f}{cells[0]:>18}{cells[1]:>26}"
            f"{verdict['samples']:>9}"
        )


if __name__ == "__main__":
    main()
