"""When rows are scored, and how many of them: as the budget allows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_doctor.callbacks.case import Case

# Batches that a sample is scored in, so that its loss has a standard error.
PARTS = 8
# Fewer rows of a sample than these are not worth a score, where there are more.
_FEWEST = 60
# What scores along the way may take of a run's first look, and what is kept of it for those at the end [seconds].
_FIRST, _KEPT = 0.3, 0.2
# How many times longer a run must have become to be scored again, and by what part of the planned steps.
_GROWTH, _PARTED = 1.5, 24
# With several ranks, whose steps may communicate, scores are taken by the count of passes: budgets differ.
_GROWTH_TOGETHER = 4


class ScoringPlan:
    """Plans the scores of a run, each of which follows a validation pass.

    Args:
        most: How many rows of a sample are there to be scored, at most.
        begins: The step that the fit begins at.

    Attributes:
        rows: How many of them to score: the same for all of a run, or more later, so that the figures compare. At the
            end half as many will do, whose error is 1.4 times as large.
        kept: What is to be kept of a run's first look for scores at the end [seconds].
        missed: What scores take that were due and could not be afforded [seconds]; 0 for none.
    """

    def __init__(self, most: int, begins: int = 0) -> None:
        self.rows = 0
        self.kept = _KEPT
        self.missed = 0.0
        self._most, self._begins = most, begins
        self._passes, self._at = 0, 0
        self._spent, self._row_time = 0.0, 0.0
        self._scored = 0

    def due(self, case: Case, sizes: Sequence[int], room: float) -> bool:
        """Says whether it is time to score, after another validation pass, and sets how many rows.

        Args:
            case: The run.
            sizes: How many rows the samples have.
            room: What may be spent of its first look [seconds].
        """
        self._passes += 1
        self.missed = 0.0
        step, planned = case.run.step + 1, case.history.fact("trainer.planned_steps")
        if case.together:
            due = self._passes >= max(1, self._at)
            self._at = _GROWTH_TOGETHER * self._passes if due else self._at
            self.rows = self._most
            return due
        ends = isinstance(planned, int) and step > planned - (step - self._begins) / self._passes
        if step < self._at and not ends:
            return False
        # Of the first look some scores on the way, and one at the end; the others must be earned.
        first = room if ends else min(room - self.kept, _FIRST - self._spent)
        fewest = self.rows // 2 if ends else self.rows
        affords = self._affords(case, sizes, max(first, case.budget.earned()), fewest)
        if affords:
            apart = planned // _PARTED if isinstance(planned, int) else 0
            self._at = max(math.ceil(_GROWTH * step), step + apart)
        return affords

    def spent(self, seconds: float) -> None:
        """Books what the scores took that were due last."""
        row_time = seconds / max(1, self._scored)
        self._row_time = min(self._row_time or row_time, row_time)
        self._spent += seconds
        self.kept = min(_KEPT, 1.5 * seconds)

    def _affords(self, case: Case, sizes: Sequence[int], seconds: float, fewest: int) -> bool:
        """Says whether there is time to score, and sets how many rows: all, or a half, a quarter and so on."""
        fewest = max(fewest, min(max(sizes), _FEWEST))
        # The loss of a batch that adds up its samples' losses has another unit where there are fewer of them.
        divides = case.history.fact("loss_head.reduction") == "mean"
        # Before the first score by what training and validation take.
        rows, row_time = max(sizes), self._row_time or case.means.forward_time(1, max(sizes) // PARTS)
        while True:
            scored = sum(min(size, rows) for size in sizes)
            if row_time * scored <= seconds:
                self.rows, self._scored = rows, scored
                return True
            if not divides or rows // 2 < fewest:
                self.missed = row_time * scored
                return False
            rows //= 2
