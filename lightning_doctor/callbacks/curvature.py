"""Curvature: what kind of point the run is at, and whether its steps fit the curvature there."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_doctor.budget import too_dear
from lightning_doctor.callbacks.allowance import Allowance, TooLittleMemoryError
from lightning_doctor.callbacks.appointments import Appointment, Appointments
from lightning_doctor.callbacks.curvature_fact import described
from lightning_doctor.callbacks.free_memory import free_memory
from lightning_doctor.callbacks.gauges import GAUGES, NOISE, noise_gauges, receive_gauges, receive_noise
from lightning_doctor.callbacks.meeting import Meeting, Parted
from lightning_doctor.callbacks.micro_batches import MicroBatches
from lightning_doctor.callbacks.monitor import Monitor
from lightning_doctor.callbacks.point import Point, is_out_of_memory
from lightning_doctor.callbacks.rehearsal import Rehearsal, Unrehearsable, holds_whole, obstacle, why_not
from lightning_doctor.callbacks.shards import Whole
from lightning_doctor.callbacks.supply import Sample, Supply, halved, supply
from lightning_doctor.curvature import standing_probe
from lightning_doctor.measure.hessian import flat, vector_dtype
from lightning_doctor.measure.norms import are_sharded
from lightning_doctor.measure.preconditioner import preconditioner
from lightning_doctor.measure.rows import count_rows

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from lightning_doctor.callbacks.case import Case
    from lightning_doctor.gradient_noise import NoiseScale

# What a verdict leaves.
_ENDS = ("curvature", "curvature/high", "curvature/low")
_Gauges = dict[str, float]


class CurvatureProbe(Monitor):
    """Looks at the curvature of the training loss now and then, by Hessian-vector products on a copy of the model.

    Of each probe ``curvature/sharpness`` is the curvature along a batch's own gradient, ``curvature/step_ratio`` what
    the second order says of the optimizer's step (over 1 it raises the loss), ``curvature/noise_scale`` the batch size
    at which noise and signal of the gradient are equal [samples], ``curvature/least_noise_scale`` what that is at
    least, and ``curvature/gradient_noise`` the variance of one sample's gradient; where gradients are accumulated over
    batches these come from each few steps too. Where the loss has stopped to fall,
    at the chosen intervals and at the end it also says what kind of point this is: ``curvature/high`` and
    ``curvature/low`` are the ends of the spectrum, ``curvature/preconditioned`` the largest eigenvalue as the Adam
    family meets it, and the fact ``curvature`` holds the verdict with all its numbers.

    Args:
        samples: How many training samples the Hessian is that of, as far as memory allows; as many test what it says.
        every_n_steps: How often to ask what kind of point this is [optimizer steps], from the next window on; by
            default only on a plateau and at the end.
        probe_loss: The loss of a module on a batch, as ``probe_loss(module, batch)``, a scalar: for models whose
            training step cannot be run apart.

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
        self._seen = 0
        self._failed: Exception | None = None
        self._next: Appointment | None = None
        self._times = Appointments(self.samples, self.every_n_steps)
        self.kept = self._times.kept
        self._before: list[Tensor] | None = None
        run = case.run
        self._allowance = Allowance(lambda: free_memory(run.trainer.strategy.root_device, run.trainer.num_devices))
        # Ranks that hold a model in shards gather it, if all of them will.
        self._gathers = case.together or run.trainer.world_size == 1
        reason = obstacle(run.trainer, run.module, steps=self.probe_loss is None, gathers=self._gathers)
        if reason is None and len(run.optimizers) > 1:
            reason = f"{len(run.optimizers)} optimizers: no single loss has a curvature to step by"
        self._able = reason is None
        # Scaled gradients would have to be read to be unscaled.
        plain = run.automatic and run.scaler is None and len(run.optimizers) == 1
        holds = plain and holds_whole(run.trainer, run.trained())
        self._micro = MicroBatches(partial(receive_noise, case)) if holds else None
        case.history.lack(self.signals, reason or "no probe was due")

    def before_batch(self, case: Case, batch: Any, batch_idx: int) -> None:
        """Keeps a batch to probe with, as it is before the model may change it."""
        due = self._next
        collects = due is not None and case.pace.steps >= due.begins and self._seen < due.batches
        self._seen += collects
        try:
            if self._micro is not None:
                self._micro.before_batch(case, batch, batch_idx)
            if collects and self._failed is None:
                self._batches.append(_copied(batch, batch_idx))
        except Exception as error:  # noqa: BLE001
            self._fail(case, error)

    def awaits(self, case: Case) -> int | None:
        """Wants every batch from the one on that it collects them from."""
        return None if self._next is None else max(0, self._next.begins - case.pace.steps) * case.run.accumulate

    def before_step(self, case: Case, optimizer: Optimizer) -> None:
        """Keeps the weights that the step to be looked along starts from."""
        try:
            if self._micro is not None:
                self._micro.before_step(case)
            if self._next is not None and self._seen == self._next.batches:
                self._before = _kept(case.run.trained())
        except Exception as error:  # noqa: BLE001
            self._fail(case, error)

    def probe(self, case: Case) -> None:
        """Collects batches when it is time, and probes when they are there."""
        due = self._next
        if due is None or self._seen < due.batches:
            return
        self._next, self._seen = None, 0
        batches, self._batches = self._batches, []
        began = case.budget.clock()
        deadline = began + case.means.room(self)
        meeting = Meeting(case.together, lambda: case.budget.clock() < deadline)
        device = case.run.trainer.strategy.root_device
        try:
            if self._failed is not None:
                raise self._failed
            self._look(case, batches, meeting, judges=due.judges)
            meeting.close(device)
        except Parted as error:
            self._give_up(case, str(error))
        except Exception as error:  # noqa: BLE001
            meeting.part(device)
            self._give_up(case, why_not(error))
        self._before = None
        self._times.spent(due.judges, case.budget.clock() - began)
        self.kept = self._times.kept

    def end(self, case: Case) -> None:
        """Lets go of batches and weights."""
        self._batches.clear()
        self._before = self._micro = None

    def wishes(self, case: Case) -> list[float]:
        """Says whether this rank would probe in the coming window, and whether for a verdict."""
        if not self._able or self._next is not None:
            return [0.0, 0.0]
        wishes = self._times.wishes(case, case.means.room(self))
        self.kept = self._times.kept
        if self._times.missed:
            _lack(case, _ENDS if self._times.begun else self.signals, too_dear(self._times.missed))
        return wishes

    def heed(self, case: Case, means: list[float]) -> None:
        """Begins to collect batches, if every rank would."""
        self._next = self._times.heed(case, means) or self._next

    def _look(self, case: Case, batches: list[Sample], meeting: Meeting, *, judges: bool) -> None:
        rehearsal = Rehearsal(
            case.run.trainer,
            case.run.module,
            steps=self.probe_loss is None,
            whole=meeting.whole if self._gathers else None,
        )
        facts = case.history.fact
        size, served = facts("data.batch_size"), facts("data.train_samples")
        samples = supply(batches, whole=facts("trainer.batches_per_epoch") == 1, batch_size=size, samples=served)
        notes: list[str] = []
        if are_sharded(case.run.trained()):
            notes.append("each rank looks at a copy of the whole model, which it holds a part of")
        rows = count_rows(batches[0][0], size, served, least=1)
        point = self._point(rehearsal, samples, meeting)
        try:
            fewer, most = self._allowance.fit(point, samples, batches[0], rows, meeting)
        except TooLittleMemoryError:
            # There may be more another time.
            _lack(case, self.signals, "a probe does not fit into the memory that is free")
            return
        if fewer.rows != samples.rows:
            notes.append(f"it looks at {fewer.rows} of {samples.rows} samples, for the memory of two training steps")
        samples = fewer
        if judges and not most:
            _lack(case, _ENDS, "the vectors of a verdict do not fit into the memory that is free")
        while True:
            try:
                self._measure(case, self._point(rehearsal, samples, meeting), notes, most if judges else 0)
                return
            except (RuntimeError, MemoryError) as error:  # noqa: PERF203
                # One rank of several cannot begin again on its own.
                half = halved(samples) if is_out_of_memory(error) and meeting.world == 1 else None
                if half is None:
                    raise
                notes.append(f"the memory did not suffice for {samples.rows or 'so many'} samples")
                samples = half

    def _point(self, rehearsal: Rehearsal, samples: Supply, meeting: Meeting) -> Point:
        return Point(rehearsal, samples, self.probe_loss, meeting)

    def _measure(self, case: Case, point: Point, notes: list[str], most: int) -> None:
        """Measures, and gives a verdict by at most so many products; none by none."""
        point.prepare()
        gauges = point.gauges(_update(case, self._before, point.whole))
        # As large as the model, like what follows.
        self._before = None
        noise = point.noise_scale()
        if isinstance(noise, str):
            case.history.lack(NOISE, noise)
        else:
            gauges |= noise_gauges(noise)
            case.history.lack(NOISE, noise.reason or "the noise of the gradient is undefined")
        if most:
            gauges |= self._judge(case, point, noise, notes, most)
            # Last, for what it tells more of is read by few rules.
            gauges["curvature/preconditioned"] = _preconditioned(case, point, most)
        numbers = torch.tensor([gauges.get(name, math.nan) for name in GAUGES], dtype=torch.float64)
        case.window.put(case.run.step, numbers, partial(receive_gauges, case))

    def _judge(self, case: Case, point: Point, noise: NoiseScale | str, notes: list[str], most: int) -> _Gauges:
        """Gives a verdict, and returns the ends of the spectrum."""
        verdict = point.judge(most)
        line = point.line(verdict)
        earlier = standing_probe(case.history)
        # One that time cut short says less than an earlier one that still stands.
        if not verdict.cut_short or earlier is None or earlier.kind == "inconclusive":
            way = {"step": case.run.step, "backend": point.backend, "notes": [*notes, *point.notes]}
            found = {**way, **described(verdict, noise), **({"line": line} if line else {})}
            case.history.facts["curvature"] = found
            case.history.absent.pop("curvature", None)
        return {} if verdict.ends is None else {"curvature/high": verdict.ends.high, "curvature/low": verdict.ends.low}

    def _fail(self, case: Case, error: Exception) -> None:
        """Keeps what went wrong until this rank meets the others, who would wait for it; alone it is told at once."""
        self._micro = None
        if self._next is not None and case.together:
            self._failed = error
            return
        self._next = None
        if not isinstance(error, Unrehearsable):
            raise error
        self._give_up(case, str(error))

    def _give_up(self, case: Case, reason: str) -> None:
        self._able = False
        _lack(case, self.signals, reason)


