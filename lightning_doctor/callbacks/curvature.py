"""Curvature: what kind of point the run is at, and whether its steps fit the curvature there."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_doctor.callbacks.monitor import Monitor
from lightning_doctor.callbacks.pace import LEFT_FOR_RULES
from lightning_doctor.callbacks.point import Point, Sample, described, halved, is_out_of_memory, supply
from lightning_doctor.callbacks.rehearsal import Rehearsal, Unrehearsable, obstacle
from lightning_doctor.gradient_noise import NoiseScale
from lightning_doctor.measure.hessian import flat, vector_dtype
from lightning_doctor.measure.preconditioner import preconditioner
from lightning_doctor.progress import standing

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from lightning_doctor.callbacks.case import Case

_CAPACITY = 256
# Batches on each side, those that choose a direction and those that test it; of small ones as many as make up so many
# samples.
_MOST_BATCHES, _FEW_SAMPLES = 4, 64
# How many times longer a run must have become to be probed again.
_GROWTH = 2.0
# The first step after which there is an update to look along, and what is a plateau has had time to become one.
_FIRST, _PLATEAU = 7, 128
# What a verdict costs beside what is measured with every probe, about.
_DEARER = 5.0
# What probes without a verdict may take of a run's first look [seconds].
_FIRST_GAUGES = 0.2
# What a verdict is expected to take of it, of which there is one on the way and one at the end [seconds].
_VERDICT = 0.2

_NOISE = ("curvature/noise_scale", "curvature/least_noise_scale", "curvature/gradient_noise")
GAUGES = (
    "curvature/loss",
    "curvature/gradient_norm",
    "curvature/sharpness",
    "curvature/step_ratio",
    "curvature/preconditioned",
    *_NOISE,
    "curvature/high",
    "curvature/low",
)


class CurvatureProbe(Monitor):
    """Looks at the curvature of the training loss now and then, by Hessian-vector products on a copy of the model.

    Of each probe ``curvature/sharpness`` is the curvature along a batch's own gradient, ``curvature/step_ratio`` what
    the second order says of the optimizer's step (over 1 it raises the loss), ``curvature/noise_scale`` the batch size
    at which noise and signal of the gradient are equal [samples], ``curvature/least_noise_scale`` what that is at
    least, and ``curvature/gradient_noise`` the variance of one sample's gradient. Where the loss has stopped to fall,
    at the chosen intervals and at the end it also says what kind of point this is: ``curvature/high`` and
    ``curvature/low`` are the ends of the spectrum, ``curvature/preconditioned`` the largest eigenvalue as the Adam
    family meets it, and the fact ``curvature`` holds the verdict with all its numbers.

    Args:
        samples: How many training samples the Hessian is that of, as far as memory allows; as many test what it says.
        every_n_steps: How often to ask what kind of point this is [optimizer steps]; by default only on a plateau and
            at the end.
        probe_loss: The loss of a module on a batch, as ``probe_loss(module, batch)``, a scalar: for models whose
            training step cannot be run apart, as in manual optimization.

    Raises:
        ValueError: For a number of samples under 2, or an interval under 1.
    """

    signals = (*GAUGES, "curvature")

    def __init__(
        self,
        *,
        samples: int = 256,
        every_n_steps: int | None = None,
        probe_loss: Callable[[Any, Any], Tensor] | None = None,
    ) -> None:
        super().__init__()
        if samples < 2:
            raise ValueError(f"samples must be 2 or more, got {samples}")
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(f"every_n_steps must be 1 or more, got {every_n_steps}")
        self.samples = samples
        self.every_n_steps = every_n_steps
        self.probe_loss = probe_loss

    def begin(self, case: Case) -> None:
        """Asks whether this model can be tried on a copy."""
        self._batches: list[Sample] = []
        self._collecting = False
        self._wanted = 0
        self._judges = False
        self._before: list[Tensor] | None = None
        self._gauge_at, self._verdict_at = _FIRST, self.every_n_steps or _PLATEAU
        self._costs = {False: 0.0, True: 0.0}
        self._gauged = 0.0
        self.kept = 2 * _VERDICT
        run = case.run
        reason = obstacle(run.trainer, run.module, steps=self.probe_loss is None)
        if reason is None and len(run.optimizers) > 1:
            reason = f"{len(run.optimizers)} optimizers: no single loss has a curvature to step by"
        self._able = reason is None
        case.history.lack(self.signals, reason or "no probe was due")

    def before_batch(self, case: Case, batch: Any, batch_idx: int) -> None:
        """Keeps a batch to probe with, as it is before the model may change it."""
        if self._collecting and len(self._batches) < self._wanted:
            self._batches.append((copy.deepcopy(batch), batch_idx))

    def before_step(self, case: Case, optimizer: Optimizer) -> None:
        """Keeps the weights that the step to be looked along starts from."""
        if self._collecting and len(self._batches) == self._wanted:
            self._before = [p.detach().clone() for p in case.run.module.parameters() if p.requires_grad]

    def probe(self, case: Case) -> None:
        """Collects batches when it is time, and probes when they are there."""
        if not self._able:
            return
        if not self._collecting:
            if self._is_due(case):
                self._wanted = _batches_wanted(case, self.samples)
                self._collecting = True
            return
        if len(self._batches) < self._wanted:
            return
        self._collecting = False
        batches, self._batches = self._batches, []
        before, self._before = self._before, None
        began = case.budget.clock()
        try:
            self._look(case, batches, before)
        except Unrehearsable as error:
            self._give_up(case, str(error))
        except Exception as error:  # noqa: BLE001
            # The user's own step, which may not bear being run apart from the run.
            self._give_up(case, f"a rehearsed training step failed ({type(error).__name__}: {error})")
        self._costs[self._judges] = case.budget.clock() - began
        if self._judges:
            self.kept = _VERDICT
        else:
            self._gauged += self._costs[False]

    def end(self, case: Case) -> None:
        """Lets go of batches and weights."""
        self._batches.clear()
        self._before = None

    def _is_due(self, case: Case) -> bool:
        """Whether it is time, and the budget allows it."""
        step = case.run.step + 1
        planned = case.history.fact("trainer.planned_steps")
        ends = isinstance(planned, int) and step == planned - _steps_wanted(case, self.samples)
        if step < min(self._gauge_at, self._verdict_at) and not ends:
            return False
        self._judges = ends or (step >= self._verdict_at and (self.every_n_steps is not None or _is_plateau(case)))
        if step >= self._verdict_at:
            late = _GROWTH if self._judges else 1.25
            self._verdict_at = step + self.every_n_steps if self.every_n_steps else math.ceil(late * step)
        gauges = step >= self._gauge_at or self._judges
        if step >= self._gauge_at:
            self._gauge_at = math.ceil(_GROWTH * step)
        verdict = max(self._costs[True], _DEARER * self._costs[False])
        # Of the first look one verdict on the way, and one at the end; the others must be earned.
        affords = case.budget.has_earned if self._costs[True] and not ends else case.budget.allows
        self._judges = self._judges and affords(verdict + LEFT_FOR_RULES)
        if self._judges or not gauges:
            return self._judges
        cost = self._costs[False]
        # What no verdict will be had for need not be kept.
        first = self._gauged + cost <= _FIRST_GAUGES and case.budget.allows(cost + LEFT_FOR_RULES + self.kept)
        return first or case.budget.has_earned(cost) or (ends and case.budget.allows(cost + LEFT_FOR_RULES))

    def _look(self, case: Case, batches: list[Sample], before: list[Tensor] | None) -> None:
        rehearsal = Rehearsal(case.run.trainer, case.run.module, steps=self.probe_loss is None)
        facts = case.history.fact
        samples = supply(
            batches,
            whole=facts("trainer.batches_per_epoch") == 1,
            batch_size=facts("data.batch_size"),
            samples=facts("data.train_samples"),
        )
        notes: list[str] = []
        while True:
            try:
                self._measure(case, Point(rehearsal, samples, self.probe_loss), before, notes)
                return
            except (RuntimeError, MemoryError) as error:  # noqa: PERF203
                fewer = halved(samples) if is_out_of_memory(error) else None
                if fewer is None:
                    raise
                notes.append(f"the memory did not suffice for {samples.rows or 'so many'} samples")
                samples = fewer

    def _measure(self, case: Case, point: Point, before: list[Tensor] | None, notes: list[str]) -> None:
        point.prepare()
        gauges = point.gauges(_update(case, before))
        noise = point.noise_scale()
        if isinstance(noise, str):
            case.history.lack(_NOISE, noise)
        else:
            gauges |= _noise(noise)
            case.history.lack(_NOISE, noise.reason or "the noise of the gradient is undefined")
        step = case.run.step
        if self._judges:
            diagonal = preconditioner(case.run.optimizers[0], _trained(case))
            if diagonal is not None:
                gauges["curvature/preconditioned"] = point.preconditioned(diagonal)
            deadline = case.budget.left() - LEFT_FOR_RULES / 2 + case.budget.clock()
            verdict = point.judge(lambda: case.budget.clock() < deadline)
            if verdict.ends is not None:
                gauges |= {"curvature/high": verdict.ends.high, "curvature/low": verdict.ends.low}
            way = {"step": step, "backend": point.backend, "notes": [*notes, *point.notes]}
            line = point.line(verdict, lambda: case.budget.clock() < deadline)
            case.history.facts["curvature"] = {**way, **described(verdict, noise), **({"line": line} if line else {})}
            case.history.absent.pop("curvature", None)
        numbers = torch.tensor([gauges.get(name, math.nan) for name in GAUGES], dtype=torch.float64)
        case.window.put(step, numbers, partial(_receive, case))

    def _give_up(self, case: Case, reason: str) -> None:
        self._able = False
        case.history.lack(self.signals, reason)


def _batches_wanted(case: Case, samples: int) -> int:
    """Returns how many batches make so many samples to choose by, and as many to test by."""
    if case.history.fact("trainer.batches_per_epoch") == 1:
        return 1
    size = case.history.fact("data.batch_size")
    if not isinstance(size, int) or size <= 0:
        return 2 * _MOST_BATCHES
    return 2 * min(math.ceil(samples / size), max(_MOST_BATCHES, math.ceil(_FEW_SAMPLES / size)))


def _steps_wanted(case: Case, samples: int) -> int:
    return math.ceil(_batches_wanted(case, samples) / max(1, case.run.accumulate))


def _is_plateau(case: Case) -> bool:
    """Whether the loss has stopped to fall, with something left to learn."""
    now = standing(case.history)
    return not now.improving and not now.good


def _trained(case: Case) -> list[Tensor]:
    return [parameter for parameter in case.run.module.parameters() if parameter.requires_grad]


def _update(case: Case, before: list[Tensor] | None) -> Tensor | None:
    """Returns the step that was made last, flat; None where it is not known."""
    after = _trained(case)
    if before is None or len(before) != len(after):
        return None
    return flat([now.detach() - then for now, then in zip(after, before, strict=True)], after, vector_dtype(after))


def _noise(noise: NoiseScale) -> dict[str, float]:
    """Returns what is known of the noise: where it hides the gradient, its scale is known from below only."""
    found = {"curvature/gradient_noise": noise.noise}
    if noise.samples is not None:
        found["curvature/noise_scale"] = noise.samples
    if noise.signal_error is not None and noise.noise > 0:
        highest = max(noise.signal, 0.0) + 2 * noise.signal_error
        found["curvature/least_noise_scale"] = noise.noise / highest if highest > 0 else math.nan
    return found


def _receive(case: Case, step: int, numbers: list[float]) -> None:
    for name, value in zip(GAUGES, numbers, strict=True):
        if math.isfinite(value):
            case.history.record(name, step, value, capacity=_CAPACITY)
