"""What the monitors may spend, and what things take."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_doctor.callbacks.case import Case
    from lightning_doctor.callbacks.monitor import Monitor
    from lightning_doctor.callbacks.staff import Staff

# What a forward pass takes, about, of the time that training on a batch takes.
_FORWARD = 0.5


class Means:
    """The time of one fit, as the monitors need to know it before they begin something dear.

    Args:
        case: The fit.
        staff: Its monitors, some of which have time kept for them.
    """

    def __init__(self, case: Case, staff: Staff) -> None:
        self._case = case
        self._staff = staff

    def room(self, part: Monitor) -> float:
        """Returns what a probe may spend now: what is kept for the others, examinations and rules is left [seconds]."""
        pace = self._case.pace
        return self._case.budget.left() - (pace.left_for_rules + pace.kept + self._staff.kept - part.kept)

    @property
    def batch_time(self) -> float:
        """What training takes for a batch, in the quickest window [seconds]; 0 before there was one."""
        return self._case.pace.step_time / max(1, self._case.run.accumulate)

    def forward_time(self, rows: int, at_once: int) -> float:
        """Returns about what it takes to pass samples forward [seconds]; 0 where that is not known.

        By training steps, of which small ones take longer a sample; how much longer validation passes tell.

        Args:
            rows: How many samples.
            at_once: Those of a batch.
        """
        size, by_validation = self._case.history.fact("data.batch_size"), self._case.pace.validation_time
        if not isinstance(size, int) or size <= 0:
            return rows * by_validation
        batch = _FORWARD * self.batch_time
        # A batch takes no less than a smaller one, whatever the validation step does or does not do.
        return rows * min(batch / size, max(batch / max(size, at_once), by_validation or batch / size))
