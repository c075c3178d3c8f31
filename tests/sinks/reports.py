"""Reports as runs give them, and one full of what comes from outside and means harm."""

from __future__ import annotations

import math
from typing import Any

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.guide import Answer, Guide
from lightning_doctor.history import History
from lightning_doctor.report import Report

# Each piece breaks something: table, HTML, link, emphasis, code, list, rich markup, terminal, place-holder, encoding.
NASTY = (
    "a|b <script>alert(1)</script> &amp; `code` **bold** __init__ [link](javascript:alert(1)) "
    "[bold red]rich[/] [/] \\| \n# heading\n| x | y |\r\n```\n\x1b[31mred\x02wzxhzdk:0\x03\x00 \u202eevil \udc80 {a}"
)


def diverging() -> Report:
    history = History()
    history.facts = {
        "model": {"class": "LitDigits", "parameters": 85_002},
        "optimizers": [{"class": "SGD", "groups": [{"lr": 10.0}]}],
        "run": {"ended": "interrupted", "ended_step": 600},
    }
    for step in range(601):
        history.record("train_loss", step, 2.3 if step < 240 else math.nan)
    cause = Finding(
        code="LD102",
        name="diverging_loss",
        severity=Severity.ERROR,
        summary="the loss left its start for good: 0.31 → 8434 within 10 steps, 320 times its noise",
        remedy="lower lr from 10 to 0.1, or warm it up over the first 100 steps",
        evidence={"best": 0.3112, "now": 8434.12, "noise": 0.0261, "lr": 10.0, "onset_step": 240},
        onset=240,
        step=250,
        last_step=600,
        signals=("train_loss",),
    )
    exploding = Finding(
        code="LD202",
        name="exploding_gradients",
        severity=Severity.WARNING,
        confidence=Confidence.SUSPECTED,
        summary="the gradient norm grew from 1.2 to 5.6e+07",
        remedy="clip gradients at 2.4",
        evidence={"before": 1.2, "now": 5.6e7, "largest_layer": "net.0.weight"},
        onset=241,
        step=250,
        last_step=600,
        explained_by="LD102",
    )
    lost = Finding(
        code="LD101",
        name="non_finite_loss",
        severity=Severity.ERROR,
        summary="the loss is NaN from step 312 on",
        remedy="treat the cause first",
        evidence={"value": math.nan, "step": 312},
        onset=312,
        step=350,
        last_step=600,
        explained_by="LD102",
    )
    spike = Finding(
        code="LD107",
        name="loss_spike",
        severity=Severity.NOTE,
        summary="one step 12 noise widths over its trend",
        remedy="look at batch 31",
        onset=31,
        step=50,
        last_step=100,
        recovered_at=150,
    )
    return Report(
        findings=[cause, lost, exploding],
        recovered=[spike],
        healthy=["LD206", "LD109"],
        unassessed={"LD501": "no validation loader", "LD504": "no validation loader", "LD108": "the run has not ended"},
        guide=Guide(
            [
                Answer("Is the training loss low enough?", "no", "LD102 diverging_loss"),
                Answer(
                    "Could this model do better?", "yes", "an optimization cause is confirmed: LD102 diverging_loss"
                ),
                Answer("Is the gradient near zero?", "unknown", "no curvature probe ran"),
            ],
            "optimization",
        ),
        overhead=0.0083,
        step=600,
        history=history,
    )


def overfitting() -> Report:
    return Report(
        findings=[
            Finding(
                code="LD501",
                name="overfitting",
                severity=Severity.WARNING,
                confidence=Confidence.SUSPECTED,
                summary="the validation loss rose from 0.45 to 0.92 while the training loss fell to 0.003",
                remedy="restore the checkpoint of step 120; add weight decay (0 now)",
                evidence={"best": 0.45, "best_step": 120, "now": 0.92, "train": 0.003},
                onset=120,
                step=300,
                last_step=300,
            )
        ],
        healthy=["LD101", "LD102", "LD105"],
        guide=Guide(
            [
                Answer("Is the training loss low enough?", "yes", "0.003 now, 0.69 at the start"),
                Answer("Is the validation loss low too?", "no", "LD501 overfitting"),
            ],
            "overfitting",
        ),
        overhead=0.00004,
        step=300,
    )


def healthy() -> Report:
    return Report(
        healthy=["LD101", "LD102", "LD105", "LD107", "LD206"],
        unassessed={"LD501": "no validation loader"},
        guide=Guide([Answer("Is the training loss low enough?", "yes", "0.02 now, 2.3 at the start")], "unknown"),
        overhead=0.012,
        step=1000,
    )


def nasty() -> Report:
    history = History()
    history.facts = {"model": {"class": NASTY}, "optimizers": [{"class": NASTY}], "run": {"ended": NASTY}}
    finding: dict[str, Any] = {"summary": NASTY, "remedy": NASTY, "evidence": {NASTY: NASTY, "loss": math.inf}}
    return Report(
        findings=[
            Finding(code="LD1", name=NASTY, severity=Severity.ERROR, **finding),
            Finding(code="LD2", name=NASTY, severity=Severity.NOTE, explained_by="LD1", **finding),
            Finding(code=NASTY, name=NASTY, severity=Severity.NOTE, explained_by="LD999", **finding),
        ],
        recovered=[Finding(code=NASTY, name=NASTY, severity=Severity.NOTE, recovered_at=3, **finding)],
        healthy=[NASTY],
        unassessed={NASTY: NASTY},
        guide=Guide([Answer(NASTY, "unknown", NASTY)], NASTY),
        overhead=math.nan,
        notes=[f"GradientMonitor failed and is off\n{NASTY}\n````\n  at line 3", NASTY, ""],
        history=history,
    )


REPORTS = {
    "diverging": diverging,
    "overfitting": overfitting,
    "healthy": healthy,
    "empty": Report,
    "nasty": nasty,
}
