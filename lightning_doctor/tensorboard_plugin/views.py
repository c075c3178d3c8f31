"""What the tab and the page for sharing are given: the same plain builtins for both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_doctor.compare import compare
from lightning_doctor.compared_run import RunSummary
from lightning_doctor.history import Series
from lightning_doctor.jsonable import MalformedError, from_jsonable
from lightning_doctor.manual import page
from lightning_doctor.rules import find_rule
from lightning_doctor.sinks.comparison import remarks, tabulated

# Root causes that the list of runs shows of one, the gravest: more bars would lie on each other.
MOST_LISTED = 12
# Sections with one item a line.
_LISTS = ("Thresholds", "Needs", "Explains", "Defaults")

Read = Mapping[str, Any] | MalformedError


def brief(run: str, stamp: list[float], snapshot: Read) -> dict[str, Any]:
    """Returns what the list of runs shows of one: its verdict and when what began."""
    if isinstance(snapshot, MalformedError):
        return {"run": run, "stamp": stamp, "state": "unread", "verdict": str(snapshot), "step": 0, "course": []}
    found = [
        f for f in (*snapshot.get("findings", []), *snapshot.get("recovered", [])) if f.get("explained_by") is None
    ]
    return {
        "run": run,
        "stamp": stamp,
        **{key: snapshot.get(key) for key in ("state", "verdict", "stage", "step", "ended", "patient")},
        "course": [
            [finding.get(key) for key in ("code", "severity", "onset", "step", "recovered_at")]
            for finding in found[:MOST_LISTED]
        ],
    }


def compared(snapshots: Mapping[str, Read]) -> dict[str, Any]:
    """Returns the runs beside each other, and what comparing them comes to."""
    readable = {run: table for run, table in snapshots.items() if not isinstance(table, MalformedError)}
    errors = [f"{run}: {table}" for run, table in snapshots.items() if isinstance(table, MalformedError)]
    figures = [figure for run, snapshot in readable.items() if (figure := _figures(run, snapshot, errors)) is not None]
    outcome: dict[str, Any] = {"headings": [], "rows": [], "lines": []}
    if len(figures) > 1:
        comparison = compare(figures)
        headings, rows = tabulated(comparison)
        # Each run has a verdict of its own there.
        headings[-1] = "beside the others"
        outcome = {"headings": headings, "rows": rows, "lines": [comparison.order, *remarks(comparison)]}
    shown = ("state", "verdict", "stage", "patient", "conclusion", "end", "findings", "signals", "step", "cost")
    runs = [{"run": run, **{key: snapshot.get(key) for key in shown}} for run, snapshot in readable.items()]
    return {"runs": runs, **outcome, "errors": errors}


def manual_page(code: str) -> dict[str, Any]:
    """Returns the manual page of a rule: its sections, each as paragraphs without the line breaks of the source.

    Raises:
        ValueError: Where there is no such rule.
    """
    rule = find_rule(code)
    _, *sections = _sections(page(rule).split("\n"))
    return {"code": rule.code, "name": rule.name, "title": rule.title, "sections": sections}


def _sections(rows: list[str]) -> list[dict[str, Any]]:
    sections: list[dict[str, Any]] = [{"heading": "", "paragraphs": []}]
    new = True
    for row in rows:
        text = row.strip().replace("``", "`")
        if row.endswith(":") and not row.startswith(" "):
            sections.append({"heading": text[:-1], "paragraphs": []})
            new = True
        elif not text:
            new = True
        else:
            paragraphs = sections[-1]["paragraphs"]
            # Of a list each item begins at the section's own indent, and what it runs over to lies deeper.
            item = sections[-1]["heading"] in _LISTS and not row.startswith(" " * 8)
            if new or item:
                paragraphs.append(text)
            else:
                paragraphs[-1] += f" {text}"
            new = False
    return sections


def _figures(run: str, snapshot: Mapping[str, Any], errors: list[str]) -> RunSummary | None:
    try:
        return RunSummary.from_dict(snapshot.get("figures"), run, _losses(snapshot))
    except MalformedError as error:
        errors.append(str(error))
        return None


def _losses(snapshot: Mapping[str, Any]) -> Series:
    losses = Series()
    points = snapshot.get("signals", {}).get("train_loss", {"steps": [], "values": []})
    for step, value in zip(points["steps"], from_jsonable(points["values"]), strict=True):
        losses.append(step, value)
    # As in a summary: the part before the first value that is not finite.
    return losses.finite()
