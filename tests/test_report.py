from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_doctor.findings import Finding, Severity
from lightning_doctor.guide import Answer, Guide
from lightning_doctor.history import History
from lightning_doctor.jsonable import MalformedError, from_jsonable, to_jsonable
from lightning_doctor.report import SCHEMA_VERSION, Report

NAN, INF = float("nan"), float("inf")


def full() -> Report:
    history = History()
    history.facts = {"model": {"layers": {"Linear": 2}}}
    history.absent = {"val_loss": "no validation loader"}
    history.happened("non_finite_gradient", 4, layers=["head"], loss=0.3)
    for step, value in enumerate([1.0, 0.5, NAN, INF]):
        history.record("train_loss", step, value)
    error = Finding(
        severity=Severity.ERROR,
        summary="the loss is NaN",
        remedy="lower lr",
        evidence={"loss": NAN, "worst": -INF, "steps": 3, "layer": "head"},
        onset=2,
        signals=("train_loss",),
        code="LD101",
        name="non_finite_loss",
        step=3,
        last_step=3,
    )
    note = Finding(
        severity=Severity.NOTE, summary="s", remedy="r", code="LD107", name="loss_spike", explained_by="LD101"
    )
    return Report(
        findings=[error, note],
        recovered=[Finding(severity=Severity.WARNING, summary="s", remedy="r", code="LD504", recovered_at=2)],
        healthy=["LD102"],
        unassessed={"LD501": "no validation loader"},
        guide=Guide([Answer("Is the training loss low enough?", "no", "LD101")], "unknown"),
        overhead=0.0125,
        step=3,
        notes=["a probe failed"],
        history=history,
    )


def strict(report: Report) -> dict[str, Any]:
    table: dict[str, Any] = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    return table


def test_a_report_survives_strict_json_with_its_nan() -> None:
    again = Report.from_dict(strict(full()))
    # NaN is not equal to itself: the plain tables are compared.
    assert again.to_dict() == full().to_dict()
    loss = again.findings[0].evidence["loss"]
    assert isinstance(loss, float)
    assert loss != loss
    assert again.findings[0].evidence["worst"] == -INF
    assert again.history["train_loss"].values[3] == INF


def test_an_empty_report_survives_and_claims_no_health() -> None:
    assert strict(Report())["verdict"] == "unassessed"
    assert strict(Report(healthy=["LD101"]))["verdict"] == "healthy"
    assert Report.from_dict(strict(Report())) == Report()


@pytest.mark.parametrize("overhead", [None, 0.0, NAN, INF])
def test_any_overhead_survives_strict_json(overhead: float | None) -> None:
    again = Report.from_dict(strict(Report(overhead=overhead)))
    assert repr(again.overhead) == repr(overhead)


def test_the_worst_the_roots_and_the_symptoms() -> None:
    report = full()
    assert report.worst is Severity.ERROR
    assert [one.code for one in report.roots] == ["LD101"]
    assert [one.code for one in report.symptoms(report.roots[0])] == ["LD107"]
    assert strict(report)["verdict"] == "error"
    assert Report().worst is None


@pytest.mark.parametrize(
    ("schema", "seen"),
    [(SCHEMA_VERSION + 1, f"schema {SCHEMA_VERSION + 1}"), ("1", "schema '1'"), (None, "schema None")],
)
def test_another_schema_is_refused_with_both_numbers(schema: Any, seen: str) -> None:
    with pytest.raises(MalformedError) as caught:
        Report.from_dict({**strict(full()), "schema": schema})
    assert seen in str(caught.value)
    assert f"this version reads {SCHEMA_VERSION}" in str(caught.value)


@pytest.mark.parametrize("data", [None, [], 3, "report", {}, {"findings": []}])
def test_what_is_no_report_is_refused(data: Any) -> None:
    with pytest.raises(MalformedError, match="not a doctor report"):
        Report.from_dict(data)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"findings": "x"}, "findings of the report must be a list, got str"),
        ({"findings": [{}]}, "a finding cannot be read"),
        ({"recovered": None}, "recovered of the report must be a list, got NoneType"),
        ({"healthy": {"LD501": 1}}, "healthy of the report must be a list"),
        ({"unassessed": [1]}, "the report cannot be read"),
        ({"guide": 3}, "the guide must be an object"),
        ({"overhead": "much"}, "the report cannot be read"),
        ({"overhead": 10**400}, "the report cannot be read"),
        ({"step": "x"}, "the report cannot be read"),
        ({"step": INF}, "the report cannot be read"),
        ({"notes": "none"}, "notes of the report must be a list"),
        ({"history": []}, "history must be an object"),
    ],
)
def test_a_malformed_part_is_refused_with_what_is_wrong(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(MalformedError) as caught:
        Report.from_dict({**strict(full()), **change})
    assert complaint in str(caught.value)


def test_absurd_nesting_is_refused_too() -> None:
    nested: Any = 1
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(MalformedError):
        Report.from_dict({**strict(full()), "history": {"facts": {"model": nested}}})
    # Taken apart by hand: freeing it at once would recurse as deep.
    while isinstance(nested, list):
        nested = nested.pop()


def places(table: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = table.items() if isinstance(table, dict) else enumerate(table) if isinstance(table, list) else ()
    return [path, *(place for key, child in children for place in places(child, (*path, key)))]


PLACES = [place for place in places(strict(full())) if place]
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["NaN", "Infinity", 10**400, "LD101", "note", "yes"]),
)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


def readable(data: Any) -> None:
    """Reads it or refuses it as malformed; what was read can be written and read again."""
    try:
        report = Report.from_dict(data)
    except MalformedError:
        return
    table = strict(report)
    assert Report.from_dict(table).to_dict() == table
    assert report.worst is None or isinstance(report.worst, Severity)
    assert all(one in report.findings for one in report.roots)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.sampled_from(PLACES), anything, st.booleans())
def test_a_report_with_anything_anywhere_is_read_or_refused(place: tuple[Any, ...], value: Any, delete: bool) -> None:
    table = copy.deepcopy(strict(full()))
    node: Any = table
    for key in place[:-1]:
        node = node[key]
    if delete:
        del node[place[-1]]
    else:
        node[place[-1]] = value
    readable(table)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(anything)
def test_anything_at_all_is_read_or_refused(data: Any) -> None:
    readable(data)
    readable({"schema": SCHEMA_VERSION, "findings": data})
    readable({"schema": SCHEMA_VERSION, "history": data})
    readable({"schema": SCHEMA_VERSION, "guide": data})


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(), lambda i: st.lists(i, max_size=3), max_leaves=9
    )
)
def test_numbers_survive_strict_json(value: Any) -> None:
    assert repr(from_jsonable(json.loads(json.dumps(to_jsonable(value), allow_nan=False)))) == repr(value)


def test_what_json_does_not_know_becomes_its_text() -> None:
    assert to_jsonable({1: (Severity.NOTE, {3}), "path": object}) == {"1": ["note", [3]], "path": "<class 'object'>"}