def _lack(case: Case, names: Sequence[str], reason: str) -> None:
    """Notes why there is no more than there is, a verdict that was had apart."""
    case.history.lack([name for name in names if name not in case.history.facts], reason)


def _preconditioned(case: Case, point: Point, most: int) -> float:
    """Returns the largest eigenvalue as the optimizer meets it; NaN for one that has no preconditioner."""
    diagonal = preconditioner(case.run.optimizers[0], case.run.trained(), point.whole)
    return math.nan if diagonal is None else point.preconditioned(diagonal.to(point.dtype).sqrt_(), most)


def _copied(batch: Any, batch_idx: int) -> Sample:
    try:
        return copy.deepcopy(batch), batch_idx
    except Exception as error:
        # What is in a batch is the user's business: not everything can be copied.
        raise Unrehearsable(f"a batch cannot be copied ({type(error).__name__}: {error})") from error


def _kept(parameters: Sequence[Tensor]) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in parameters]


def _update(case: Case, before: list[Tensor] | None, whole: Whole) -> Tensor | None:
    """Returns the step that was made last, flat; None where it is not known."""
    after = case.run.trained()
    if before is None or len(before) != len(after):
        return None
    moved = [whole(now.detach() - then) for now, then in zip(after, before, strict=True)]
    return flat(moved, after, vector_dtype(after))
