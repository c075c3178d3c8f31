from __future__ import annotations

import inspect
import json
import math
import random
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lightning_doctor.compared_run import RunSummary, summarized
from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import Series
from lightning_doctor.jsonable import MalformedError
from lightning_doctor.report import Report
from lightning_doctor.rule import Rule
from lightning_doctor.rules import all_rules
from lightning_doctor.sinks.marks import _LEVELS, _WITHOUT, levels, no_level
from lightning_doctor.sinks.snapshot import VERSION, curve, snapshot, state
from lightning_doctor.sinks.snapshot_bytes import CAP, encode, pack, unpack
from tests.sinks.reports import NASTY, REPORTS, diverging, healthy, overfitting


@pytest.mark.parametrize("name", REPORTS)
def test_a_snapshot_is_strict_json_and_comes_back_as_it_was(name: str):
    table = snapshot(REPORTS[name]())
    assert json.loads(json.dumps(table, allow_nan=False)) == table
    back = unpack(pack(table))
    # Half a surrogate pair has no UTF-8; nothing else is lost.
    assert json.dumps(back) == json.dumps(table).replace("\\udc80", "?")


def test_a_snapshot_tells_the_verdict_the_findings_and_the_walk():
    table = snapshot(diverging())
    assert (table["state"], table["verdict"]) == ("ill", "This run is lost or wrong as it stands: diverging_loss.")
    assert [(f["code"], f["explained_by"], f["onset"]) for f in table["findings"]] == [
        ("LD102", None, 240),
        ("LD101", "LD102", 312),
        ("LD202", "LD102", 241),
    ]
    assert [f["recovered_at"] for f in table["recovered"]] == [150]
    assert table["findings"][0]["levels"] == {"train_loss": [["best", 0.3112]]}
    assert [answer["reply"] for answer in table["answers"]] == ["no", "yes", "unknown"]
    assert table["end"] == "optimization"
    assert {"reason": "no validation loader", "rules": ["LD501 overfitting", "LD504 stale_validation"]} in table[
        "unassessed"
    ]
    assert table["cost"] == "0.83 % of the run's time"


@pytest.mark.parametrize(
    ("severity", "confidence", "wanted"),
    [
        (Severity.ERROR, Confidence.CONFIRMED, "ill"),
        (Severity.WARNING, Confidence.CONFIRMED, "ill"),
        (Severity.WARNING, Confidence.SUSPECTED, "watch"),
        (Severity.NOTE, Confidence.CONFIRMED, "watch"),
    ],
)
def test_a_confirmed_warning_is_ill_and_anything_else_is_to_be_watched(
    severity: Severity, confidence: Confidence, wanted: str
):
    finding = replace(overfitting().findings[0], severity=severity, confidence=confidence)
    assert state(Report(findings=[finding], healthy=["LD101"])) == wanted


def test_a_run_without_findings_is_well_only_where_something_was_judged():
    assert state(healthy()) == "well"
    assert state(Report(unassessed={"LD101": "too short"})) == "unknown"


def test_a_thinned_curve_keeps_its_ends_its_spike_and_its_first_nan():
    series = Series(10_000)
    for step in range(5_000):
        series.append(step, {1234: 1e6, 2345: -1e6, 3456: math.nan}.get(step, math.sin(step / 50)))
    thin = curve(series, 240)
    # Three points a stretch where one is not finite, and the two ends.
    assert len(thin["steps"]) <= 240 + 2
    assert (thin["steps"][0], thin["steps"][-1]) == (0, 4_999)
    assert {1234, 2345, 3456} <= set(thin["steps"])
    assert thin["steps"] == sorted(thin["steps"])


def test_a_short_curve_is_kept_whole():
    series = Series()
    for step in range(240):
        series.append(step, float(step))
    assert curve(series, 240) == {"steps": list(range(240)), "values": [float(step) for step in range(240)]}


def written(rule: Rule) -> str:
    """The source of a rule's module, and of the functions that it takes from others."""
    module = inspect.getmodule(rule.check)
    taken = [part for part in vars(module).values() if inspect.isfunction(part) and part.__module__ != module.__name__]
    return "\n".join([inspect.getsource(module), *map(inspect.getsource, taken)])


