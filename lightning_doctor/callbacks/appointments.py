"""When the curvature is looked at: alike on every rank, and as the budget allows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lightning_doctor.progress import standing

if TYPE_CHECKING:
    from lightning_doctor.callbacks.case import Case

# Batches on each side, those that choose a direction and those that test it; of small ones as many as make up so many
# samples.
_MOST_BATCHES, _FEW_SAMPLES = 4, 64
# How many times longer a run must have become to be probed again.
_GROWTH = 2.0
# The first step after which there is an update to look along, and what is a plateau has had time to become one.
_FIRST, _PLATEAU = 7, 128
# What a verdict costs beside what is measured with every probe, about, and what that costs beside the training steps
# of the samples that choose.
_DEARER, _STEPS = 5.0, 5.0
# What probes without a verdict may take of a run's first look [seconds].
_FIRST_GAUGES = 0.2
# What a verdict is expected to take of it, of which there is one on the way and one at the end [seconds].
_VERDICT = 0.2


@dataclass(frozen=True)
class Appointment:
    """A probe that is to come.

    Attributes:
        judges: Whether it is to give a verdict.
        batches: How many it needs.
        begins: The step from which they are collected.
    """

    judges: bool
    batches: int
    begins: int


class Appointments:
    """Plans the probes of a run.

    Args:
        samples: How many choose directions; as many test them.
        every_n_steps: How often a verdict is due [optimizer steps]; None for on a plateau and at the end only.

    Attributes:
        kept: What is to be kept for verdicts of a run's first look [seconds]; nothing where no probe fits in.
        missed: What the verdict or probe takes that was due and could not be afforded [seconds]; 0 for none.
    """

    def __init__(self, samples: int, every_n_steps: int | None) -> None:
        self.kept = self._meant = 2 * _VERDICT
        self.missed = 0.0
        self._samples = samples
        self._every = every_n_steps
        self._ends = False
        self._gauge_at, self._verdict_at = _FIRST, every_n_steps or _PLATEAU
        self._costs = {False: 0.0, True: 0.0}
        self._gauged = 0.0

    def wishes(self, case: Case, room: float) -> list[float]:
        """Says whether this rank would probe in the coming window, and whether for a verdict.

        Args:
            case: The run.
            room: What may be spent of its first look [seconds].
        """
        step, planned = case.pace.steps, case.history.fact("trainer.planned_steps")
        self._ends = False
        if isinstance(planned, int):
            # The last batches of the run, if they come before the next window ends.
            self._ends = step <= planned - self._steps(case) < case.pace.following(step)
        verdict = self._ends or (step >= self._verdict_at and (self._every is not None or _is_plateau(case)))
        judges, due = verdict, verdict or step >= self._gauge_at
        # Before the first probe it is told by the steps, for a verdict too: that stops when its time is over.
        cost = self._costs[False] or self._expected(case)
        # Of the first look one verdict on the way, and one at the end; the others must be earned.
        dear = max(self._costs[True], _DEARER * self._costs[False]) or cost
        earned = self._costs[True] and not self._ends
        verdict = verdict and (case.budget.has_earned(dear) if earned else dear <= room)
        # What no verdict will be had for need not be kept.
        first = self._ends or (self._gauged + cost <= _FIRST_GAUGES and cost <= room - self.kept)
        gauge = due and ((first and cost <= room) or case.budget.has_earned(cost))
        self.missed = dear if judges and not verdict else cost if due and not (verdict or gauge) else 0.0
        if self._ends:
            # Whatever others have yet to do may take what was kept for this.
            self._meant = 0.0
        self.kept = self._meant if cost <= self._meant else 0.0
        return [float(verdict or gauge), float(verdict)]

    def heed(self, case: Case, means: list[float]) -> Appointment | None:
        """Returns what is to come, if every rank would."""
        step = case.pace.steps
        probes, judges = (mean == 1.0 for mean in means)
        if step >= self._verdict_at:
            later = _GROWTH if judges else 1.25
            self._verdict_at = step + self._every if self._every else math.ceil(later * step)
        if step >= self._gauge_at:
            self._gauge_at = math.ceil(_GROWTH * step)
        if not probes:
            return None
        begins = case.history.fact("trainer.planned_steps") - self._steps(case) if self._ends else step
        return Appointment(judges, self._batches(case), begins)

    @property
    def begun(self) -> bool:
        """Whether there has been a probe."""
        return any(self._costs.values())

    def spent(self, judges: bool, seconds: float) -> None:
        """Books what a probe took."""
        self._costs[judges] = seconds
        if judges:
            self._meant = min(self._meant, _VERDICT)
            self.kept = min(self.kept, self._meant)
        else:
            self._gauged += seconds

    def _expected(self, case: Case) -> float:
        """Returns about what a probe without a verdict takes, from what steps take [seconds]."""
        return _STEPS * self._batches(case) / 2 * case.means.batch_time

    def _batches(self, case: Case) -> int:
        """Returns how many batches make the samples to choose by, and as many to test by."""
        if case.history.fact("trainer.batches_per_epoch") == 1:
            return 1
        size = case.history.fact("data.batch_size")
        if not isinstance(size, int) or size <= 0:
            return 2 * _MOST_BATCHES
        if case.together:
            # Each rank has as many.
            size *= case.run.trainer.world_size
        return 2 * min(math.ceil(self._samples / size), max(_MOST_BATCHES, math.ceil(_FEW_SAMPLES / size)))

    def _steps(self, case: Case) -> int:
        return math.ceil(self._batches(case) / max(1, case.run.accumulate))


def _is_plateau(case: Case) -> bool:
    """Whether the loss has stopped to fall, with something left to learn."""
    now = standing(case.history)
    return not now.improving and not now.good
