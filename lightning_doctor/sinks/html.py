"""A report as HTML for notebooks: self-contained, legible on light and on dark pages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from lightning_doctor.findings import Finding
from lightning_doctor.report import Report
from lightning_doctor.sinks import wording

# The page's own text colour on a transparent ground; greys by half-transparent lines. Only the badges bring a colour
# of their own, dark enough for white letters.
_LINE = "rgba(128,128,128,.4)"
_BADGES = {"error": "#b3261e", "warning": "#8a5a00", "note": "#00639b", "healthy": "#1b6e2d", "unknown": "#5f6368"}
_CELL = f"color:inherit;text-align:left;padding:2px 10px 2px 0;border-bottom:1px solid {_LINE};vertical-align:top"


def html(report: Report) -> str:
    """Returns the report as one ``div``; everything that comes from outside is escaped."""
    return "\n".join(_lines(report))


def _lines(report: Report) -> Iterator[str]:
    worst = str(report.worst or ("healthy" if report.healthy else "unknown"))
    yield (
        f'<div style="color:inherit;background:transparent;font-family:system-ui,sans-serif;font-size:14px;'
        f'line-height:1.45;max-width:60em;border:1px solid {_LINE};border-radius:6px;padding:10px 14px">'
    )
    yield f'<div style="font-size:1.15em">{_badge(worst)} <b>{_safe(wording.verdict(report))}</b></div>'
    seen = " · ".join(filter(None, ("lightning-doctor", wording.stage(report), wording.patient(report))))
    yield f'<div style="opacity:.75">{_safe(seen)}</div>'
    for case in wording.cases(report):
        yield from _finding(case.cause)
        if case.symptoms:
            yield f'<div style="margin-left:1em;padding-left:1em;border-left:2px solid {_LINE}">'
            for symptom in case.symptoms:
                yield from _finding(symptom)
            yield "</div>"
    if report.recovered:
        yield from _heading("Recovered")
        for finding in report.recovered:
            yield f"<div>{_named(finding)}, {_safe(wording.course(finding))}: {_safe(finding.summary)}</div>"
    if report.guide.answers:
        yield from _heading("The walk through the tree")
        yield from _table([(answer.question, answer.reply, answer.because) for answer in report.guide.answers])
        yield f"<div>Conclusion: <b>{_safe(wording.conclusion(report))}</b></div>"
    yield f'<details style="margin-top:.8em"><summary>{_safe(wording.judged(report))}</summary>'
    if report.healthy:
        yield f"<div>Well: {_safe(', '.join(map(wording.titled, report.healthy)))}</div>"
    groups = wording.by_reason(report.unassessed)
    yield from _table([(", ".join(map(wording.titled, codes)), reason) for reason, codes in groups.items()])
    yield "</details>"
    for note in report.notes:
        yield f'<pre style="white-space:pre-wrap;margin:.8em 0 0">{_block(note)}</pre>'
    yield f'<div style="opacity:.75;margin-top:.8em">Cost of the doctor: {_safe(wording.cost(report))}</div>'
    yield "</div>"


def _finding(finding: Finding) -> Iterator[str]:
    yield f'<div style="margin-top:.9em">{_badge(str(finding.severity))} {_named(finding)}'
    yield f'<span style="opacity:.75">{_safe(f"{finding.confidence}, {wording.course(finding)}")}</span></div>'
    yield f"<div>{_safe(finding.summary)}</div>"
    advice = "What to do" if finding.explained_by is None else "If it stays"
    yield f"<div><b>{advice}:</b> {_safe(finding.remedy)}</div>"
    yield from _table(list(finding.evidence.items()))


def _heading(text: str) -> Iterator[str]:
    yield f'<div style="margin-top:.9em;font-weight:600">{_safe(text)}</div>'


def _table(rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    if not rows:
        return
    yield '<table style="border-collapse:collapse;margin:.3em 0;font-size:.95em;color:inherit;background:transparent">'
    for row in rows:
        cells = "".join(f'<td style="{_CELL}">{_safe(cell)}</td>' for cell in row)
        yield f'<tr style="color:inherit;background:transparent">{cells}</tr>'
    yield "</table>"


def _named(finding: Finding) -> str:
    return f"<b>{_safe(f'{finding.code} {finding.name}')}</b>"


def _badge(word: str) -> str:
    return (
        f'<span style="background:{_BADGES[word]};color:#fff;border-radius:4px;padding:1px 7px;font-size:.8em;'
        f'font-weight:600">{word.upper()}</span>'
    )


def _block(text: str) -> str:
    return "\n".join(" " * (len(line) - len(line.lstrip(" "))) + _safe(line) for line in text.splitlines() or [""])


def _safe(item: Any) -> str:
    return escape(wording.value(item), quote=True)