def test_every_level_that_is_drawn_names_a_rule_its_signal_and_its_evidence():
    sources = {rule.name: written(rule) for rule in all_rules()}
    for name, drawn in _LEVELS.items():
        for signal, key in drawn:
            assert f'"{key}"' in sources[name] or f"{key}=" in sources[name], f"{name} has no evidence {key}"
            assert isinstance(signal, int) or f'"{signal}"' in sources[name], f"{name} has no signal {signal}"


def test_every_rule_draws_a_level_or_says_why_it_has_none():
    names = {rule.name for rule in all_rules()}
    assert names == {*_LEVELS, *_WITHOUT}
    assert not set(_LEVELS) & set(_WITHOUT)
    finding = replace(overfitting().findings[0], name="constant_labels")
    assert (levels(finding), no_level(finding)) == ({}, "it rests on the labels that were seen")
    assert no_level(overfitting().findings[0]) == ""


def test_a_level_that_is_no_finite_number_is_not_drawn():
    finding = replace(overfitting().findings[0], signals=("val_loss",))
    assert levels(finding) == {"val_loss": [("best", 0.45)]}
    assert levels(replace(finding, evidence={"best": math.nan})) == {}
    assert levels(replace(finding, evidence={"best": "none"})) == {}
    assert levels(replace(finding, signals=())) == {}


def full_of_noise(findings: int, length: int) -> Report:
    """A report that no compression makes small: characters drawn from twenty thousand."""
    source = random.Random(0)

    def text() -> str:
        return "".join(map(chr, source.choices(range(0x4E00, 0x9FA5), k=length)))

    found = [
        Finding(
            code=f"LD{index:03}",
            name=text(),
            severity=Severity.WARNING,
            summary=text(),
            remedy=text(),
            evidence={text(): text() for _ in range(12)},
            signals=("train_loss",),
        )
        for index in range(findings)
    ]
    report = diverging()
    history = report.history
    for step in range(4_000):
        history.record(f"val_loss/{step % 40}", step, source.random())
    return replace(
        report, findings=found, notes=[text() for _ in range(40)], unassessed={f.code: text() for f in found}
    )


@pytest.mark.parametrize(("findings", "length"), [(1, 10), (50, 60), (6, 10_000), (300, 200)])
def test_no_snapshot_is_larger_than_the_cap_and_the_gravest_finding_is_always_in_it(findings: int, length: int):
    report = full_of_noise(findings, length)
    data = encode(report)
    assert len(data) <= CAP
    table = unpack(data)
    assert table["findings"][0]["code"] == "LD000"
    kept = len(table["findings"]) + len(table["recovered"])
    assert kept + table["left_out"] == findings + len(report.recovered)


def test_an_ordinary_report_is_not_shortened():
    assert unpack(encode(diverging())) == snapshot(diverging())


@pytest.mark.parametrize(
    ("version", "advice"), [(VERSION + 1, "update lightning-doctor"), (0, "doctor.json"), ("x" * 999, "doctor.json")]
)
def test_a_snapshot_of_another_version_is_refused_with_what_to_do(version: Any, advice: str):
    data = pack({**snapshot(healthy()), "version": version})
    with pytest.raises(MalformedError, match=f"reads {VERSION}: .*{advice}") as caught:
        unpack(data)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"plain",
        "text",
        zlib.compress(b"[1]"),
        zlib.compress(b"{}"),
        zlib.compress(b"{"),
        zlib.compress(b"\xff\xfe"),
        zlib.compress(b"[" * 100_000),
        # 64 MiB of zeros in 64 kB.
        zlib.compress(bytes(1 << 26)),
        encode(healthy())[:-8],
    ],
    ids=["empty", "plain", "text", "list", "no version", "half", "no text", "deep", "bomb", "cut off"],
)
def test_what_is_no_snapshot_is_refused(data: Any):
    with pytest.raises(MalformedError, match="snapshot"):
        unpack(data)


def test_figures_of_a_run_come_back_as_they_were():
    figures = summarized(diverging(), Path("here"), "a")
    back = RunSummary.from_dict(json.loads(json.dumps(figures.to_dict(), allow_nan=False)), "a", figures.losses)
    assert repr(replace(back, place="here")) == repr(figures)


@pytest.mark.parametrize("data", [None, [], "text", {"train": 3}, {"train": {"value": NASTY}}])
def test_figures_that_are_none_are_refused(data: Any):
    with pytest.raises(MalformedError, match="figures of a"):
        RunSummary.from_dict(data, "a", Series())
