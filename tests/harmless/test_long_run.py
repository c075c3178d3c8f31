"""A run of hundreds of thousands of steps takes no more than one of thousands, and loses no onset and no peak."""

from __future__ import annotations

import json
import tracemalloc
from itertools import pairwise
from pathlib import Path

import pytest

from lightning_doctor import Doctor
from lightning_doctor.diagnose import diagnose
from lightning_doctor.history import SERIES_CAPACITY, History
from lightning_doctor.report import Report
from lightning_doctor.sinks.report import write
from lightning_doctor.sinks.snapshot_bytes import CAP, encode
from tests.benchmarks.long_run import main, train
from tests.histories import decay, noisy

STEPS = 200_000
SPIKE, ONSET, BROKEN = 60_001, 140_000, 199_001


@pytest.fixture(scope="module")
def lived() -> History:
    """Falls, spikes once, begins to rise at 70 % of the run, and ends in NaN."""
    losses = noisy(decay(2.3, 0.3, 5_000, STEPS), 0.01)
    losses[SPIKE] = 60.0
    for step in range(ONSET, STEPS):
        losses[step] += 10.0 * min(1.0, (step - ONSET) / 10_000)
    losses[BROKEN:] = [float("nan")] * (STEPS - BROKEN)
    history = History()
    for step, loss in enumerate(losses):
        history.record("train_loss", step, loss)
        history.record("grad_norm", step, abs(loss) / 3)
        history.record("grad_non_finite", step, float(step >= BROKEN))
        history.record("learning_rate", step, 0.1)
        if step % 1000 == 999:
            history.record("val_loss", step, loss + 0.1)
    return history


def test_a_history_of_200_000_samples_is_bounded(lived: History, tmp_path: Path) -> None:
    assert {name: len(lived[name]) <= SERIES_CAPACITY for name in lived.names()} == dict.fromkeys(lived.names(), True)
    report = diagnose(lived)
    # Five series of 2,048 points, whose steps have six digits and values at most twenty, and what is said of them.
    assert write(report, tmp_path).stat().st_size < 5 * 2048 * 30 + 60_000
    assert len(encode(report)) <= CAP
    assert Report.from_dict(json.loads(json.dumps(report.to_dict()))).history == lived


def test_thinning_keeps_the_first_point_the_peak_the_onset_and_the_first_nan(lived: History) -> None:
    series = lived["train_loss"]
    assert series.steps[0] == 0
    assert SPIKE in series.steps
    assert series.steps[series.broken_at() or 0] == BROKEN
    assert min(series.finite().values) == min(value for value in series.values if value == value)
    # An onset is as sharp as the points are dense there: never further apart than a hundredth of the run.
    assert max(later - earlier for earlier, later in pairwise(series.steps)) <= STEPS // 100
    assert series.steps[-(SERIES_CAPACITY // 2) :] == list(range(STEPS - SERIES_CAPACITY // 2, STEPS))


def test_what_happened_long_ago_is_still_found_at_its_step(lived: History) -> None:
    found = {finding.name: finding for finding in diagnose(lived).findings}
    assert found["non_finite_loss"].onset == BROKEN
    before = History()
    for step, value in zip(lived["train_loss"].finite().steps, lived["train_loss"].finite().values, strict=True):
        before.record("train_loss", step, value)
    rising = {finding.name: finding for finding in diagnose(before).findings}["diverging_loss"]
    assert rising.onset is not None
    # The rise takes ten thousand steps, a twentieth of the run.
    assert ONSET - STEPS // 50 <= rising.onset <= ONSET + STEPS // 20


def test_memory_and_what_is_written_stay_flat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Full after a thousand steps of this run as after a hundred thousand of a real one.
    monkeypatch.setitem(History.record.__kwdefaults__, "capacity", 64)
    monkeypatch.setattr("lightning_doctor.callbacks.updates._LAYER_CAPACITY", 64)
    monkeypatch.setattr("lightning_doctor.callbacks.updates.SERIES_CAPACITY", 64)
    monkeypatch.setattr("lightning_doctor.callbacks.gradients._LAYER_CAPACITY", 64)
    own = (tracemalloc.Filter(True, "*/lightning_doctor/*"),)

    def held() -> float:
        traces = tracemalloc.take_snapshot().filter_traces(own)
        return sum(trace.size for trace in traces.traces) / 2**20

    doctor = Doctor(every_n_steps=10, strict=True)
    tracemalloc.start()
    try:
        remains = train(tmp_path, 3_000, doctor, measure=held)
    finally:
        tracemalloc.stop()
    memory = [remains.memory[step] for step in sorted(remains.memory)]
    # Of a window that is being filled there is more or less, by some tens of kilobytes.
    assert max(memory[5:]) <= max(memory[2:5]) + 0.1
    assert max(memory) < 10
    assert doctor.report is not None
    assert max(len(doctor.report.history[name]) for name in doctor.report.history.names()) <= 256
    assert len(remains.snapshots) <= 40
    assert max(remains.snapshots) <= CAP
    # A hundred windows of a thousand steps, at most some sixty series of some sixty bytes a point.
    assert max(remains.own[stretch] for stretch in range(5, 10)) / 0.3 < 100 * 60 * 60


def test_the_benchmark_prints_memory_event_bytes_and_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--steps", "60"]) == 0
    output = capsys.readouterr().out
    assert output.startswith("60 steps; plain ")
    assert "snapshots of the report: " in output
    assert "doctor.json: " in output
    assert len(output.splitlines()) == 2 + 10 + 3
