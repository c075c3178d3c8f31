"""What a case concludes: rules are asked, findings announced, the report kept and the run stopped where wanted."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any

from lightning_doctor.budget import Budget
from lightning_doctor.diagnose import Course, Verdict, compose, examine
from lightning_doctor.findings import Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.report import Report
from lightning_doctor.rule import Rule
from lightning_doctor.sinks import terminal

if TYPE_CHECKING:
    from lightning_doctor.callbacks.settings import Settings


class Consultation:
    """The rules of one case and what they have said so far.

    Args:
        settings: What the user set.
        speaks: Whether this process may write to the terminal and call ``on_finding``.

    Attributes:
        stop_wanted: Whether a finding has asked for the run to be stopped.
        notes: What went wrong inside the doctor.
    """

    def __init__(self, settings: Settings, speaks: bool) -> None:
        self.course = Course()
        self.notes: list[str] = []
        self.stop_wanted = False
        self._settings = settings
        self._speaks = speaks
        self._rules = list(settings.rules())
        self._verdict = Verdict()
        self._said: set[str] = set()
        self._told: dict[str, Severity] = {}
        self._broken: set[str] = set()

    def judge(self, history: History, step: int, budget: Budget) -> Report:
        """Asks the rules, tells what is new, and returns the report."""
        verdict = examine(history, tuple(self._rules), self._settings.thresholds, self._rule_failed)
        # A rule that failed once is not asked again, and stays unassessed with its reason.
        for code in self._broken & self._verdict.unassessed.keys():
            verdict.unassessed.setdefault(code, self._verdict.unassessed[code])
        self._verdict = verdict
        self.course.update(verdict, step)
        report = self.compose(history, budget)
        for finding in report.findings:
            if self._settings.stops(finding):
                self.stop_wanted = True
            if self._speaks:
                self._tell(finding)
        return report

    def compose(self, history: History, budget: Budget | None = None) -> Report:
        """Puts the report together anew, from what the rules have said already."""
        return compose(
            history,
            self._verdict,
            self.course,
            overhead=None if budget is None else budget.measured,
            seconds=None if budget is None else budget.spent,
            notes=self.notes,
        )

    def failed(self, part: str, error: Exception) -> None:
        """Notes that something of the doctor's own went wrong and is switched off; raises it under ``strict``."""
        if self._settings.strict:
            raise error
        if part in self._broken:
            return
        self._broken.add(part)
        summary = f"{part} failed and is switched off, the run goes on: {type(error).__name__}: {error}"
        trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        self.notes.append(f"{summary}\n{trace}".rstrip())
        self.say(summary)

    def is_off(self, part: str) -> bool:
        """Says whether this part has failed before."""
        return part in self._broken

    def say(self, line: str) -> None:
        """Writes a line to the terminal, on the rank that may."""
        if self._speaks:
            terminal.say(f"lightning-doctor · {line}")

    def state_dict(self) -> dict[str, Any]:
        """Returns plain builtins that :meth:`load_state_dict` reads back."""
        return {
            "course": self.course.to_dict(),
            "notes": list(self.notes),
            "said": sorted(self._said),
            "told": {code: str(severity) for code, severity in self._told.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up where :meth:`state_dict` left off."""
        self.course = Course.from_dict(state["course"])
        self.notes = [str(note) for note in state["notes"]]
        self._said = {str(code) for code in state["said"]}
        self._told = {str(code): Severity(severity) for code, severity in state["told"].items()}

    def _tell(self, finding: Finding) -> None:
        if finding.severity is not Severity.NOTE and finding.explained_by is None and finding.code not in self._said:
            self._said.add(finding.code)
            terminal.say(terminal.announce(finding))
        told = self._told.get(finding.code)
        if told is not None and finding.severity.rank <= told.rank:
            return
        self._told[finding.code] = finding.severity
        if self._settings.on_finding is not None and "on_finding" not in self._broken:
            try:
                self._settings.on_finding(finding)
            except Exception as error:  # noqa: BLE001
                self.failed("on_finding", error)

    def _rule_failed(self, rule: Rule, error: Exception) -> None:
        self._rules.remove(rule)
        self.failed(f"{rule.code} {rule.name}", error)
        self._broken.add(rule.code)
