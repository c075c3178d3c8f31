from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lightning_doctor import Doctor
from lightning_doctor.budget import Budget
from lightning_doctor.callbacks import case as case_module
from lightning_doctor.callbacks.device_time import DeviceTime, device_time
from lightning_doctor.callbacks.ledger import Ledger
from tests.runs import DigitsNet, fit


class Stream:
    """A device that works through marks at times of its own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.reached = 0.0

    def event(self) -> Mark:
        return Mark(self)


class Mark:
    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._at = 0.0

    def record(self) -> None:
        self._at = self._stream.now

    def query(self) -> bool:
        return self._stream.reached >= self._at

    def elapsed_time(self, end_event: Mark) -> float:
        return (end_event._at - self._at) * 1e3


def test_what_the_device_takes_beyond_the_host_is_booked_once_it_is_done() -> None:
    stream, budget, ledger = Stream(), Budget(0.02), Ledger()
    timer = DeviceTime(stream.event)
    began = timer.begin()
    stream.now = 0.5
    timer.end(began, 0.2, ledger)
    timer.settle(budget)
    assert budget.spent == 0.0
    stream.reached = 0.5
    timer.settle(budget)
    timer.settle(budget)
    assert budget.spent == pytest.approx(0.3)
    assert ledger.total == pytest.approx(0.3)


def test_a_device_that_waits_for_the_host_costs_nothing_more() -> None:
    stream, budget = Stream(), Budget(0.02)
    timer = DeviceTime(stream.event)
    began = timer.begin()
    stream.now = stream.reached = 0.1
    timer.end(began, 0.2, None)
    timer.settle(budget)
    assert budget.spent == 0.0


def test_a_host_that_computes_itself_needs_no_marks() -> None:
    assert device_time(torch.device("cpu")) is None


def test_a_run_on_a_device_of_its_own_books_what_that_device_took(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stream = Stream()

    def event() -> Mark:
        # Between any two marks the device is busy for ten milliseconds.
        stream.now += 0.01
        stream.reached = stream.now
        return stream.event()

    monkeypatch.setattr(case_module, "device_time", lambda _: DeviceTime(event))
    doctor = Doctor(strict=True)
    fit(tmp_path, DigitsNet(), doctor, max_steps=8)
    assert doctor.report is not None
    # At least the three hooks of each of eight steps that monitors listen to, less what the host took.
    assert doctor.report.seconds >= 0.1
