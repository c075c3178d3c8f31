"""Whatever numbers a run has shown, at whatever steps: it is judged, written by every sink, and read back."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from lightning_doctor.callbacks.publisher import Publisher
from lightning_doctor.compare import compare
from lightning_doctor.compared_run import summarized
from lightning_doctor.diagnose import diagnose
from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.jsonable import MalformedError
from lightning_doctor.judge import judge
from lightning_doctor.logs.runs import find_runs
from lightning_doctor.report import Report
from lightning_doctor.rules import all_rules
from lightning_doctor.sinks import comparison as comparisons
from lightning_doctor.sinks import terminal
from lightning_doctor.sinks.html import html
from lightning_doctor.sinks.letter import letter
from lightning_doctor.sinks.report import read, write
from lightning_doctor.sinks.snapshot_bytes import encode, unpack
from lightning_doctor.tensorboard_plugin.page import page
from tests.rules.test_contract import FACTS, SIGNALS

NAN, INF = float("nan"), float("inf")
_BAD = [0.0, -0.0, NAN, INF, -INF, 5e-324, -5e-324, 2.2e-308, 1e308, -1e308, 1.7e308, 3.5e38, 1e-46, 1e16]
numbers = st.one_of(st.floats(), st.floats(-10, 10), st.sampled_from(_BAD))
# As long as a pattern is short, hypothesis can shrink it; a rule asks for dozens of values.
sequences = st.tuples(st.lists(numbers, max_size=10), st.sampled_from([1, 4, 30])).map(
    lambda drawn: drawn[0] * drawn[1]
)
steps_of_any_kind = st.one_of(
    st.sampled_from([1, 7, 1000, 10**12]).map(lambda gap: lambda i: i * gap),
    st.lists(st.integers(-5, 2**53), min_size=1, max_size=5).map(lambda drawn: lambda i: drawn[i % len(drawn)]),
    st.integers(-3, 3).map(lambda gap: lambda i: 10 - gap * i),
)
any_signals = st.lists(st.sampled_from(SIGNALS), min_size=1, max_size=25, unique=True)


def twisted(facts: Any, draw: st.DrawFn) -> Any:
    """The facts with some of their numbers replaced by any others, as other networks and data would have them."""
    if isinstance(facts, dict):
        return {key: twisted(value, draw) for key, value in facts.items()}
    if isinstance(facts, list):
        return [twisted(value, draw) for value in facts]
    if isinstance(facts, float) and draw(st.booleans()):
        return draw(numbers)
    return facts


@st.composite
def histories(draw: st.DrawFn) -> History:
    history = History()
    known = draw(st.sets(st.sampled_from(sorted(FACTS))))
    history.facts = {key: deepcopy(FACTS[key]) for key in sorted(known)}
    if draw(st.booleans()):
        key = draw(st.sampled_from(sorted(FACTS)))
        history.facts[key] = twisted(FACTS[key], draw)
    # What most rules ask for is there in every other history.
    always = ["train_loss", "val_loss", "learning_rate", "grad_norm"] if draw(st.booleans()) else []
    for name in dict.fromkeys([*always, *draw(any_signals)]):
        at = draw(steps_of_any_kind)
        for index, value in enumerate(draw(sequences)):
            history.record(name, at(index), value)
    if draw(st.booleans()):
        history.happened("non_finite_gradient", draw(st.integers(0, 99)), layers=["encoder"], loss=draw(numbers))
    return history


def assert_same(one: Report, other: Report) -> None:
    # As text: NaN does not equal itself, and 0.0 equals -0.0.
    assert repr(one.to_dict()) == repr(other.to_dict())


@settings(max_examples=120, deadline=None, derandomize=True)
@given(histories())
def test_any_history_is_judged_and_its_report_loads_back_equal(history: History) -> None:
    report = diagnose(history)
    text = json.dumps(report.to_dict(), allow_nan=False)
    again = Report.from_dict(json.loads(text))
    assert_same(again, report)
    assert again.history == history
    assert History.from_dict(json.loads(json.dumps(history.to_dict(), allow_nan=False))) == history
    # Judged again from what was saved, it is judged alike.
    assert_same(diagnose(again.history), report)


@pytest.fixture(scope="module")
def publisher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Publisher]:
    """What a run writes through: TensorBoard's own writer and ``doctor.json``."""
    folder = tmp_path_factory.mktemp("logs")
    logger = TensorBoardLogger(folder)
    yield Publisher([logger], folder, History())
    logger.finalize("success")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(histories(), histories())
def test_no_sink_raises_whatever_it_is_given(publisher: Publisher, history: History, other: History) -> None:
    report, beside = diagnose(history), diagnose(other)
    new = Publisher(publisher.letterbox._loggers, publisher.folder, History())
    new.scalars(history, history.last_step)
    new.curvature(history)
    new.report(report)
    assert [str(failure) for failure in new.letterbox.failures()] == []
    assert new.folder is not None
    assert_same(read(new.folder), report)
    assert json.loads(json.dumps(unpack(encode(report)), allow_nan=False))["step"] == report.step
    assert letter(report).startswith("# Report")
    assert html(report).endswith("</div>")
    assert page({"one": report, "other": beside}, "title").endswith("</html>\n")
    assert all("\n" not in terminal.announce(finding) for finding in report.findings)
    for interactive in (False, True):
        terminal.summarize(report, Console(file=io.StringIO(), force_terminal=interactive), new.folder)
    runs = compare([summarized(each, Path(), name) for each, name in ((report, "one"), (beside, "other"))])
    json.dumps(runs.to_dict(), allow_nan=False)
    comparisons.show(runs, Console(file=io.StringIO()))
    assert "| run |" in comparisons.markdown(runs)
    comparisons.chart(runs)


