from __future__ import annotations

import json
from typing import Any

import pytest

from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.jsonable import MalformedError

NAN, INF = float("nan"), float("inf")


def full() -> Finding:
    return Finding(
        severity=Severity.ERROR,
        confidence=Confidence.SUSPECTED,
        summary="NaN",
        remedy="lower lr from 0.1 to 0.01",
        evidence={"best": 0.1, "worst": INF, "steps": 3, "layer": "head"},
        onset=7,
        signals=("train_loss", "grad_norm"),
        code="LD102",
        name="diverging_loss",
        step=9,
        last_step=20,
        explained_by="LD103",
        recovered_at=30,
    )


def test_severity_and_confidence_read_as_their_text_and_are_ordered() -> None:
    assert Severity.ERROR == "error"
    assert f"{Severity.WARNING}" == "warning"
    assert f"{Confidence.SUSPECTED}" == "suspected"
    assert sorted(Severity, key=lambda s: s.rank) == [Severity.NOTE, Severity.WARNING, Severity.ERROR]
    assert Confidence.CONFIRMED.rank > Confidence.SUSPECTED.rank


def test_a_finding_survives_strict_json() -> None:
    table = json.loads(json.dumps(full().to_dict(), allow_nan=False))
    assert Finding.from_dict(table) == full()


def test_a_summary_that_reads_nan_stays_text_while_evidence_becomes_a_number() -> None:
    again = Finding.from_dict(full().to_dict())
    assert again.summary == "NaN"
    assert again.evidence["worst"] == INF


def test_evidence_that_is_nan_survives() -> None:
    finding = Finding(severity=Severity.NOTE, summary="s", remedy="r", evidence={"loss": NAN})
    again = Finding.from_dict(json.loads(json.dumps(finding.to_dict(), allow_nan=False)))
    assert again.evidence["loss"] != again.evidence["loss"]


def test_the_plain_table_holds_builtins_only() -> None:
    # A checkpoint is loaded weights-only: an enum in it breaks the resume.
    for value in full().to_dict().values():
        assert type(value) in (str, int, dict, list)


def test_unknown_keys_are_passed_over_and_missing_ones_have_their_default() -> None:
    finding = Finding.from_dict({"severity": "note", "summary": "s", "remedy": "r", "colour": "red"})
    assert finding == Finding(severity=Severity.NOTE, summary="s", remedy="r")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"severity": "fatal"}, "'fatal' is not a valid Severity"),
        ({"severity": None}, "None is not a valid Severity"),
        ({"severity": []}, "Severity"),
        ({"confidence": "maybe"}, "'maybe' is not a valid Confidence"),
        ({"summary": 3}, "summary of a finding must be text, got 3"),
        ({"remedy": None}, "remedy of a finding must be text"),
        ({"evidence": [1]}, "evidence of a finding must be an object"),
        ({"signals": "train_loss"}, "signals of a finding must be a list"),
        ({"step": "7"}, "step of a finding must be a whole number, got '7'"),
        ({"step": True}, "step of a finding must be a whole number"),
        ({"onset": 0.5}, "onset of a finding must be a whole number or null"),
        ({"explained_by": 1}, "explained_by of a finding must be text or null"),
        ({"code": None}, "code of a finding must be text"),
    ],
)
def test_a_malformed_finding_is_refused_with_what_is_wrong(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(MalformedError) as caught:
        Finding.from_dict({**full().to_dict(), **change})
    assert complaint in str(caught.value)


@pytest.mark.parametrize("data", [None, [], "finding", 3, {}, {"severity": "note"}])
def test_what_is_no_finding_at_all_is_refused(data: Any) -> None:
    with pytest.raises(MalformedError):
        Finding.from_dict(data)
