from __future__ import annotations

from dataclasses import replace

import pytest

from lightning_doctor.callbacks.publisher import Publisher
from lightning_doctor.history import History
from lightning_doctor.sinks.snapshot_bytes import unpack
from tests.sinks.reports import diverging, healthy


@pytest.fixture
def publisher(monkeypatch: pytest.MonkeyPatch) -> tuple[Publisher, list[tuple[int, str]]]:
    publisher = Publisher([], None, History())
    written: list[tuple[int, str]] = []
    monkeypatch.setattr(
        publisher.letterbox, "snapshot", lambda data, step: written.append((step, unpack(data)["state"]))
    )
    return publisher, written


def test_a_run_of_which_the_same_is_said_is_drawn_anew_when_it_is_a_quarter_longer(
    publisher: tuple[Publisher, list[tuple[int, str]]],
):
    to, written = publisher
    for step in range(100, 300):
        to.report(replace(healthy(), step=step))
    assert written == [(step, "well") for step in (100, 125, 157, 197, 247)]


def test_a_million_steps_are_drawn_some_fifty_times(publisher: tuple[Publisher, list[tuple[int, str]]]):
    to, written = publisher
    for step in range(50, 1_000_000, 50):
        # Only the step is looked at between two that are written.
        if step < 1.25 * to._shown:
            continue
        to.report(replace(healthy(), step=step))
    # log(1e6 / 50) / log(1.25) = 44, and what rounding up to windows of 50 takes off at the start.
    assert 30 <= len(written) <= 45


def test_another_verdict_is_drawn_at_once_and_so_is_the_end(publisher: tuple[Publisher, list[tuple[int, str]]]):
    to, written = publisher
    to.report(replace(healthy(), step=600))
    to.report(replace(diverging(), step=601))
    to.report(replace(diverging(), step=602))
    to.save(replace(diverging(), step=603))
    assert written == [(600, "well"), (601, "ill"), (603, "ill")]