texts = st.text(max_size=20) | st.sampled_from(
    ["NaN", "Infinity", "\udc80", "[bold]", "</script>", "a|b", "\x1b[31m", ""]
)
findings = st.builds(
    Finding,
    severity=st.sampled_from(Severity),
    confidence=st.sampled_from(Confidence),
    summary=texts,
    remedy=texts,
    evidence=st.dictionaries(texts, numbers | st.integers() | texts.filter(lambda t: t not in ("NaN", "Infinity"))),
    onset=st.none() | st.integers(),
    signals=st.lists(st.sampled_from(SIGNALS) | texts, max_size=4).map(tuple),
    code=st.sampled_from([rule.code for rule in all_rules()]) | texts,
    name=st.sampled_from([rule.name for rule in all_rules()]) | texts,
    step=st.integers(),
    last_step=st.integers(),
    explained_by=st.none() | st.sampled_from([rule.code for rule in all_rules()]),
    recovered_at=st.none() | st.integers(),
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.lists(findings, max_size=6),
    st.lists(findings, max_size=2),
    st.lists(texts, max_size=2),
    st.dictionaries(texts, texts, max_size=3),
    st.none() | numbers,
)
def test_any_finding_is_shown_and_loads_back_equal(
    ill: list[Finding], passed: list[Finding], notes: list[str], unassessed: dict[str, str], overhead: float | None
) -> None:
    report = Report(
        findings=ill, recovered=passed, notes=notes, healthy=notes, unassessed=unassessed, overhead=overhead,
        seconds=overhead,
    )  # fmt: skip
    with TemporaryDirectory() as folder:
        assert_same(read(write(report, folder)), report)
    unpack(encode(report))
    letter(report), html(report), page({"one": report}, "title")
    terminal.summarize(report, Console(file=io.StringIO()))
    summarized(report, Path(), "one")


tags = st.sampled_from(["train_loss", "val_loss", "loss", "lr", "grad_norm", "val_acc", "loss_epoch", "odd"]) | texts
logs = st.dictionaries(tags, st.lists(st.tuples(st.integers(-5, 2**53), numbers), max_size=60), min_size=1, max_size=5)


def judged(folder: Path) -> Report | None:
    """What `diagnose` says of a folder; None where it refuses it, with a reason."""
    try:
        (run,) = find_runs(folder)
        report = judge(run, {}, all_rules(), {})
    except MalformedError as error:
        assert str(error).strip()  # noqa: PT017
        return None
    assert [note for note in report.notes if " failed: " in note] == []
    assert_same(Report.from_dict(json.loads(json.dumps(report.to_dict(), allow_nan=False))), report)
    return report


def write_events(path: Path, log: dict[str, list[tuple[int, float]]]) -> None:
    with path.open("wb") as file:
        records = RecordWriter(file)
        for tag, points in log.items():
            for step, value in points:
                # As UTF-8, which half a surrogate pair has not.
                summary = Summary(
                    value=[Summary.Value(tag=tag.encode("utf-8", "replace").decode(), simple_value=value)]
                )
                records.write(Event(step=step, summary=summary).SerializeToString())


def write_table(path: Path, log: dict[str, list[tuple[int, float]]]) -> None:
    with path.open("w", encoding="utf-8", errors="replace", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["step", *log])
        for index, points in enumerate(log.values()):
            for step, value in points:
                rows.writerow([step, *("" for _ in range(index)), value, *("" for _ in range(len(log) - index - 1))])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(logs)
def test_any_log_is_judged_or_refused_with_a_reason(log: dict[str, list[tuple[int, float]]]) -> None:
    for name, writer in (("events.out.tfevents.1", write_events), ("metrics.csv", write_table)):
        with TemporaryDirectory() as folder:
            writer(Path(folder) / name, log)
            report = judged(Path(folder))
        # The last tag's points that no step back has replaced.
        if report is None:
            continue
        assert report.history.facts["log"]["tags"]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(histories())
def test_any_saved_report_is_judged_again(history: History) -> None:
    report = diagnose(history)
    with TemporaryDirectory() as folder:
        write(report, folder)
        again = judged(Path(folder))
    assert again is not None
    assert repr(again.findings) == repr(report.findings)
    assert again.unassessed == report.unassessed


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.sampled_from(["doctor.json", "events.out.tfevents.1", "metrics.csv"]),
    st.lists(
        st.tuples(st.floats(0, 1), st.sampled_from(["cut", "byte", "insert", "repeat"]), st.binary(max_size=8)),
        max_size=4,
    ),
)
def test_a_damaged_file_is_judged_or_refused_with_a_reason(name: str, damage: list[tuple[float, str, bytes]]) -> None:
    content = _WHOLE[name]
    for where, how, what in damage:
        at = int(where * len(content))
        end = len(content) if how == "cut" else at if how == "insert" else at + len(what)
        content = content[:at] + (content[:at] if how == "repeat" else what) + content[end:]
    with TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(content)
        report = judged(Path(folder))
    if not damage:
        assert report is not None


def _whole() -> dict[str, bytes]:
    """A small file of each kind."""
    log = {"train_loss": [(step, 1 / (1 + step)) for step in range(20)], "val_loss": [(9, 0.5), (19, 0.4)]}
    history = History()
    for name, points in log.items():
        for step, value in points:
            history.record(name, step, value)
    with TemporaryDirectory() as folder:
        top = Path(folder)
        write(replace(diagnose(history), notes=["a note"]), top)
        write_events(top / "events.out.tfevents.1", log)
        write_table(top / "metrics.csv", log)
        return {path.name: path.read_bytes() for path in top.iterdir()}


_WHOLE = _whole()
