"""When the rules of a case are asked, and what is published of what they say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_doctor.callbacks.publisher import Publisher, log_folder
from lightning_doctor.sinks import terminal

if TYPE_CHECKING:
    from lightning_doctor.callbacks.case import Case
    from lightning_doctor.callbacks.staff import Staff

# How many times longer a run must have become to be looked at again before the time for it is earned.
_GROWTH = 1.2


class Reporting:
    """Asks the rules where the budget allows, and hands what is known to the sinks, on rank zero.

    Args:
        case: What is known.
        staff: Guards what is done.
    """

    def __init__(self, case: Case, staff: Staff) -> None:
        self._case = case
        self._staff = staff
        self._publisher: Publisher | None = None
        self._time = 0.0
        self._asked_at = 0
        self._seen_broken = False

    def open(self) -> None:
        """Finds the loggers and the folder of the run."""
        case = self._case
        if case.trainer.is_global_zero:
            folder = self._staff.attempt("finding the log directory", lambda: log_folder(case.trainer))
            self._publisher = self._staff.attempt(
                "opening the loggers", lambda: Publisher(case.trainer.loggers, folder, case.history)
            )

    def show(self) -> None:
        """Publishes the numbers of a window."""
        history, publisher = self._case.history, self._publisher
        if publisher is not None and self._case.budget.allows(0.0):
            self._staff.attempt("logging scalars", lambda: publisher.scalars(history, history.last_step))
            self._staff.attempt("showing the curvature", lambda: publisher.curvature(history))
            self._note_loggers(publisher)

    def consult(self, *, final: bool = False) -> None:
        """Asks the rules and publishes the report, where the budget allows; always at the end."""
        case = self._case
        if not (final or (case.trainer.is_global_zero and self._worth_a_look())):
            return
        began = case.budget.clock()
        self._asked_at = case.pace.steps
        self._staff.attempt("the diagnosis", case.judge)
        publisher, report = self._publisher, case.report
        if publisher is not None and report is not None:
            self._staff.attempt("writing the report", lambda: (publisher.save if final else publisher.report)(report))
            self._note_loggers(publisher)
        self._time = case.budget.clock() - began

    def summarize(self) -> None:
        """Prints the report."""
        publisher, report = self._publisher, self._case.report
        if publisher is not None and report is not None:
            self._staff.attempt("the summary", lambda: terminal.summarize(report, log_dir=publisher.folder))

    def close(self) -> None:
        """Publishes nothing any more."""
        self._publisher = None

    def _worth_a_look(self) -> bool:
        # What the share has not earned comes off the first look, and that is for a run that has become another one.
        case = self._case
        grown = case.pace.steps >= _GROWTH * self._asked_at
        broken = case.history.get("train_loss").broken_at() is not None and not self._seen_broken
        self._seen_broken |= broken
        # A loss that is lost is told at once, whatever has been spent.
        return broken or case.budget.has_earned(self._time) or (grown and case.budget.allows(self._time))

    def _note_loggers(self, publisher: Publisher) -> None:
        for failure in publisher.letterbox.failures():
            self._case.consultation.failed(f"{failure.logger}, {failure.doing},", failure.error)
