"""From a history to findings: every rule is asked, the answers are ranked, and the course of each illness is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.guide import walk
from lightning_doctor.history import History
from lightning_doctor.jsonable import MalformedError
from lightning_doctor.report import Report
from lightning_doctor.rule import Rule, Undecided
from lightning_doctor.rules import all_rules


@dataclass(frozen=True)
class Verdict:
    """What the rules said of one history.

    Attributes:
        findings: One a rule that found something, in the order of the codes.
        healthy: Codes of the rules that looked and found nothing.
        unassessed: Codes of the rules that could not judge, with the reason.
    """

    findings: list[Finding] = field(default_factory=list)
    healthy: list[str] = field(default_factory=list)
    unassessed: dict[str, str] = field(default_factory=dict)


def examine(
    history: History,
    rules: Iterable[Rule],
    thresholds: Mapping[str, Mapping[str, float]] | None = None,
    on_failure: Callable[[Rule, Exception], None] | None = None,
) -> Verdict:
    """Asks every rule.

    Args:
        history: What to judge.
        rules: Whom to ask.
        thresholds: By rule code, as :func:`~lightning_doctor.rules.check_thresholds` returns them.
        on_failure: Told of a rule that raised, which is then unassessed; without it the error passes through.
    """
    with history.at_rest():
        return _examine(history, rules, thresholds or {}, on_failure)


def _examine(
    history: History,
    rules: Iterable[Rule],
    thresholds: Mapping[str, Mapping[str, float]],
    on_failure: Callable[[Rule, Exception], None] | None,
) -> Verdict:
    verdict = Verdict()
    for rule in rules:
        lack = rule.lacks(history)
        if lack is not None:
            verdict.unassessed[rule.code] = lack
            continue
        try:
            finding = rule(history, **thresholds.get(rule.code, {}))
        except Undecided as reason:
            verdict.unassessed[rule.code] = str(reason)
            continue
        except Exception as error:
            if on_failure is None:
                raise
            on_failure(rule, error)
            verdict.unassessed[rule.code] = f"the rule failed: {type(error).__name__}: {error}"
            continue
        if finding is None:
            verdict.healthy.append(rule.code)
        else:
            verdict.findings.append(finding)
    return verdict


def rank(findings: Iterable[Finding]) -> list[Finding]:
    """Orders findings: root causes first, the most severe, surest and earliest first among them, then symptoms.

    A finding is a symptom of another that names it among what it explains, unless it began clearly earlier: an
    effect does not come before its cause. What is only a note did no harm, and explains none. Of several causes it
    hangs under the first in the order.
    """
    rules = {rule.code: rule for rule in all_rules()}
    ordered = sorted(findings, key=_weight)
    parents: dict[str, str] = {}
    # The lightest first: of two that explain each other the weightier is the root.
    for finding in reversed(ordered):
        for other in ordered:
            caused = _explains(rules, other, finding) and _may_cause(other, finding)
            if caused and other.code != finding.code and _root(other.code, parents) != finding.code:
                parents[finding.code] = other.code
                break
    # A symptom of a symptom hangs under the root, so that the report is one level deep.
    ranked = [
        replace(finding, explained_by=_root(finding.code, parents) if finding.code in parents else None)
        for finding in ordered
    ]
    return sorted(ranked, key=lambda finding: finding.explained_by is not None)


def _weight(finding: Finding) -> tuple[int, int, int, str]:
    onset = finding.step if finding.onset is None else finding.onset
    return (-finding.severity.rank, -finding.confidence.rank, onset, finding.code)


def _explains(rules: Mapping[str, Rule], cause: Finding, effect: Finding) -> bool:
    """Whether the rule of one names the other, or that of the other lets one as grave go first that is confirmed."""
    cause_rule, effect_rule = rules.get(cause.code), rules.get(effect.code)
    if cause_rule is not None and effect.name in cause_rule.explains:
        return True
    if effect_rule is None or cause.name in effect_rule.explains or cause.severity.rank < effect.severity.rank:
        return False
    return cause.confidence is Confidence.CONFIRMED and cause.code.startswith(effect_rule.after)


def _may_cause(cause: Finding, effect: Finding) -> bool:
    if cause.severity is Severity.NOTE and effect.severity is not Severity.NOTE:
        # What did no harm has caused none.
        return False
    if cause.onset is None or effect.onset is None:
        return True
    # Onsets are estimates: a tenth of the run so far is within their error.
    return cause.onset <= effect.onset + max(10, effect.last_step // 10)


def _root(code: str, parents: Mapping[str, str]) -> str:
    while code in parents:
        code = parents[code]
    return code


class Course:
    """The findings of a run over time: each is announced once, kept up to date, and marked recovered."""

    def __init__(self) -> None:
        self._known: dict[str, Finding] = {}

    def update(self, verdict: Verdict, step: int) -> list[Finding]:
        """Takes in a new verdict.

        A rule that is unassessed now keeps what it found: only a rule that looked again can withdraw it.

        Returns:
            The findings that are new since the last call, in the order of the codes.
        """
        new: list[Finding] = []
        for finding in verdict.findings:
            known = self._known.get(finding.code)
            onset = finding.onset if finding.onset is not None else known.onset if known else step
            if known is None:
                self._known[finding.code] = replace(finding, step=step, last_step=step, onset=onset)
                new.append(self._known[finding.code])
            else:
                self._known[finding.code] = replace(finding, step=known.step, last_step=step, onset=onset)
        for code in verdict.healthy:
            known = self._known.get(code)
            if known is not None and known.recovered_at is None:
                self._known[code] = replace(known, recovered_at=step)
        return new

    @property
    def ongoing(self) -> list[Finding]:
        """What is ill now, ranked."""
        return rank(finding for finding in self._known.values() if finding.recovered_at is None)

    @property
    def recovered(self) -> list[Finding]:
        """What was announced and has passed, in the order it was announced."""
        passed = [finding for finding in self._known.values() if finding.recovered_at is not None]
        return sorted(passed, key=lambda finding: (finding.step, finding.code))

    def to_dict(self) -> list[dict[str, Any]]:
        """Returns plain builtins that :meth:`from_dict` reads back."""
        return [finding.to_dict() for finding in self._known.values()]

    @classmethod
    def from_dict(cls, data: Any) -> Course:
        """Reads what :meth:`to_dict` wrote.

        Raises:
            MalformedError: Where ``data`` is anything else.
        """
        if not isinstance(data, (list, tuple)):
            raise MalformedError(f"the course of a run must be a list of findings, got {type(data).__name__}")
        course = cls()
        course._known = {finding.code: finding for finding in map(Finding.from_dict, data)}
        return course


def diagnose(
    history: History,
    *,
    rules: Iterable[Rule] | None = None,
    thresholds: Mapping[str, Mapping[str, float]] | None = None,
) -> Report:
    """Judges a whole history at once, as at the end of its run."""
    verdict = examine(history, all_rules() if rules is None else rules, thresholds)
    course = Course()
    course.update(verdict, history.last_step)
    return compose(history, verdict, course)


def compose(
    history: History,
    verdict: Verdict,
    course: Course,
    *,
    overhead: float | None = None,
    seconds: float | None = None,
    notes: Iterable[str] = (),
) -> Report:
    """Puts a report together."""
    findings = course.ongoing
    ill = {finding.code for finding in findings}
    return Report(
        findings=findings,
        recovered=course.recovered,
        healthy=[code for code in verdict.healthy if code not in ill],
        unassessed={code: reason for code, reason in verdict.unassessed.items() if code not in ill},
        guide=walk(history, findings),
        overhead=overhead,
        seconds=seconds,
        step=history.last_step,
        notes=list(notes),
        history=history,
    )
