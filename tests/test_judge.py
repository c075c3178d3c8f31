from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lightning_doctor.diagnose import diagnose
from lightning_doctor.findings import Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.judge import judge
from lightning_doctor.logs.runs import find_runs
from lightning_doctor.report import Report
from lightning_doctor.rule import Rule, rule
from lightning_doctor.sinks.report import write


@rule("LD998", needs={"train_loss": 2})
def unfinished(history: History) -> Finding | None:
    """Stands in for a rule that waits for the end of the run."""
    if history.fact("run.ended") is None or history["train_loss"].values[-1] < 0.5:
        return None
    return Finding(severity=Severity.NOTE, summary="high at the end", remedy="go on")


@rule("LD999", needs={"train_loss": 2})
def high(history: History) -> Finding | None:
    """Stands in for a rule that looks at the loss alone."""
    last = history["train_loss"].values[-1]
    return Finding(severity=Severity.NOTE, summary="high", remedy="go on") if last > 0.5 else None


def judged(folder: Path, *rules: Rule) -> Report:
    (run,) = find_runs(folder)
    return judge(run, {}, rules, {})


def table(folder: Path, *losses: float) -> None:
    rows = "".join(f"{step},{loss}\n" for step, loss in enumerate(losses))
    (folder / "metrics.csv").write_text(f"step,loss\n{rows}")


def test_a_rule_that_waits_for_the_end_of_the_run_is_unassessed_on_a_log(tmp_path: Path) -> None:
    table(tmp_path, 1.0, 0.2)
    report = judged(tmp_path, unfinished, high)
    assert report.unassessed == {"LD998": "the log does not tell how the run ended"}
    assert report.healthy == ["LD999"]


def test_a_log_is_judged_and_says_what_it_does_not_tell(tmp_path: Path) -> None:
    table(tmp_path, 1.0, 0.9)
    report = judged(tmp_path, high)
    assert [finding.code for finding in report.findings] == ["LD999"]
    assert any("does not tell how its run ended" in note for note in report.notes)


def saved(folder: Path, *losses: float) -> None:
    """A report whose LD998 was announced at step 1, and whose LD997 and LD999 had passed."""
    history = History()
    history.facts["run"] = {"ended": "completed"}
    for step, loss in enumerate(losses):
        history.record("train_loss", step, loss)
    ill = Finding(severity=Severity.NOTE, summary="high at the end", remedy="go on", code="LD998", step=1)
    passed = [replace(ill, code=code, recovered_at=2) for code in ("LD997", "LD999")]
    report = diagnose(history, rules=[])
    write(replace(report, findings=[ill], recovered=passed, overhead=0.01, notes=["a note"]), folder)


def test_a_saved_report_keeps_what_only_the_run_could_tell(tmp_path: Path) -> None:
    saved(tmp_path, 1.0, 1.0, 1.0, 1.0)
    report = judged(tmp_path, unfinished)
    assert [(finding.code, finding.step) for finding in report.findings] == [("LD998", 1)]
    assert (report.overhead, report.notes) == (0.01, ["a note"])


def test_of_what_had_passed_in_a_saved_report_only_the_rules_asked_and_well_now_are_kept(tmp_path: Path) -> None:
    saved(tmp_path, 1.0, 1.0, 1.0, 0.1)
    assert judged(tmp_path, unfinished).recovered == []
    assert [finding.code for finding in judged(tmp_path, unfinished, high).recovered] == ["LD999"]
    saved(tmp_path, 1.0, 1.0, 1.0, 1.0)
    assert judged(tmp_path, unfinished, high).recovered == []
