from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

import lightning_doctor.diagnose as diagnose_module
from lightning_doctor.diagnose import Course, Verdict, diagnose, examine, rank
from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.jsonable import MalformedError
from lightning_doctor.rule import Rule, Undecided, rule
from lightning_doctor.rules import all_rules, find_rule
from tests.histories import history_of

NAN = float("nan")


def finding(code: str, name: str = "", severity: Severity = Severity.WARNING, **fields: Any) -> Finding:
    return Finding(severity=severity, summary="s", remedy="r", code=code, name=name or code.lower(), **fields)


def made(code: str, *explains: str) -> Rule:
    def check(history: History) -> Finding | None:
        return None

    return Rule(code, code.lower(), check, {"train_loss": 1}, (), explains, False, {})


@pytest.fixture
def explaining(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Replaces the catalogue by rules of which only the code and what they explain matters."""

    def replace_by(**explains: list[str]) -> None:
        rules = [made(code, *(name.lower() for name in names)) for code, names in explains.items()]
        monkeypatch.setattr(diagnose_module, "all_rules", lambda: tuple(rules))

    return replace_by


def order(findings: list[Finding]) -> list[tuple[str, str | None]]:
    return [(one.code, one.explained_by) for one in rank(findings)]


def test_the_most_severe_then_the_surest_then_the_earliest_come_first(explaining: Any) -> None:
    explaining()
    ranked = rank(
        [
            finding("LD1", severity=Severity.NOTE, onset=0),
            finding("LD2", onset=50),
            finding("LD3", onset=20),
            finding("LD4", confidence=Confidence.SUSPECTED, onset=0),
            finding("LD5", severity=Severity.ERROR, onset=90),
            finding("LD6", step=10),
        ]
    )
    assert [one.code for one in ranked] == ["LD5", "LD6", "LD3", "LD2", "LD4", "LD1"]


def test_a_cause_comes_before_its_symptom_even_where_the_symptom_is_worse(explaining: Any) -> None:
    explaining(A=["b"], B=[])
    assert order([finding("A"), finding("B", severity=Severity.ERROR)]) == [("A", None), ("B", "A")]


def test_symptoms_come_after_every_root(explaining: Any) -> None:
    explaining(A=["b"], B=[], C=[])
    error = Severity.ERROR
    assert order(
        [finding("A", severity=error), finding("B", severity=error), finding("C", severity=Severity.NOTE)]
    ) == [
        ("A", None),
        ("C", None),
        ("B", "A"),
    ]


def test_a_symptom_of_a_symptom_hangs_under_the_root(explaining: Any) -> None:
    explaining(A=["b"], B=["c"], C=[])
    assert order([finding("A"), finding("B"), finding("C")]) == [("A", None), ("B", "A"), ("C", "A")]


def test_of_several_causes_the_first_in_the_order_is_taken(explaining: Any) -> None:
    explaining(A=["c"], B=["c"], C=[])
    assert ("C", "B") in order([finding("A"), finding("B", severity=Severity.ERROR), finding("C")])


def test_what_is_only_a_note_has_caused_no_warning(explaining: Any) -> None:
    # A fault that does this run no harm would hide what does.
    explaining(A=["b"], B=[])
    assert order([finding("A", severity=Severity.NOTE), finding("B")]) == [("B", None), ("A", None)]
    assert order([finding(code, severity=Severity.NOTE) for code in "AB"]) == [("A", None), ("B", "A")]


def test_what_began_clearly_earlier_is_not_a_symptom(explaining: Any) -> None:
    explaining(A=["b"], B=[])
    late, early = finding("A", onset=500), finding("B", onset=100, last_step=1000)
    assert order([late, early]) == [("B", None), ("A", None)]
    # A tenth of the 1000 steps so far is within the error of an onset.
    assert order([finding("A", onset=200), early]) == [("A", None), ("B", "A")]
    assert order([finding("A", onset=201), early]) == [("B", None), ("A", None)]
    assert order([finding("A"), early]) == [("A", None), ("B", "A")]


def test_of_two_that_explain_each_other_the_weightier_is_the_root(explaining: Any) -> None:
    explaining(A=["b"], B=["a"])
    assert order([finding("A"), finding("B", severity=Severity.ERROR)]) == [("B", None), ("A", "B")]
    assert order([finding("A", severity=Severity.ERROR), finding("B")]) == [("A", None), ("B", "A")]


def test_a_ring_of_causes_has_one_root_and_everything_hangs_under_it(explaining: Any) -> None:
    explaining(A=["b"], B=["c"], C=["a", "d"], D=[], E=["e"])
    names = ["A", "B", "C", "D", "E"]
    for codes in itertools.permutations(names):
        ranked = order([finding(code, onset=0) for code in codes])
        assert ranked[0] == ("A", None)
        assert dict(ranked) == {"A": None, "E": None, "B": "A", "C": "A", "D": "A"}


def test_every_finding_comes_out_once_whatever_the_real_rules_explain() -> None:
    findings = [finding(rule.code, rule.name, onset=index % 7) for index, rule in enumerate(all_rules())]
    ranked = rank(findings)
    assert sorted(one.code for one in ranked) == sorted(one.code for one in findings)
    roots = {one.code for one in ranked if one.explained_by is None}
    assert roots
    assert {one.explained_by for one in ranked} - {None} <= roots


def test_the_cause_of_a_broken_gradient_is_named_before_the_broken_loss() -> None:
    gradient = finding("LD203", "non_finite_gradients", Severity.ERROR, onset=49)
    loss = finding("LD101", "non_finite_loss", Severity.ERROR, onset=50)
    assert order([loss, gradient]) == [("LD203", None), ("LD101", "LD203")]


@rule("LD998", needs={"train_loss": 2})
def failing(history: History) -> Finding | None:
    """Fails."""
    raise ZeroDivisionError("by zero")


@rule("LD999", needs={"train_loss": 2})
def high(history: History, *, limit: float = 0.5) -> Finding | None:
    """The loss is high."""
    last = history["train_loss"].values[-1]
    return Finding(severity=Severity.NOTE, summary=f"{last}", remedy="go on") if last > limit else None


def test_examining_tells_found_healthy_and_unassessed_apart() -> None:
    ill, well, empty = (examine(history_of(losses), [high]) for losses in ([1.0, 0.9], [1.0, 0.1], []))
    assert ([one.code for one in ill.findings], ill.healthy, ill.unassessed) == (["LD999"], [], {})
    assert (well.findings, well.healthy, well.unassessed) == ([], ["LD999"], {})
    assert (empty.findings, empty.healthy) == ([], [])
    assert empty.unassessed == {"LD999": "train_loss has 0 of the 2 values needed"}


def test_thresholds_reach_the_rule() -> None:
    assert examine(history_of([1.0, 0.9]), [high], {"LD999": {"limit": 0.95}}).healthy == ["LD999"]


def test_a_failing_rule_is_reported_and_the_others_still_speak() -> None:
    failures: list[tuple[str, str]] = []
    verdict = examine(
        history_of([1.0, 0.9]), [failing, high], on_failure=lambda rule, error: failures.append((rule.code, str(error)))
    )
    assert failures == [("LD998", "by zero")]
    assert verdict.unassessed == {"LD998": "the rule failed: ZeroDivisionError: by zero"}
    assert [one.code for one in verdict.findings] == ["LD999"]


def test_without_anybody_to_tell_a_failure_passes_through() -> None:
    with pytest.raises(ZeroDivisionError):
        examine(history_of([1.0, 0.9]), [failing])


def ill(**fields: Any) -> Verdict:
    return Verdict(findings=[finding("LD501", "overfitting", **fields)])


WELL = Verdict(healthy=["LD501"])
UNKNOWN = Verdict(unassessed={"LD501": "val_loss is not finite"})


def test_an_illness_is_announced_once_and_then_kept_up_to_date() -> None:
    course = Course()
    (new,) = course.update(ill(onset=30), 100)
    assert (new.step, new.last_step, new.onset) == (100, 100, 30)
    assert course.update(ill(onset=40, severity=Severity.ERROR), 150) == []
    (now,) = course.ongoing
    assert (now.step, now.last_step, now.onset, now.severity) == (100, 150, 40, Severity.ERROR)
    assert course.recovered == []


def test_an_illness_without_an_onset_began_when_it_was_announced() -> None:
    course = Course()
    course.update(ill(), 100)
    course.update(ill(), 150)
    assert course.ongoing[0].onset == 100


def test_an_illness_that_passed_is_recovered_from_the_step_at_which_it_was_looked_for_and_not_found() -> None:
    course = Course()
    course.update(ill(), 100)
    course.update(WELL, 150)
    course.update(WELL, 200)
    assert course.ongoing == []
    (passed,) = course.recovered
    assert (passed.step, passed.last_step, passed.recovered_at) == (100, 100, 150)


def test_a_rule_that_cannot_look_withdraws_nothing() -> None:
    course = Course()
    course.update(ill(), 100)
    course.update(UNKNOWN, 150)
    assert [one.last_step for one in course.ongoing] == [100]


def test_a_relapse_is_ongoing_again_and_not_announced_again() -> None:
    course = Course()
    course.update(ill(), 100)
    course.update(WELL, 150)
    assert course.update(ill(), 200) == []
    (again,) = course.ongoing
    assert (again.step, again.last_step, again.recovered_at) == (100, 200, None)
    assert course.recovered == []


def test_what_recovered_is_told_in_the_order_of_its_announcement() -> None:
    course = Course()
    course.update(Verdict(findings=[finding("LD504")]), 10)
    course.update(Verdict(findings=[finding("LD501")]), 20)
    course.update(Verdict(healthy=["LD501", "LD504"]), 30)
    assert [one.code for one in course.recovered] == ["LD504", "LD501"]


def test_a_course_goes_on_after_a_checkpoint() -> None:
    course = Course()
    course.update(Verdict(findings=[finding("LD501", evidence={"loss": NAN}, signals=("val_loss",))]), 100)
    course.update(Verdict(findings=[finding("LD504")]), 120)
    course.update(Verdict(healthy=["LD504"]), 130)
    again = Course.from_dict(json.loads(json.dumps(course.to_dict(), allow_nan=False)))
    assert again.to_dict() == course.to_dict()
    assert again.update(ill(), 200) == []
    assert [one.code for one in again.recovered] == ["LD504"]


@pytest.mark.parametrize("data", [None, {}, "LD501", 3, [3], [{}]])
def test_a_malformed_course_is_refused(data: Any) -> None:
    with pytest.raises(MalformedError):
        Course.from_dict(data)


def test_a_diagnosis_of_a_whole_history_judges_it_as_at_its_end() -> None:
    history = history_of([1.0, 0.9, 0.8])
    report = diagnose(history, rules=[high, find_rule("LD504")], thresholds={"LD999": {"limit": 0.7}})
    assert [(one.code, one.step, one.last_step) for one in report.findings] == [("LD999", 2, 2)]
    assert report.unassessed == {"LD504": "val_loss has 0 of the 8 values needed"}
    assert report.healthy == []
    assert report.history is history
    assert report.step == 2


def test_an_empty_history_is_unassessed_throughout() -> None:
    report = diagnose(History())
    assert report.findings == []
    assert set(report.unassessed) == {rule.code for rule in all_rules()}
    assert report.guide.conclusion == "unknown"


def test_evidence_that_does_not_tell_leaves_a_rule_unassessed_with_its_reason() -> None:
    @rule("LD997", needs={"train_loss": 1})
    def torn(history: History) -> Finding | None:
        """It cannot decide."""
        raise Undecided("two limits lie far apart")

    verdict = examine(history_of([1.0]), [torn])
    assert (verdict.unassessed, verdict.healthy, verdict.findings) == ({"LD997": "two limits lie far apart"}, [], [])
