from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import seed_everything
from torch.utils.data import DataLoader, Dataset

from lightning_doctor import Doctor
from lightning_doctor.history import History
from lightning_doctor.rules.data_starved import data_starved
from tests.histories import history_of, reading
from tests.runs import IMAGES, LABELS, DigitsNet, trainer


def run_of(
    shares: list[float],
    seconds: float = 0.1,
    *,
    size: float = 32.0,
    planned: int | None = 1000,
    workers: int | None = 0,
    accumulated: int = 1,
) -> History:
    plan = {"accumulate_grad_batches": accumulated, **({} if planned is None else {"planned_steps": planned})}
    history = history_of([1.0] * 200, trainer=plan, data={} if workers is None else {"workers": workers})
    reading(history, "data_wait", shares)
    reading(history, "data_wait_seconds", [seconds] * len(shares))
    return reading(history, "batch_size", [size] * 20)


def test_sick_run_waits_most_of_its_time_and_is_told_what_that_costs() -> None:
    finding = data_starved(run_of([0.9] * 20))
    assert finding is not None
    assert (finding.code, finding.severity) == ("LD606", "warning")
    assert finding.summary == "90% of the time goes by in waiting for data, 0.1 s a batch"
    # A tenth of a second for each of a thousand steps.
    assert finding.evidence["seconds_in_all"] == pytest.approx(100)
    assert "up to 10 worker processes" in finding.remedy
    assert "100 s" in finding.remedy


@pytest.mark.parametrize(
    ("seconds", "size"),
    [
        # What Lightning's loop takes between two steps of a tiny network; what stacking a large batch takes.
        (0.002, 8.0),
        (0.02, 2048.0),
    ],
)
def test_healthy_tiny_network_takes_no_longer_than_its_loader(seconds: float, size: float) -> None:
    assert data_starved(run_of([0.8] * 20, seconds, size=size)) is None


def test_healthy_run_that_had_to_wait_at_first_is_well() -> None:
    assert data_starved(run_of([0.95] * 4 + [0.05] * 30)) is None


def test_healthy_run_on_a_busy_machine_waits_now_and_then() -> None:
    assert data_starved(run_of([0.3, 0.9, 0.7, 0.4, 0.8] * 4)) is None


@pytest.mark.parametrize(("share", "ill"), [(0.45, False), (0.55, True)])
def test_most_of_the_time_must_go_by(share: float, ill: bool) -> None:
    assert (data_starved(run_of([share] * 20)) is not None) is ill


@pytest.mark.parametrize(("seconds", "ill"), [(0.0045, False), (0.0055, True)])
def test_a_wait_must_be_longer_than_what_goes_by_between_any_two_batches(seconds: float, ill: bool) -> None:
    assert (data_starved(run_of([0.9] * 20, seconds, size=1.0)) is not None) is ill


@pytest.mark.parametrize(("size", "ill"), [(90.0, True), (110.0, False)])
def test_a_wait_must_be_longer_than_to_stack_that_many_rows(size: float, ill: bool) -> None:
    # A hundredth of a second: a ten-thousandth for each of a hundred rows.
    assert (data_starved(run_of([0.9] * 20, 0.01, size=size)) is not None) is ill


@pytest.mark.parametrize(("planned", "ill"), [(90, False), (110, True), (None, True)])
def test_the_time_lost_must_matter(planned: int | None, ill: bool) -> None:
    # A hundredth of a second each; without a plan the 200 steps so far count.
    assert (data_starved(run_of([0.9] * 20, 0.01, planned=planned)) is not None) is ill


def test_every_micro_batch_is_waited_for() -> None:
    finding = data_starved(run_of([0.9] * 20, 0.01, accumulated=4))
    assert finding is not None
    assert finding.evidence["seconds_in_all"] == pytest.approx(40)


@pytest.mark.parametrize(("workers", "advice"), [(2, "raise num_workers from 2"), (None, "use more worker processes")])
def test_the_remedy_fits_the_loader(workers: int | None, advice: str) -> None:
    finding = data_starved(run_of([0.9] * 20, workers=workers))
    assert finding is not None
    assert advice in finding.remedy


class Slow(Dataset[Any]):
    """Takes a while for every row."""

    def __len__(self) -> int:
        return 800

    def __getitem__(self, index: int) -> Any:
        time.sleep(0.002)
        return IMAGES[index], LABELS[index]


def test_on_a_real_run_a_slow_data_set_is_found(tmp_path: Path) -> None:
    doctor = Doctor(strict=True)
    seed_everything(0, verbose=False)
    trainer(tmp_path, doctor, max_epochs=1).fit(DigitsNet(), DataLoader(Slow(), 16))
    assert doctor.report is not None
    assert "LD606" in {finding.code for finding in doctor.report.findings}
