from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from lightning_doctor import Doctor
from tests.runs import DigitsNet, digits, fit, trainer, validation_digits


def resume(folder: Path, checkpoint: Path, *callbacks: Any, epochs: int = 4) -> Any:
    run = trainer(folder, *callbacks, max_epochs=epochs)
    run.fit(DigitsNet(), digits(), validation_digits(), ckpt_path=str(checkpoint))
    return run


def saved(folder: Path, *callbacks: Any, lr: float = 0.1, **options: Any) -> Path:
    run = fit(folder, DigitsNet(lr), *callbacks, **options)
    run.save_checkpoint(folder / "last.ckpt")
    return folder / "last.ckpt"


def test_a_resumed_run_goes_on_with_its_history(tmp_path: Path) -> None:
    first, second = Doctor(strict=True), Doctor(strict=True)
    checkpoint = saved(tmp_path, first)
    resume(tmp_path, checkpoint, second)
    history = second.report.history
    assert history["train_loss"].steps == list(range(40))
    assert history["train_loss"].values[:20] == first.report.history["train_loss"].values
    assert len(history["val_loss"]) == 4
    assert history.fact("run.ended") == "completed"


def test_a_resumed_run_goes_on_with_its_findings_and_announces_none_again(tmp_path: Path) -> None:
    announced: list[str] = []
    first = Doctor(strict=True)
    second = Doctor(strict=True, on_finding=lambda finding: announced.append(finding.code))
    checkpoint = saved(tmp_path, first, lr=50.0, max_epochs=10)
    before = {finding.code: finding.step for finding in first.report.findings}
    assert before
    run = trainer(tmp_path, second, max_epochs=11)
    run.fit(DigitsNet(50.0), digits(), validation_digits(), ckpt_path=str(checkpoint))
    after = {finding.code: finding.step for finding in [*second.report.findings, *second.report.recovered]}
    assert before.items() <= after.items()
    assert not set(announced) & set(before)


def test_the_state_is_plain_builtins_that_load_weights_only(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, Doctor(strict=True))
    state = torch.load(checkpoint, weights_only=True)["lightning_doctor"]
    assert len(state["history"]["series"]["train_loss"]["values"]) == 20

    def plain(node: Any) -> bool:
        if isinstance(node, dict):
            return all(type(key) is str and plain(value) for key, value in node.items())
        if isinstance(node, list):
            return all(map(plain, node))
        return node is None or type(node) in (int, float, bool, str)

    assert plain(state)


def test_a_checkpoint_taken_mid_window_holds_every_step(tmp_path: Path) -> None:
    class Saves(DigitsNet):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            if self.global_step == 13:
                self.trainer.save_checkpoint(tmp_path / "mid.ckpt")

    fit(tmp_path, Saves(), Doctor(strict=True), max_epochs=2)
    state = torch.load(tmp_path / "mid.ckpt", weights_only=True)["lightning_doctor"]
    assert state["history"]["series"]["train_loss"]["steps"] == list(range(13))
    assert state["history"]["series"]["grad_norm"]["steps"] == list(range(13))


def test_a_checkpoint_without_the_doctors_state_loads(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path)
    doctor = Doctor(strict=True)
    resume(tmp_path, checkpoint, doctor)
    assert doctor.report.history["train_loss"].steps == list(range(20, 40))


def test_a_checkpoint_with_the_doctors_state_loads_without_a_doctor(tmp_path: Path) -> None:
    assert resume(tmp_path, saved(tmp_path, Doctor(strict=True))).global_step == 40


def test_a_state_that_cannot_be_read_costs_a_note(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, Doctor(strict=True))
    content = torch.load(checkpoint, weights_only=True)
    content["lightning_doctor"] = {"history": {"series": {"train_loss": 3}}}
    torch.save(content, checkpoint)
    doctor = Doctor()
    resume(tmp_path, checkpoint, doctor)
    assert "cannot be read" in doctor.report.notes[0]
    assert doctor.report.history["train_loss"].steps == list(range(20, 40))


def test_a_resumed_run_does_not_log_what_was_logged_before(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, Doctor(strict=True))
    logger = CSVLogger(tmp_path / "csv")
    doctor = Doctor(strict=True)
    run = trainer(tmp_path, doctor, max_epochs=4, logger=logger)
    run.fit(DigitsNet(), digits(), validation_digits(), ckpt_path=str(checkpoint))
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        first = next(row for row in csv.DictReader(file) if row.get("doctor/train_loss"))
    # The first window of the resumed run is its first step, the twenty-first of all.
    assert int(first["step"]) == 20
    assert float(first["doctor/train_loss"]) == pytest.approx(doctor.report.history["train_loss"].values[20])
