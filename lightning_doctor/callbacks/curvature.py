"""Curvature: what kind of point the run is at, and whether its steps fit the curvature there."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_doctor.callbacks.meeting import Meeting, Parted
from lightning_doctor.callbacks.monitor import Monitor
from lightning_doctor.callbacks.point import Point, Sample, Supply, described, halved, is_out_of_memory, supply
from lightning_doctor.callbacks.rehearsal import Rehearsal, Unrehearsable, obstacle
from lightning_doctor.callbacks.shards import Whole
from lightning_doctor.gradient_noise import NoiseScale
from lightning_doctor.measure.hessian import flat, vector_dtype
from lightning_doctor.measure.norms import are_sharded
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
# Memory that nobody misses [bytes]; what the graph of a gradient takes, in activations of a forward pass; what a
# training step takes beside them, gradients and the like, in vectors over the weights.
_SMALL, _GRAPH, _STEP_VECTORS = 1 << 26, 3, 3
# Products with the Hessian, each of which keeps a vector.
_LEAST_PRODUCTS, _MOST_PRODUCTS = 16, 100
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
        every_n_steps: How often to ask what kind of point this is [optimizer steps], from the next window on; by
            default only on a plateau and at the end.
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
        self._judges = self._ends = False
        self._starts_at = 0
        self._before: list[Tensor] | None = None
        self._gauge_at, self._verdict_at = _FIRST, self.every_n_steps or _PLATEAU
        self._costs = {False: 0.0, True: 0.0}
        self._gauged = 0.0
        self.kept = 2 * _VERDICT
        run = case.run
        # Ranks that hold a model in shards gather it, if all of them will.
        self._gathers = case.together or run.trainer.world_size == 1
        reason = obstacle(run.trainer, run.module, steps=self.probe_loss is None, gathers=self._gathers)
        if reason is None and len(run.optimizers) > 1:
            reason = f"{len(run.optimizers)} optimizers: no single loss has a curvature to step by"
        self._able = reason is None
        case.history.lack(self.signals, reason or "no probe was due")

    def before_batch(self, case: Case, batch: Any, batch_idx: int) -> None:
        """Keeps a batch to probe with, as it is before the model may change it."""
        if self._collecting and case.pace.steps >= self._starts_at and len(self._batches) < self._wanted:
            try:
                self._batches.append((copy.deepcopy(batch), batch_idx))
            except Exception as error:  # noqa: BLE001
                # What is in a batch is the user's business: not everything can be copied.
                self._collecting = False
                self._give_up(case, f"a batch cannot be copied ({type(error).__name__}: {error})")

    def before_step(self, case: Case, optimizer: Optimizer) -> None:
        """Keeps the weights that the step to be looked along starts from."""
        if self._collecting and len(self._batches) == self._wanted:
            self._before = [parameter.detach().clone() for parameter in _trained(case)]

    def probe(self, case: Case) -> None:
        """Collects batches when it is time, and probes when they are there."""
        if not self._collecting or len(self._batches) < self._wanted:
            return
        self._collecting = False
        batches, self._batches = self._batches, []
        before, self._before = self._before, None
        began = case.budget.clock()
        deadline = began + case.budget.left() - case.pace.left_for_rules / 2
        meeting = Meeting(case.together, lambda: case.budget.clock() < deadline)
        device = case.run.trainer.strategy.root_device
        try:
            self._look(case, batches, before, meeting)
            meeting.close(device)
        except Parted as error:
            self._give_up(case, str(error))
        except Exception as error:  # noqa: BLE001
            meeting.part(device)
            if isinstance(error, Unrehearsable):
                self._give_up(case, str(error))
            else:
                # The user's own step, which may not bear being run apart from the run.
                self._give_up(case, f"a rehearsed training step failed ({type(error).__name__}: {error})")
        self._costs[self._judges] = case.budget.clock() - began
        if self._judges:
            self.kept = min(self.kept, _VERDICT)
        else:
            self._gauged += self._costs[False]

    def end(self, case: Case) -> None:
        """Lets go of batches and weights."""
        self._batches.clear()
        self._before = None

    def wishes(self, case: Case) -> list[float]:
        """Says whether this rank would probe in the coming window, and whether for a verdict."""
        self._ends = False
        if not self._able or self._collecting:
            return [0.0, 0.0]
        step, planned = case.pace.steps, case.history.fact("trainer.planned_steps")
        if isinstance(planned, int):
            # The last batches of the run, if they come before the next window ends.
            last = planned - _steps_wanted(case, self.samples)
            self._ends = step <= last < case.pace.following(step)
        verdict = self._ends or (step >= self._verdict_at and (self.every_n_steps is not None or _is_plateau(case)))
        gauge = verdict or step >= self._gauge_at
        # Of the first look one verdict on the way, and one at the end; the others must be earned.
        dear, room = max(self._costs[True], _DEARER * self._costs[False]), case.room(self)
        earned = self._costs[True] and not self._ends
        verdict = verdict and (case.budget.has_earned(dear) if earned else dear <= room)
        cost = self._costs[False]
        # What no verdict will be had for need not be kept.
        first = self._ends or (self._gauged + cost <= _FIRST_GAUGES and cost <= room - self.kept)
        gauge = gauge and ((first and cost <= room) or case.budget.has_earned(cost))
        if self._ends:
            # Whatever others have yet to do may take what was kept for this.
            self.kept = 0.0
        return [float(verdict or gauge), float(verdict)]

    def heed(self, case: Case, means: list[float]) -> None:
        """Begins to collect batches, if every rank would."""
        step = case.pace.steps
        probes, judges = (mean == 1.0 for mean in means)
        if step >= self._verdict_at:
            later = _GROWTH if judges else 1.25
            self._verdict_at = step + self.every_n_steps if self.every_n_steps else math.ceil(later * step)
        if step >= self._gauge_at:
            self._gauge_at = math.ceil(_GROWTH * step)
        if probes:
            self._collecting, self._judges = True, judges
            self._wanted = _batches_wanted(case, self.samples)
            planned = case.history.fact("trainer.planned_steps")
            self._starts_at = planned - _steps_wanted(case, self.samples) if self._ends else step

    def _look(self, case: Case, batches: list[Sample], before: list[Tensor] | None, meeting: Meeting) -> None:
        rehearsal = Rehearsal(
            case.run.trainer,
            case.run.module,
            steps=self.probe_loss is None,
            whole=meeting.whole if self._gathers else None,
        )
        facts = case.history.fact
        samples = supply(
            batches,
            whole=facts("trainer.batches_per_epoch") == 1,
            batch_size=facts("data.batch_size"),
            samples=facts("data.train_samples"),
        )
        notes: list[str] = []
        if are_sharded(_trained(case)):
            notes.append("each rank looks at a copy of the whole model, which it holds a part of")
        samples, most = self._fitting(rehearsal, samples, notes, meeting)
        while True:
            try:
                self._measure(case, Point(rehearsal, samples, self.probe_loss, meeting), before, notes, most)
                return
            except (RuntimeError, MemoryError) as error:  # noqa: PERF203
                # One rank of several cannot begin again on its own.
                fewer = halved(samples) if is_out_of_memory(error) and meeting.world == 1 else None
                if fewer is None:
                    raise
                notes.append(f"the memory did not suffice for {samples.rows or 'so many'} samples")
                samples = fewer

    def _fitting(self, rehearsal: Rehearsal, samples: Supply, notes: list[str], meeting: Meeting) -> tuple[Supply, int]:
        """Returns as many samples, and as many products, as fit into the memory of two training steps, about."""
        point = Point(rehearsal, samples, self.probe_loss, meeting)
        activations, vector = point.activation_bytes(), point.weight_bytes()
        limit = max(_SMALL, 2 * (activations + _STEP_VECTORS * vector))
        whole, rows = samples.rows, samples.sizes[0]
        while rows and samples.rows and _GRAPH * activations * samples.rows / rows > limit:
            fewer = halved(samples)
            if fewer is None:
                break
            samples = fewer
        if samples.rows != whole:
            notes.append(f"it looks at {samples.rows} of {whole} samples, for the memory of two training steps")
        return samples, max(_LEAST_PRODUCTS, min(_MOST_PRODUCTS, limit // vector))

    def _measure(self, case: Case, point: Point, before: list[Tensor] | None, notes: list[str], most: int) -> None:
        point.prepare()
        gauges = point.gauges(_update(case, before, point.whole))
        noise = point.noise_scale()
        if isinstance(noise, str):
            case.history.lack(_NOISE, noise)
        else:
            gauges |= _noise(noise)
            case.history.lack(_NOISE, noise.reason or "the noise of the gradient is undefined")
        step = case.run.step
        if self._judges:
            diagonal = preconditioner(case.run.optimizers[0], _trained(case), point.whole)
            if diagonal is not None:
                gauges["curvature/preconditioned"] = point.preconditioned(diagonal)
            verdict = point.judge(most)
            if verdict.ends is not None:
                gauges |= {"curvature/high": verdict.ends.high, "curvature/low": verdict.ends.low}
            way = {"step": step, "backend": point.backend, "notes": [*notes, *point.notes]}
            line = point.line(verdict)
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
    if case.together:
        # Each rank has as many.
        size *= case.run.trainer.world_size
    return 2 * min(math.ceil(samples / size), max(_MOST_BATCHES, math.ceil(_FEW_SAMPLES / size)))


def _steps_wanted(case: Case, samples: int) -> int:
    return math.ceil(_batches_wanted(case, samples) / max(1, case.run.accumulate))


def _is_plateau(case: Case) -> bool:
    """Whether the loss has stopped to fall, with something left to learn."""
    now = standing(case.history)
    return not now.improving and not now.good


def _trained(case: Case) -> list[Tensor]:
    return [parameter for parameter in case.run.module.parameters() if parameter.requires_grad]


def _update(case: Case, before: list[Tensor] | None, whole: Whole) -> Tensor | None:
    """Returns the step that was made last, flat; None where it is not known."""
    after = _trained(case)
    if before is None or len(before) != len(after):
        return None
    moved = [whole(now.detach() - then) for now, then in zip(after, before, strict=True)]
    return flat(moved, after, vector_dtype(after))


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
