from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_doctor import Doctor, Finding, GradientMonitor, LossMonitor, Report
from tests.runs import DigitsNet, digits, fit, trainer, validation_digits

SICK = 50.0  # A hundred times the rate at which this network learns.


def test_a_run_whose_rate_is_100_times_too_high_is_diagnosed_while_it_trains(tmp_path: Path) -> None:
    announced: list[tuple[Finding, int]] = []
    run: Any = None
    doctor = Doctor(strict=True, on_finding=lambda finding: announced.append((finding, run.global_step)))
    run = trainer(tmp_path, doctor, max_epochs=20)
    run.fit(DigitsNet(SICK), digits(), validation_digits())
    ill = [(finding, step) for finding, step in announced if finding.severity != "note"]
    assert ill
    assert min(step for _, step in ill) <= 100
    assert doctor.report.worst in ("warning", "error")
    cause, *symptoms = doctor.report.findings
    assert cause.code == "LD103"
    assert cause.step <= 100
    assert [finding.explained_by for finding in symptoms if finding.code == "LD102"] == ["LD103"]


def test_the_cured_run_is_silent(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    announced: list[Finding] = []
    doctor = Doctor(strict=True, on_finding=announced.append)
    fit(tmp_path, DigitsNet(SICK / 100), doctor, max_epochs=20)
    assert [finding for finding in doctor.report.findings if finding.severity != "note"] == []
    assert [finding for finding in announced if finding.severity != "note"] == []
    assert "step " not in "".join(line for line in capfd.readouterr().err.splitlines() if "·" in line and "LD" in line)


def test_the_same_holds_in_a_fresh_process(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from lightning_doctor import Doctor
        from tests.runs import DigitsNet, fit
        doctor = Doctor(strict=True)
        fit(Path(sys.argv[1]), DigitsNet(float(sys.argv[2])), doctor, max_epochs=20, enable_progress_bar=True)
        print("worst:", doctor.report.worst)
        """
    )

    def run(lr: float) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", script, str(tmp_path), str(lr)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)

    sick, cured = run(SICK), run(SICK / 100)
    assert "worst: error" in sick.stdout
    assert "ERROR LD10" in sick.stderr
    assert "ERROR" not in cured.stderr
    assert "WARNING LD" not in cured.stderr


def test_the_report_is_saved_beside_the_event_file_and_reads_back_equal(tmp_path: Path) -> None:
    doctor = Doctor(strict=True)
    logger = TensorBoardLogger(tmp_path)
    fit(tmp_path, DigitsNet(SICK), doctor, logger=logger)
    saved = json.loads((Path(logger.log_dir) / "doctor.json").read_text(), parse_constant=pytest.fail)
    assert list(Path(logger.log_dir).glob("events.out.tfevents.*"))
    assert saved["schema"] == 1
    assert saved == json.loads(json.dumps(doctor.report.to_dict()))
    assert Report.from_dict(saved).findings == doctor.report.findings


def test_tensorboard_gets_scalars_on_the_users_axis_a_letter_and_a_layout(tmp_path: Path) -> None:
    doctor = Doctor(strict=True)
    logger = TensorBoardLogger(tmp_path)
    fit(tmp_path, DigitsNet(SICK), doctor, logger=logger, log_every_n_steps=1, max_epochs=10)
    events = EventAccumulator(logger.log_dir, size_guidance={"scalars": 0, "tensors": 0}).Reload()
    tags = events.Tags()
    assert {"doctor/train_loss", "doctor/grad_norm", "doctor/learning_rate", "doctor/val_loss"} <= set(tags["scalars"])
    assert "doctor/report/text_summary" in tags["tensors"]
    assert "custom_scalars__config__" in tags["tensors"]
    mine = [event.step for event in events.Scalars("doctor/val_loss")]
    assert mine == [event.step for event in events.Scalars("val_loss")]
    letters = [event.tensor_proto.string_val[0].decode() for event in events.Tensors("doctor/report/text_summary")]
    assert doctor.report.findings[0].code in letters[-1]
    assert len(letters) == len(set(letters))
    # Ten validation passes, seven windows and the end: it is rewritten when it says something else, not each time.
    assert len(letters) < 18


def test_every_logger_gets_the_scalars(tmp_path: Path) -> None:
    doctor = Doctor(strict=True)
    csv = CSVLogger(tmp_path / "csv")
    fit(tmp_path, DigitsNet(), doctor, logger=[TensorBoardLogger(tmp_path / "tb"), csv], log_every_n_steps=1)
    header = (Path(csv.log_dir) / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"doctor/train_loss", "doctor/grad_norm", "train_loss", "val_loss"} <= set(header)


def test_stop_on_ends_a_lost_run_early(tmp_path: Path) -> None:
    doctor = Doctor(strict=True, stop_on="error")
    run = fit(tmp_path, DigitsNet(SICK), doctor, max_epochs=50)
    assert run.should_stop
    assert run.current_epoch < 25
    assert doctor.report.history.fact("run.ended") == "stopped"


def test_without_stop_on_a_lost_run_goes_on(tmp_path: Path) -> None:
    run = fit(tmp_path, DigitsNet(SICK), Doctor(strict=True), max_epochs=10)
    assert run.global_step == 100


def test_select_and_ignore_choose_the_rules(tmp_path: Path) -> None:
    doctor = Doctor(strict=True, select=["LD1"], ignore=["diverging_loss"])
    fit(tmp_path, DigitsNet(SICK), doctor)
    judged = {*doctor.report.healthy, *doctor.report.unassessed, *(f.code for f in doctor.report.findings)}
    assert {code[:3] for code in judged} == {"LD1"}
    assert "LD102" not in judged


def test_thresholds_reach_the_rule(tmp_path: Path) -> None:
    class Stale(DigitsNet):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.6, 0.8, 0.9][self.current_epoch])

    usual = Doctor(strict=True, select=["LD504"])
    eager = Doctor(strict=True, select=["LD504"], thresholds={"stale_validation": {"patience": 3}})
    for doctor in (usual, eager):
        fit(tmp_path, Stale(), doctor, max_epochs=10)
    assert [[f.name for f in d.report.findings] for d in (usual, eager)] == [[], ["stale_validation"]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"overhead": 2}, r"overhead must be in \(0, 1\], got 2"),
        ({"overhead": "much"}, r"overhead must be in \(0, 1\], got 'much'"),
        ({"every_n_steps": 0}, "every_n_steps must be a whole number of at least 1, got 0"),
        ({"stop_on": "eror"}, "stop_on must be None, 'note', 'warning' or 'error', got 'eror'"),
        ({"on_finding": 3}, "on_finding must be callable with a Finding, got 3"),
        ({"select": ["overfiting"]}, "did you mean 'overfitting'"),
        ({"ignore": ["LD999"]}, "no rule is called 'LD999'"),
        ({"select": "LD501"}, "select must be a list of rule codes or names, got the string 'LD501'"),
        ({"thresholds": {"LD504": {"patienc": 3}}}, "did you mean 'patience'"),
        ({"thresholds": {"LD504": {"patience": "3"}}}, "must be a number, got '3'"),
    ],
)
def test_a_wrong_option_is_refused_with_what_would_be_right(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Doctor(**options)


def test_several_monitors_share_one_history_and_one_report(tmp_path: Path) -> None:
    losses, gradients = LossMonitor(), GradientMonitor()
    fit(tmp_path, DigitsNet(), gradients, losses)
    assert losses.report is gradients.report
    assert {"train_loss", "grad_norm"} <= set(losses.report.history.names())
    assert losses.report.history["train_loss"].steps == list(range(20))


def test_a_monitor_beside_a_doctor_replaces_the_doctors_own(tmp_path: Path) -> None:
    from lightning_doctor import GeneralizationMonitor

    named = GeneralizationMonitor(metric="val_acc", mode="min")
    doctor = Doctor(strict=True)
    fit(tmp_path, DigitsNet(), named, doctor)
    assert doctor.report.history.facts["validation"] == {"metric": "val_acc", "mode": "min"}
    assert doctor.report is named.report


def test_the_facts_describe_the_run(tmp_path: Path) -> None:
    doctor = Doctor(strict=True)
    fit(tmp_path, DigitsNet(0.1, momentum=0.9), doctor, gradient_clip_val=1.0)
    history = doctor.report.history
    assert history.fact("model.parameters") == 64 * 32 + 32 + 32 * 10 + 10
    assert history.fact("model.layers") == {"Linear": 2, "ReLU": 1}
    assert history.fact("optimizers")[0]["class"] == "SGD"
    assert history.fact("optimizers")[0]["groups"][0]["momentum"] == 0.9
    assert history.fact("trainer.planned_steps") == 20
    assert history.fact("trainer.batches_per_epoch") == 10
    assert history.fact("trainer.gradient_clip_val") == 1.0
    assert history.fact("trainer.gradient_clip_algorithm") == "norm"
    assert history.fact("data") == {
        "batch_size": 32,
        "workers": 0,
        "sampler": "RandomSampler",
        "train_samples": 320,
        "val_samples": 397,
    }
    assert history.fact("run.ended") == "completed"
    json.dumps(history.facts, allow_nan=False)


def test_a_validation_pass_that_is_cut_short_has_as_many_samples_as_it_sees(tmp_path: Path) -> None:
    doctor = Doctor(strict=True)
    run = trainer(tmp_path, doctor, limit_val_batches=2)
    run.fit(DigitsNet(), digits(), digits(1400, 1797, shuffle=False))
    assert doctor.report.history.fact("data.val_samples") == 64


def test_the_report_states_the_measured_share(tmp_path: Path) -> None:
    doctor = Doctor(strict=True)
    fit(tmp_path, DigitsNet(), doctor)
    assert 0 < doctor.report.overhead < 1
    assert 0 < doctor.report.seconds < 60


def test_a_notebook_shows_the_report_as_html(tmp_path: Path) -> None:
    doctor = Doctor(strict=True)
    fit(tmp_path, DigitsNet(SICK), doctor, max_epochs=10)
    assert doctor.report.findings[0].name in doctor.report._repr_html_()


def test_on_finding_is_called_again_only_when_a_finding_gets_worse(tmp_path: Path) -> None:
    from lightning_doctor import History, Severity
    from lightning_doctor.budget import Budget
    from lightning_doctor.callbacks.consultation import Consultation
    from lightning_doctor.callbacks.settings import Settings

    told: list[tuple[str, str]] = []
    settings = Settings(on_finding=lambda finding: told.append((finding.code, str(finding.severity))), strict=True)
    consultation = Consultation(settings, speaks=True)
    severities = iter([Severity.NOTE, Severity.NOTE, Severity.WARNING, Severity.WARNING, Severity.NOTE])
    for severity in severities:
        finding = Finding(severity=severity, summary="s", remedy="r", code="LD999", name="made_up")
        consultation._tell(finding)
    assert told == [("LD999", "note"), ("LD999", "warning")]
    assert consultation.judge(History(), 0, Budget(0.02)).findings == []
