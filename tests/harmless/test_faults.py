"""Something fails at every boundary, once each: the run ends as without the doctor, with exactly one note."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor

from lightning_doctor import CurvatureProbe, Doctor
from lightning_doctor.callbacks.doctor import MONITORS
from lightning_doctor.callbacks.monitor import Monitor
from lightning_doctor.callbacks.pace import Pace
from lightning_doctor.callbacks.scoring_plan import ScoringPlan
from lightning_doctor.rules import all_rules
from tests.harmless.ingredients import Cell, Net
from tests.harmless.trained import difference, score_all, train

AUTOMATIC = Cell("SGD", "dropout", "32-true", "several validation loaders")
MANUAL = Cell("SGD", "dropout", "32-true", "manual, two optimizers")
HOOKS = (
    "begin",
    "before_batch",
    "layer_ran",
    "examine_loss",
    "before_backward",
    "after_backward",
    "before_step",
    "after_batch",
    "rested",
    "resting",
    "glance",
    "awaits",
    "wishes",
    "heed",
    "probe",
    "before_close",
    "before_validation_batch",
    "validation_batch",
    "after_validation",
    "end",
)
PAIRS = [(kind, hook) for kind in MONITORS for hook in HOOKS if hook in vars(kind)]


class Fails:
    """Raises whenever it is called, and counts how often it was."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.calls = 0

    def __call__(self, *_: Any, **__: Any) -> Any:
        self.calls += 1
        raise self.error


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Cell], dict[str, Any]]:
    """What is left of a run without the doctor; each is trained once."""
    known: dict[Cell, dict[str, Any]] = {}

    def remains(cell: Cell) -> dict[str, Any]:
        if cell not in known:
            known[cell] = train(tmp_path_factory.mktemp("plain"), cell)
        return known[cell]

    return remains


def watched(folder: Path, cell: Cell = AUTOMATIC, **options: Any) -> tuple[Doctor, dict[str, Any]]:
    doctor = Doctor(overhead=1.0, every_n_steps=2)
    return doctor, train(folder, cell, doctor, CurvatureProbe(samples=8, every_n_steps=2), **options)


def test_every_hook_of_every_monitor_is_in_the_list() -> None:
    measuring = {name for name, value in vars(Monitor).items() if callable(value) and not name.startswith(("_", "on_"))}
    assert measuring - {"setup", "teardown", "prepare"} == set(HOOKS)
    assert len(PAIRS) > 50


@pytest.mark.parametrize(("kind", "hook"), PAIRS, ids=lambda value: getattr(value, "__name__", value))
def test_a_monitor_that_fails_costs_one_note(
    kind: type[Monitor],
    hook: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    plain: Callable[[Cell], dict[str, Any]],
    capfd: pytest.CaptureFixture[str],
) -> None:
    fails = Fails(ZeroDivisionError("division by zero"))
    monkeypatch.setattr(kind, hook, fails)
    if hook in ("awaits", "resting"):
        # A run of so few steps has time to measure them all.
        monkeypatch.setattr(Pace, "quiet", lambda _: 3)
    cell = MANUAL if hook in ("before_backward", "after_backward") else AUTOMATIC
    doctor, remains = watched(tmp_path, cell)
    assert fails.calls == 1
    assert difference(remains, plain(cell)) is None
    assert capfd.readouterr().err.count(f"lightning-doctor · {kind.__name__} failed and is switched off") == 1
    if hook != "end":
        # The report is written before the monitors let go.
        assert [note.partition(":")[0] for note in doctor.report.notes] == [
            f"{kind.__name__} failed and is switched off, the run goes on"
        ]
        assert "Traceback" in doctor.report.notes[0]


def test_where_every_rule_fails_each_costs_one_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: Callable[[Cell], dict[str, Any]]
) -> None:
    for rule in all_rules():
        monkeypatch.setitem(rule.__dict__, "check", Fails(ZeroDivisionError("division by zero")))
    doctor, remains = watched(tmp_path)
    assert difference(remains, plain(AUTOMATIC)) is None
    asked = [code for code, reason in doctor.report.unassessed.items() if "the rule failed" in reason]
    assert len(asked) > 10
    assert sorted(note.split()[0] for note in doctor.report.notes) == sorted(asked)
    assert doctor.report.findings == []


