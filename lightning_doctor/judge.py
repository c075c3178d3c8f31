"""Judges a run afterwards, by its saved report or by the log of a run that never saw the doctor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from lightning_doctor.diagnose import Course, Verdict, compose, examine
from lightning_doctor.history import History
from lightning_doctor.logs.runs import Run, read_run
from lightning_doctor.report import Report
from lightning_doctor.rule import Rule
from lightning_doctor.sinks.report import read

_UNKNOWN = (
    "a log does not tell how its run ended, nor its model and data: rules were judged and remedies chosen without them"
)


def judge(
    run: Run, named: Mapping[str, str], rules: Sequence[Rule], thresholds: Mapping[str, Mapping[str, float]]
) -> Report:
    """Judges a run by its saved report, of which only the history counts, or by its log.

    Args:
        run: What to judge.
        named: Tags of a log by signal that the user named.
        rules: Whom to ask; one that fails leaves a note.
        thresholds: By rule code, as :func:`~lightning_doctor.rules.check_thresholds` returns them.

    Raises:
        NothingToJudgeError: Where a log holds no loss.
        MalformedError: Where a file cannot be understood.
        OSError: Where it cannot be read.
    """
    notes: list[str] = []

    def failed(rule: Rule, error: Exception) -> None:
        # A file may hold facts of any shape; the other rules can still judge.
        notes.append(f"{rule.code} {rule.name} failed: {type(error).__name__}: {error}")

    if run.kind == "report":
        saved = read(run.files[0])
        notes.extend(saved.notes)
        verdict = examine(saved.history, rules, thresholds, on_failure=failed)
        return _continued(saved, _reported(saved.history, verdict, notes), rules)
    history, oddities = read_run(run, named)
    notes.extend([*oddities, _UNKNOWN])
    verdict = Verdict()
    for rule in rules:
        history.missed.clear()
        one = examine(history, [rule], thresholds, on_failure=failed)
        if one.healthy and "run.ended" in history.missed:
            # It waits for the end of the run, which a log never tells.
            one = Verdict(unassessed={rule.code: "the log does not tell how the run ended"})
        verdict.findings.extend(one.findings)
        verdict.healthy.extend(one.healthy)
        verdict.unassessed.update(one.unassessed)
    return _reported(history, verdict, notes)


def _reported(history: History, verdict: Verdict, notes: Sequence[str]) -> Report:
    course = Course()
    course.update(verdict, history.last_step)
    return compose(history, verdict, course, notes=notes)


def _continued(saved: Report, report: Report, rules: Sequence[Rule]) -> Report:
    """Takes over from the saved report what only the run itself could tell: when, what passed, and the cost."""
    announced = {finding.code: finding.step for finding in [*saved.findings, *saved.recovered]}
    ill, judged = {finding.code for finding in report.findings}, {rule.code for rule in rules}
    return replace(
        report,
        findings=[replace(finding, step=announced.get(finding.code, finding.step)) for finding in report.findings],
        recovered=[finding for finding in saved.recovered if finding.code in judged - ill],
        overhead=saved.overhead,
        seconds=saved.seconds,
    )
