"""The words that every sink shares: what is said of a report, whatever it is written on."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.report import Report
from lightning_doctor.rules import all_rules

_CONCLUSIONS = {
    "optimization": "optimization: this model could do better than its training takes it",
    "overfitting": "overfitting: it learned its training samples rather than the task",
    "distribution_mismatch": "mismatch: validation comes from another distribution; more training data will not help",
    "nothing_to_learn": "nothing to learn: the inputs say nothing about the labels; check how they are paired",
    "model_bias": "model bias: this model cannot express the task",
    "healthy": "healthy",
    "unknown": "unknown: what is known does not settle it",
}
_ENDS = {
    "completed": "the run is complete",
    "stopped": "the run was stopped early",
    "exception": "the run ended with an exception",
    "interrupted": "the run was interrupted",
}
# Control characters, half surrogate pairs, private and unassigned ones.
_INVISIBLE = frozenset({"Cc", "Cs", "Co", "Cn"})
# Direction marks can make a line read as something it does not say.
_BIDI = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")
_ASCII = str.maketrans({"·": "-", "→": "->", "›": ">", "×": "x", "–": "-", "−": "-", "…": "...", "‖": "|"})


@dataclass(frozen=True)
class Case:
    """One root cause and what it explains."""

    cause: Finding
    symptoms: list[Finding] = field(default_factory=list)

    @property
    def worst(self) -> Severity:
        """The highest severity of the cause and its symptoms."""
        return max((finding.severity for finding in (self.cause, *self.symptoms)), key=lambda s: s.rank)


def cases(report: Report) -> list[Case]:
    """Returns every finding exactly once, under its cause where the report holds that.

    A finding whose cause is not among the findings stands for itself: a report read from a file may be incomplete.
    """
    causes = {finding.code: finding for finding in report.findings if finding.explained_by is None}
    listed = [Case(f) for f in report.findings if f.explained_by is None or f.explained_by not in causes]
    for finding in report.findings:
        if finding.explained_by in causes:
            case = next(case for case in listed if case.cause is causes[finding.explained_by])
            case.symptoms.append(finding)
    return listed


def verdict(report: Report) -> str:
    """Returns the one sentence to remember."""
    worst = report.worst
    if worst is None:
        if not report.healthy:
            return "Nothing could be judged yet."
        return f"Nothing ill was found: {judged(report)}."
    worst_cases = [case for case in cases(report) if case.worst is worst]
    names = ", ".join(one_line(case.cause.name) for case in worst_cases)
    if all(case.cause.confidence is Confidence.SUSPECTED for case in worst_cases):
        names = f"suspected {names}"
    return {
        Severity.ERROR: f"This run is lost or wrong as it stands: {names}.",
        Severity.WARNING: f"This run would gain from treatment: {names}.",
        Severity.NOTE: f"Nothing needs treatment; worth knowing: {names}.",
    }[worst]


def judged(report: Report) -> str:
    """Says how many of the rules could look at all, as a clause."""
    looked = len(report.healthy) + len({finding.code for finding in report.findings})
    if not looked + len(report.unassessed):
        return "no rule has looked at this run"
    return f"{looked} of {count(looked + len(report.unassessed), 'rule')} could judge this run"


def course(finding: Finding) -> str:
    """Says when it began, when it was announced and when it was seen last, as a clause."""
    words = [since(finding)] if finding.onset is not None else []
    words.append(f"announced at step {finding.step}")
    if finding.recovered_at is not None:
        words.append(f"recovered by step {finding.recovered_at}")
    elif finding.last_step > finding.step:
        words.append(f"still there at step {finding.last_step}")
    return ", ".join(words)


def since(finding: Finding) -> str:
    """Says when it began, as far as is known, as a clause."""
    return f"since step {finding.step}" if finding.onset is None else f"since about step {finding.onset}"


def stage(report: Report) -> str:
    """Says how far the run is, as a clause."""
    ended = report.history.fact("run.ended")
    if ended is None:
        return f"step {report.step}"
    return f"step {report.step}, {_ENDS.get(str(ended), f'the run ended: {one_line(ended)}')}"


def patient(report: Report) -> str:
    """Says who is treated, ``"LitNet, 12,345 parameters, Adam"``; empty where nothing is known."""
    words = []
    fact = report.history.fact
    if fact("model.class") is not None:
        words.append(one_line(fact("model.class")))
    if isinstance(fact("model.parameters"), int):
        count = fact("model.parameters")
        words.append(f"{count:,} parameter{'' if count == 1 else 's'}")
    optimizers = fact("optimizers")
    listed = optimizers if isinstance(optimizers, list) else []
    words += [one_line(o["class"]) for o in listed if isinstance(o, Mapping) and "class" in o]
    return ", ".join(words)


def cost(report: Report) -> str:
    """Says what the doctor's work took, as a clause."""
    if report.overhead is None or not math.isfinite(report.overhead):
        return "not measured"
    percent = 100 * report.overhead
    share = f"{f'{percent:.2g}' if percent >= 0.01 else 'under 0.01'} % of the run's time"
    # A short run is over before the doctor's first look has paid off: a share alone would alarm.
    return share if report.seconds is None else f"{report.seconds:.2g} s, {share}"


def conclusion(report: Report) -> str:
    """Says where the walk through the tree ended, as a clause."""
    end = one_line(report.guide.conclusion)
    return _CONCLUSIONS.get(end, end.replace("_", " ") if end.isidentifier() else end)


def titled(code: str) -> str:
    """Returns a code with the name of its illness."""
    name = next((rule.name for rule in all_rules() if rule.code == code), "")
    return f"{code} {name}".strip()


def by_reason(unassessed: Mapping[str, str]) -> dict[str, list[str]]:
    """Returns the codes of each reason, in the order the reasons first appear."""
    groups: dict[str, list[str]] = {}
    for code, reason in unassessed.items():
        groups.setdefault(reason, []).append(code)
    return groups


def count(number: int, noun: str) -> str:
    """Returns ``"1 rule"``, ``"2 rules"``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def value(item: Any, limit: int = 1000) -> str:
    """Returns a number with four significant digits, anything else as one line of at most ``limit`` characters."""
    if isinstance(item, float):
        return f"{item:.4g}" if math.isfinite(item) else "NaN" if math.isnan(item) else f"{item}inite"
    return one_line(item, limit)


def one_line(item: Any, limit: int | None = None) -> str:
    """Returns text without line breaks and control characters, at most ``limit`` characters of it.

    Control characters would move a terminal's cursor, and two of them are how Markdown converters mark their own
    place-holders.
    """
    text = str(item)
    if not (text.isascii() and text.isprintable()):
        text = "".join(c for c in text if c.isspace() or (unicodedata.category(c) not in _INVISIBLE and c not in _BIDI))
    plain = " ".join(text.split())
    return plain if limit is None or len(plain) <= limit else plain[: limit - 1] + "…"


def encodable(text: str, encoding: str | None) -> str:
    """Returns the text in characters that this encoding has: the nearest of them, or escapes."""
    try:
        text.encode(encoding or "utf-8")
    except LookupError:
        return text
    except UnicodeEncodeError:
        codec = encoding or "utf-8"
        return text.translate(_ASCII).encode(codec, "backslashreplace").decode(codec)
    return text
