"""A report as the Doctor tab shows it: plain builtins with every sentence ready, and the curves that it rests on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_doctor import __version__
from lightning_doctor.compared_run import summarized
from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History, Series
from lightning_doctor.jsonable import to_jsonable
from lightning_doctor.report import Report
from lightning_doctor.sharpness import gauge, stability
from lightning_doctor.sinks import wording
from lightning_doctor.sinks.marks import levels, no_level

VERSION = 1

# Shown of every run, whatever is found in it: runs are compared by these.
_ALWAYS = ("train_loss", "val_loss", "val_metric", "learning_rate")


@dataclass(frozen=True)
class Detail:
    """How much of a report a snapshot holds.

    Attributes:
        points: Of each curve, at most.
        text: Characters of a sentence, at most.
        findings: Those that are ill now and those that have passed, at most as many each.
        evidence: Figures of a finding, at most.
    """

    points: int = 240
    text: int = 4000
    findings: int = 1000
    evidence: int = 100


def snapshot(report: Report, detail: Detail | None = None) -> dict[str, Any]:
    """Returns plain builtins, fit for strict JSON: NaN and the infinities are their names.

    The report holds the whole course of its run, and so does each snapshot: the newest one is enough.
    """
    detail = detail or Detail()
    findings, recovered = report.findings[: detail.findings], report.recovered[: detail.findings]

    def text(item: Any) -> str:
        return wording.value(item, detail.text)

    table = {
        "version": VERSION,
        "writer": __version__,
        "step": report.step,
        "state": state(report),
        "verdict": text(wording.verdict(report)),
        "stage": text(wording.stage(report)),
        "ended": report.history.fact("run.ended") is not None,
        "patient": text(wording.patient(report)),
        "cost": text(wording.cost(report)),
        "judged": text(wording.judged(report)),
        "conclusion": text(wording.conclusion(report)),
        "end": text(report.guide.conclusion),
        "answers": [
            {"question": text(a.question), "reply": a.reply, "because": text(a.because)} for a in report.guide.answers
        ],
        "findings": [_finding(finding, detail) for finding in findings],
        "recovered": [_finding(finding, detail) for finding in recovered],
        "left_out": len(report.findings) + len(report.recovered) - len(findings) - len(recovered),
        "healthy": [text(wording.titled(code)) for code in report.healthy[:200]],
        "unassessed": [
            {"reason": text(reason), "rules": [text(wording.titled(code)) for code in codes]}
            for reason, codes in wording.by_reason(dict(list(report.unassessed.items())[:200])).items()
        ],
        "notes": [_block(note, detail.text) for note in report.notes[:20]],
        "signals": _curves(report, [*findings, *recovered], detail.points),
        "curvature": _curvature(report.history, detail),
        "figures": summarized(report, Path(), "").to_dict(),
    }
    clean: dict[str, Any] = to_jsonable(table)
    return clean


def state(report: Report) -> str:
    """Returns ``ill`` for a confirmed warning or error, ``watch`` for any other finding, else ``well``.

    ``unknown`` is a run that no rule could judge.
    """
    grave = (f for f in report.findings if f.severity is not Severity.NOTE and f.confidence is Confidence.CONFIRMED)
    if any(grave):
        return "ill"
    if report.findings:
        return "watch"
    return "well" if report.healthy else "unknown"


def _finding(finding: Finding, detail: Detail) -> dict[str, Any]:
    def text(item: Any) -> str:
        return wording.value(item, detail.text)

    return {
        "code": text(finding.code),
        "name": text(finding.name),
        "severity": str(finding.severity),
        "confidence": str(finding.confidence),
        "onset": finding.onset,
        "step": finding.step,
        "last_step": finding.last_step,
        "recovered_at": finding.recovered_at,
        "explained_by": finding.explained_by,
        "course": text(wording.course(finding)),
        "summary": text(finding.summary),
        "remedy": text(finding.remedy),
        "evidence": [[text(key), text(item)] for key, item in list(finding.evidence.items())[: detail.evidence]],
        "signals": [text(name) for name in finding.signals[:6]],
        "levels": levels(finding),
        "no_level": no_level(finding),
    }


def _curves(report: Report, findings: Iterable[Finding], points: int) -> dict[str, Any]:
    named = [*_ALWAYS, *(name for finding in findings for name in finding.signals[:6])]
    history = report.history
    # The first ones, which belong to the gravest findings: thirty are more than anybody looks at.
    names = [name for name in dict.fromkeys(named) if name in history][:30]
    return {name: curve(history[name], points) for name in names}


def curve(series: Series, points: int) -> dict[str, list[Any]]:
    """Returns ``steps`` and ``values``, at most about ``points`` of them, that look as the whole series does.

    Of each of many equal stretches the smallest, the largest and the first value that is not finite stay, so that no
    spike is lost; ends stay too.
    """
    size = len(series)
    keep = {0, size - 1} if size else set()
    if size <= points:
        keep = set(range(size))
    else:
        stretches = max(1, (points - 2) // 2)
        for index in range(stretches):
            part = range(size * index // stretches, size * (index + 1) // stretches)
            finite = [i for i in part if math.isfinite(series.values[i])]
            if finite:
                keep |= {min(finite, key=series.values.__getitem__), max(finite, key=series.values.__getitem__)}
            if len(finite) < len(part):
                keep.add(next(i for i in part if not math.isfinite(series.values[i])))
    order = sorted(keep)
    return {"steps": [series.steps[i] for i in order], "values": [_short(series.values[i]) for i in order]}


def _curvature(history: History, detail: Detail) -> dict[str, Any] | None:
    fact = history.fact("curvature")
    sharpness = history.get("curvature/sharpness").finite()
    if not isinstance(fact, Mapping) and not sharpness.steps:
        return None
    fact = fact if isinstance(fact, Mapping) else {}
    escape = fact.get("escape")
    escape = escape if isinstance(escape, Mapping) else {}
    bounds = stability(history, sharpness.steps[-1]) if sharpness.steps else None
    name = "curvature/sharpness" if bounds is None else gauge(history, bounds.gauge, 1)
    return {
        "step": fact.get("step"),
        "kind": wording.value(fact.get("kind", ""), detail.text),
        "because": wording.value(fact.get("because", ""), detail.text),
        "samples": fact.get("samples"),
        "density": _pairs(fact.get("density"), detail.points),
        "line": _pairs(fact.get("line"), detail.points),
        "escape": escape.get("distance") if escape.get("real") else None,
        "held_out": bool(fact.get("held_out")),
        "gauge": name,
        "sharpness": curve(history.get(name), detail.points),
        "low": None if bounds is None else bounds.low,
        "high": None if bounds is None else bounds.high,
        "source": "" if bounds is None else bounds.source,
    }


def _pairs(points: Any, most: int) -> list[list[float]]:
    try:
        pairs = [[_short(float(x)), _short(float(y))] for x, y in points or []]
    except (TypeError, ValueError):
        return []
    return pairs if len(pairs) <= most else pairs[:: math.ceil(len(pairs) / most)]


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def _block(note: str, limit: int) -> str:
    lines = [
        " " * (len(line) - len(line.lstrip(" "))) + wording.one_line(line, limit) for line in note.strip().splitlines()
    ]
    whole = "\n".join(lines)
    return whole if len(whole) <= limit else whole[: limit - 1] + "…"
