"""The summary at the end of a run, drawn with rich."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from lightning_doctor.findings import Finding
from lightning_doctor.report import Report
from lightning_doctor.sinks import wording
from lightning_doctor.sinks.report import FILE_NAME

# From outside a string only ever comes in as Text, in which rich sees no markup.
Fit = Callable[..., Text]

_STYLES = {"error": "red", "warning": "yellow", "note": "cyan"}
_TEXT_LIMIT, _REASON_LIMIT, _REASONS = 400, 90, 3


def print_summary(report: Report, console: Console, log_dir: str | os.PathLike[str] | None = None) -> None:
    """Prints the summary, in a frame on a terminal and without one in a log file."""

    def fit(text: str, style: str = "") -> Text:
        return Text(wording.encodable(text, console.encoding), style=style)

    style = _STYLES.get(str(report.worst), "green")
    body = Group(*_body(report, style, fit))
    if console.is_terminal:
        console.print(Panel(body, title="lightning-doctor", title_align="left", border_style=style, padding=(0, 1)))
    else:
        console.print(fit("lightning-doctor"), body, sep="\n")
    for line in _places(log_dir):
        # Outside the frame and never wrapped: to be copied.
        console.print(fit(line), soft_wrap=True)


def _body(report: Report, style: str, fit: Fit) -> Iterator[RenderableType]:
    yield fit(wording.verdict(report), f"bold {style}")
    patient = wording.patient(report)
    yield fit(f"{wording.stage(report)}{f' · {patient}' if patient else ''}", "dim")
    yield Text()
    for case in wording.cases(report):
        yield _entry(case.cause, fit)
        for symptom in case.symptoms:
            yield _grid([(Text("   "), _entry(symptom, fit))])
        yield Text()
    yield _grid([(fit(name, "dim"), fit(text)) for name, text in _facts(report)])


def _entry(finding: Finding, fit: Fit) -> RenderableType:
    head = Text.assemble(
        fit(f"{str(finding.severity).upper()} ", f"bold {_STYLES[str(finding.severity)]}"),
        fit(wording.one_line(f"{finding.code} {finding.name}"), "bold"),
        fit(f" · {finding.confidence} · {wording.since(finding)}", "dim"),
    )
    lines: list[tuple[RenderableType, RenderableType]] = []
    lines.append((Text("  "), fit(wording.one_line(finding.summary, _TEXT_LIMIT))))
    # A symptom's own remedy is for when it stays after its cause is treated: the letter has it.
    if finding.remedy and finding.explained_by is None:
        lines.append((fit(" →", "green"), fit(wording.one_line(finding.remedy, _TEXT_LIMIT), "green")))
    return Group(head, _grid(lines))


def _facts(report: Report) -> Iterator[tuple[str, str]]:
    if report.recovered:
        passed = (f"{f.code} {f.name} at step {f.recovered_at}" for f in report.recovered)
        yield "recovered", ", ".join(map(wording.one_line, passed))
    if report.guide.answers:
        asked = " › ".join(wording.one_line(f"{a.question} {a.reply}") for a in report.guide.answers)
        yield "tree", f"{asked} → {wording.conclusion(report)}"
    yield "judged", wording.judged(report)
    if report.unassessed:
        groups = wording.by_reason(report.unassessed)
        reasons = [f"{', '.join(codes)} ({reason})" for reason, codes in groups.items()]
        brief = ", ".join(wording.one_line(reason, _REASON_LIMIT) for reason in reasons[:_REASONS])
        left = len(reasons) - _REASONS
        yield "not judged", f"{brief} and {wording.count(left, 'more reason')} in the report" if left > 0 else brief
    for note in filter(str.strip, report.notes):
        # The first line; a traceback has its place in the letter.
        yield "note", wording.one_line(note.strip().splitlines()[0], _TEXT_LIMIT)
    yield "cost", wording.cost(report)


def _places(log_dir: str | os.PathLike[str] | None) -> Iterator[str]:
    if log_dir is None:
        return
    folder = Path(log_dir)
    if (folder / FILE_NAME).exists():
        yield f"report: {wording.one_line(folder / FILE_NAME)}"
    if next(folder.glob("events.out.tfevents.*"), None) is not None:
        yield f"charts: tensorboard --logdir {wording.one_line(shlex.quote(str(folder)))}  # Doctor tab"


def _grid(rows: Sequence[tuple[RenderableType, RenderableType]]) -> Table:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(ratio=1, overflow="fold")
    for row in rows:
        grid.add_row(*row)
    return grid