SINKS = {
    "lightning_doctor.callbacks.reporting.log_folder": "finding the log directory",
    "lightning_doctor.callbacks.publisher.Publisher.__init__": "opening the loggers",
    "lightning_doctor.callbacks.publisher.Publisher.scalars": "logging scalars",
    "lightning_doctor.callbacks.publisher.Publisher.curvature": "showing the curvature",
    "lightning_doctor.callbacks.publisher.letter": "writing the report",
    "lightning_doctor.callbacks.publisher.draw": "showing the curvature",
    "lightning_doctor.callbacks.publisher.json_file.write": "writing the report",
    "lightning_doctor.sinks.tensorboard._show_text": "TensorBoardLogger, writing the report,",
    "lightning_doctor.sinks.tensorboard._show": "TensorBoardLogger, writing pictures,",
    "lightning_doctor.sinks.tensorboard.Letterbox._arrange": "TensorBoardLogger, writing the layout of the charts,",
    "lightning_doctor.callbacks.facts.describe": "describing the run",
    "lightning_doctor.callbacks.examination.Examination.start": "examining a forward pass",
}


@pytest.mark.parametrize("place", SINKS)
def test_a_sink_that_finds_the_disk_full_costs_one_note(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: Callable[[Cell], dict[str, Any]]
) -> None:
    fails = Fails(OSError(errno.ENOSPC, "No space left on device"))
    monkeypatch.setattr(place, fails)
    doctor, remains = watched(tmp_path, logger=TensorBoardLogger(tmp_path))
    assert fails.calls == 1
    assert difference(remains, plain(AUTOMATIC)) is None
    assert len(doctor.report.notes) == 1
    assert doctor.report.notes[0].startswith(f"{SINKS[place]} failed and is switched off")
    assert "No space left on device" in doctor.report.notes[0]
    assert len(doctor.report.history["train_loss"]) == 12


class Removes(CSVLogger):
    """A logger whose directory somebody removes in the middle of the run."""

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        if step is not None and step >= 5:
            shutil.rmtree(self.log_dir, ignore_errors=True)

    def save(self) -> None:
        """Its own file is gone."""


def test_a_log_directory_that_is_removed_mid_run_is_made_anew(
    tmp_path: Path, plain: Callable[[Cell], dict[str, Any]]
) -> None:
    logger = Removes(tmp_path)
    doctor, remains = watched(tmp_path, logger=logger)
    assert difference(remains, plain(AUTOMATIC)) is None
    assert doctor.report.notes == []
    assert (Path(logger.log_dir) / "doctor.json").exists()


def test_a_log_directory_that_becomes_a_file_mid_run_costs_one_note(
    tmp_path: Path, plain: Callable[[Cell], dict[str, Any]]
) -> None:
    class Blocks(Removes):
        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            super().log_metrics(metrics, step)
            if step is not None and step >= 5:
                Path(self.log_dir).touch()

    doctor, remains = watched(tmp_path, logger=Blocks(tmp_path))
    assert difference(remains, plain(AUTOMATIC)) is None
    assert [note.partition(":")[0] for note in doctor.report.notes] == [
        "writing the report failed and is switched off, the run goes on"
    ]


@pytest.fixture
def single_use(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A training step that does not bear being run apart from the run, as one with a socket or a file would."""
    refused: list[int] = []
    original = Net.training_step

    def step(self: Net, batch: Any, batch_idx: int) -> Tensor:
        if type(self.trainer).__name__ != "Trainer":
            refused.append(batch_idx)
            raise ConnectionError("this batch has been sent already")
        return original(self, batch, batch_idx)

    monkeypatch.setattr(Net, "training_step", step)
    return refused


def test_a_training_step_that_raises_on_replay_leaves_reasons_and_no_note(
    tmp_path: Path, single_use: list[int], monkeypatch: pytest.MonkeyPatch, plain: Callable[[Cell], dict[str, Any]]
) -> None:
    monkeypatch.setattr(ScoringPlan, "due", score_all)
    doctor, remains = watched(tmp_path)
    assert len(single_use) >= 4
    assert difference(remains, plain(AUTOMATIC)) is None
    absent = doctor.report.history.absent
    reason = "a rehearsed training step failed (ConnectionError: this batch has been sent already)"
    assert [absent[name] for name in ("scan/1", "leak", "curvature")] == [reason] * 3
    assert absent["eval_loss/train"] == f"{reason}, and the validation step returned no loss"
    assert doctor.report.notes == []


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no memory left"), MemoryError()])
@pytest.mark.parametrize(
    ("place", "missing"),
    [
        ("lightning_doctor.measure.landscape.Hessian", "curvature"),
        ("lightning_doctor.callbacks.rehearsal._copied", "scan/1"),
    ],
)
def test_a_probe_that_finds_no_memory_says_so(
    place: str,
    missing: str,
    error: Exception,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    plain: Callable[[Cell], dict[str, Any]],
) -> None:
    fails = Fails(error)
    monkeypatch.setattr(place, fails)
    doctor, remains = watched(tmp_path)
    assert fails.calls >= 1
    assert difference(remains, plain(AUTOMATIC)) is None
    assert type(error).__name__ in doctor.report.history.absent[missing]
    assert len(doctor.report.notes) <= 1
