"""The letter: a report as Markdown, for TensorBoard's Text tab and whoever prints a report."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from lightning_doctor.findings import Finding
from lightning_doctor.report import Report
from lightning_doctor.sinks import wording

# What Markdown gives a meaning to, wherever it stands in a line. An underscore inside a word has none, and a name
# like train_loss stays legible.
_SPECIAL = re.compile(r"[\\`*|\[\]~]|(?<![^\W_])_|_(?![^\W_])")


def letter(report: Report) -> str:
    """Returns the report as a doctor would write it.

    Names, messages and tracebacks that come from outside cannot break a table or bring in HTML.
    """
    return "\n".join(_lines(report)).rstrip() + "\n"


def substance(report: Report) -> tuple[object, ...]:
    """Returns what makes a letter worth rewriting: everything in it but the counters and figures that move on."""
    return (
        tuple((f.code, f.severity, f.confidence, f.explained_by, f.remedy) for f in report.findings),
        tuple(f.code for f in report.recovered),
        tuple(report.healthy),
        tuple(report.unassessed),
        tuple((answer.question, answer.reply) for answer in report.guide.answers),
        report.guide.conclusion,
        tuple(report.notes),
        report.history.fact("run.ended"),
    )


def _lines(report: Report) -> Iterator[str]:
    yield "# Report of the lightning-doctor"
    yield ""
    yield f"**{_safe(wording.verdict(report))}**"
    yield ""
    patient = wording.patient(report)
    yield f"{f'Patient: {_safe(patient)}. ' if patient else ''}Seen at {_safe(wording.stage(report))}."
    yield ""
    for number, case in enumerate(wording.cases(report), start=1):
        yield from _cause(number, case)
    if report.recovered:
        yield "## Recovered"
        yield ""
        for finding in report.recovered:
            yield f"- **{_titled(finding)}**, {wording.course(finding)}: {_safe(finding.summary)}"
        yield ""
    if report.guide.answers:
        yield from _walk(report)
    yield from _judged(report)
    if report.notes:
        yield from _notes(report.notes)
    yield "---"
    yield ""
    yield f"Cost of the doctor: {wording.cost(report)}."


def _cause(number: int, case: wording.Case) -> Iterator[str]:
    finding = case.cause
    yield f"## {number}. {_titled(finding)}"
    yield ""
    yield f"**{str(finding.severity).upper()}**, {finding.confidence}, {wording.course(finding)}."
    yield ""
    yield f"**What was seen:** {_safe(finding.summary)}"
    yield ""
    yield f"**What to do:** {_safe(finding.remedy)}"
    yield ""
    if finding.evidence:
        yield from _table(("Evidence", "Value"), list(finding.evidence.items()))
    if case.symptoms:
        yield f"**Symptoms of it**, which should pass when {_safe(finding.name)} is treated:"
        yield ""
        for symptom in case.symptoms:
            yield (
                f"- **{_titled(symptom)}** ({symptom.severity}, {symptom.confidence}, {wording.course(symptom)}): "
                f"{_safe(symptom.summary)}"
            )
            # One list item with a nested list: a table inside an item does not render everywhere.
            if symptom.evidence:
                seen = ", ".join(f"{_safe(key)} = {_safe(item)}" for key, item in symptom.evidence.items())
                yield f"    - Evidence: {seen}"
            if symptom.remedy:
                yield f"    - If it stays: {_safe(symptom.remedy)}"
        yield ""


def _walk(report: Report) -> Iterator[str]:
    yield "## The walk through the tree"
    yield ""
    yield from _table(
        ("Question", "Answer", "Because"),
        [(answer.question, answer.reply, answer.because) for answer in report.guide.answers],
    )
    yield f"Conclusion: **{_safe(wording.conclusion(report))}**."
    yield ""


def _judged(report: Report) -> Iterator[str]:
    yield "## What could be judged"
    yield ""
    yield f"So far, {wording.judged(report)}."
    yield ""
    if report.healthy:
        yield f"Well: {', '.join(_safe(wording.titled(code)) for code in report.healthy)}."
        yield ""
    if report.unassessed:
        groups = wording.by_reason(report.unassessed)
        rows = [(", ".join(map(wording.titled, codes)), reason) for reason, codes in groups.items()]
        yield from _table(("Not judged", "Because"), rows)


def _notes(notes: Sequence[str]) -> Iterator[str]:
    yield "## About the doctor itself"
    yield ""
    for note in filter(str.strip, notes):
        first, *rest = note.strip().splitlines()
        yield f"- {_safe(first)}"
        yield ""
        if rest:
            yield from _fenced(rest)


def _fenced(lines: Sequence[str]) -> Iterator[str]:
    runs = re.findall(r"`+", "\n".join(lines))
    fence = "`" * max(3, 1 + max(map(len, runs), default=0))
    yield fence
    for line in lines:
        indent = len(line) - len(line.lstrip(" "))
        yield " " * indent + wording.one_line(line)
    yield fence
    yield ""


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield f"| {' | '.join(_safe(cell) or ' ' for cell in row)} |"
    yield ""


def _titled(finding: Finding) -> str:
    return _safe(f"{finding.code} {finding.name}")


def _safe(item: Any) -> str:
    """Returns text that Markdown shows as it is, on one line."""
    text = _SPECIAL.sub(lambda match: "\\" + match[0], wording.value(item))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
