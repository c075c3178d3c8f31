"""Runs that are odd or that fail: the doctor says what it can and never makes it worse."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, IterableDataset

from lightning_doctor import Doctor, GradientMonitor
from lightning_doctor.callbacks.agreement import Agreement
from lightning_doctor.callbacks.case import Case
from lightning_doctor.callbacks.gradients import GradientMonitor as Gradients
from lightning_doctor.callbacks.reporting import Reporting
from lightning_doctor.callbacks.rest import Rest
from lightning_doctor.callbacks.staff import Staff
from tests.runs import IMAGES, LABELS, DigitsNet, digits, fit, flat, trainer, validation_digits


class Stream(IterableDataset[Any]):
    def __init__(self, samples: int = 160) -> None:
        self.samples = samples

    def __iter__(self) -> Any:
        return iter([(IMAGES[i], LABELS[i]) for i in range(self.samples)])


def test_a_loader_without_length_is_watched(tmp_path: Path) -> None:
    doctor = Doctor(strict=True)
    trainer(tmp_path, doctor).fit(DigitsNet(), DataLoader(Stream(), 32))
    assert doctor.report.history["train_loss"].steps == list(range(10))
    assert doctor.report.history.fact("trainer.planned_steps") is None


def test_an_epoch_without_a_batch_leaves_an_empty_report(tmp_path: Path) -> None:
    doctor = Doctor(strict=True)
    trainer(tmp_path, doctor).fit(DigitsNet(), DataLoader(Stream(0), 32), validation_digits())
    assert doctor.report.findings == []
    assert doctor.report.unassessed["LD102"] == "training_step has returned no loss"


@pytest.mark.parametrize("options", [{"limit_train_batches": 0}, {"max_epochs": 0}, {"max_steps": 0}])
def test_a_fit_without_a_single_step_leaves_an_empty_report(tmp_path: Path, options: dict[str, Any]) -> None:
    doctor = Doctor(strict=True)
    fit(tmp_path, DigitsNet(), doctor, **options)
    assert doctor.report.findings == doctor.report.healthy == []
    assert len(doctor.report.unassessed) >= 11
    assert doctor.report.to_dict()["verdict"] == "unassessed"


@pytest.mark.parametrize("options", [{"fast_dev_run": True}, {"logger": False}, {"barebones": True}])
def test_without_a_logger_it_works_and_writes_nothing(
    tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    doctor = Doctor(strict=True)
    if "barebones" in options:
        # Lightning refuses these beside barebones, whatever their value.
        options = {**options, "logger": None, "enable_checkpointing": None}
        options |= {"enable_progress_bar": None, "enable_model_summary": None, "num_sanity_val_steps": None}

    class Quiet(DigitsNet):
        def log(self, *args: Any, **kwargs: Any) -> None:
            return None

    net = Quiet() if "barebones" in options else DigitsNet()
    fit(tmp_path, net, doctor, **options)
    assert len(doctor.report.history["train_loss"]) >= 1
    assert list(tmp_path.rglob("doctor.json")) == []


def test_two_doctors_give_one_message_and_one_works(tmp_path: Path) -> None:
    first, second = Doctor(strict=True), Doctor(strict=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(tmp_path, DigitsNet(), first, second, enable_checkpointing=True)
    assert [w for w in caught if "several Doctors" in str(w.message)].__len__() == 1
    assert first.report.history["train_loss"].steps == list(range(20))
    assert second.report is first.report


def test_one_doctor_listed_twice_counts_once(tmp_path: Path) -> None:
    doctor = Doctor(strict=True)
    fit(tmp_path, DigitsNet(), doctor, doctor)
    assert doctor.report.history["train_loss"].steps == list(range(20))


def test_a_callback_list_may_be_used_again(tmp_path: Path) -> None:
    callbacks = [Doctor(strict=True)]
    reports = []
    for _ in range(2):
        from lightning.pytorch import Trainer

        run = Trainer(
            max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=callbacks,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        )  # fmt: skip
        run.fit(DigitsNet(), digits())
        reports.append(callbacks[0].report)
    assert reports[0] is not reports[1]
    assert all(report.history["train_loss"].steps == list(range(10)) for report in reports)


def test_a_second_fit_of_another_trainer_begins_anew(tmp_path: Path) -> None:
    doctor = Doctor(strict=True)
    fit(tmp_path, DigitsNet(50.0), doctor, max_epochs=5)
    assert doctor.report.findings
    fit(tmp_path, DigitsNet(), doctor, max_epochs=3)
    assert doctor.report.history["train_loss"].steps == list(range(30))
    assert [finding for finding in doctor.report.findings if finding.severity == "error"] == []


def test_a_second_fit_of_the_same_trainer_goes_on(tmp_path: Path) -> None:
    doctor, net = Doctor(strict=True), DigitsNet()
    run = fit(tmp_path, net, doctor)
    run.fit_loop.max_epochs = 4
    run.fit(net, digits(), validation_digits())
    assert doctor.report.history["train_loss"].steps == list(range(40))


def test_validate_and_test_are_not_its_business(tmp_path: Path) -> None:
    doctor = Doctor(strict=True)
    run = fit(tmp_path, DigitsNet(), doctor)
    before = doctor.report
    run.validate(DigitsNet(), validation_digits(), verbose=False)
    assert doctor.report is before


def test_an_exception_in_the_run_passes_through_and_leaves_a_report(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    class Breaks(DigitsNet):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if self.global_step == 7:
                raise RuntimeError("the user's own")
            return super().training_step(batch, batch_idx)

    doctor = Doctor(strict=True)
    logger = CSVLogger(tmp_path)
    with pytest.raises(RuntimeError, match="the user's own"):
        fit(tmp_path, Breaks(), doctor, logger=logger)
    assert doctor.report.history["train_loss"].steps == list(range(7))
    assert doctor.report.history.fact("run.ended") == "exception"
    assert (Path(logger.log_dir) / "doctor.json").exists()
    assert "lightning-doctor" in capfd.readouterr().err


def test_an_interrupted_run_leaves_a_report(tmp_path: Path) -> None:
    class Interrupted(DigitsNet):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if self.global_step == 7:
                raise KeyboardInterrupt
            return super().training_step(batch, batch_idx)

    doctor = Doctor(strict=True)
    with pytest.raises(SystemExit):
        fit(tmp_path, Interrupted(), doctor)
    assert doctor.report.history["train_loss"].steps == list(range(7))
    assert doctor.report.history.fact("run.ended") == "interrupted"


def test_a_log_directory_that_cannot_be_written_costs_one_note(tmp_path: Path) -> None:
    class Unwritable(CSVLogger):
        @property
        def log_dir(self) -> str:
            # A file where a directory should be: the administrator, who runs tests in containers, may write to
            # read-only directories.
            return str(tmp_path / "file" / "version_0")

        def save(self) -> None:
            return None

        def log_metrics(self, *args: Any, **kwargs: Any) -> None:
            return None

        def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
            return None

        @property
        def experiment(self) -> None:
            return None

    (tmp_path / "file").write_text("")
    doctor = Doctor()
    run = fit(tmp_path, DigitsNet(), doctor, logger=Unwritable(tmp_path))
    assert run.global_step == 20
    assert len(doctor.report.notes) == 1
    assert "writing the report" in doctor.report.notes[0]


@pytest.mark.parametrize(
    "hook", ["begin", "before_step", "after_batch", "before_close", "after_validation", "validation_batch"]
)
def test_a_monitor_that_fails_costs_one_note_and_the_weights_are_the_same(
    tmp_path: Path, hook: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = DigitsNet()
    fit(tmp_path, plain)
    monkeypatch.setattr(Gradients, hook, lambda *_: 1 / 0)
    doctor, net = Doctor(), DigitsNet()
    fit(tmp_path, net, doctor)
    assert torch.equal(flat(net), flat(plain))
    assert len(doctor.report.notes) == 1
    assert "GradientMonitor failed and is switched off" in doctor.report.notes[0]
    assert "ZeroDivisionError" in doctor.report.notes[0]
    assert "Traceback" in doctor.report.notes[0]
    assert doctor.report.history["train_loss"].steps == list(range(20))


def test_an_exception_before_the_first_step_leaves_a_report_that_claims_nothing(tmp_path: Path) -> None:
    from lightning.pytorch import Callback

    class Fails(Callback):
        def setup(self, *_: Any, **__: Any) -> None:
            raise RuntimeError("the user's own")

    doctor = Doctor()
    with pytest.raises(RuntimeError, match="the user's own"):
        fit(tmp_path, DigitsNet(), doctor, Fails())
    assert doctor.report.to_dict()["verdict"] == "unassessed"


ENTRIES = [
    "state_dict",
    "begin",
    "before_step",
    "after_batch",
    "validation_batch",
    "after_validation",
    "close",
    "consult",
    "finish",
]


INNER = [(Agreement, "reach"), (Case, "_release"), (Case, "judge"), (Rest, "plan"), (Staff, "each")]
INNER += [(Staff, "attempt"), (Staff, "listening"), (Staff, "settle"), (Reporting, "show"), (Reporting, "summarize")]


@pytest.mark.parametrize(("owner", "method"), [*((Case, entry) for entry in ENTRIES), *INNER])
def test_whatever_fails_in_the_case_itself_the_run_goes_on(
    tmp_path: Path, owner: type, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = DigitsNet()
    fit(tmp_path, plain)
    monkeypatch.setattr(owner, method, lambda *_, **__: 1 / 0)
    doctor, net = Doctor(), DigitsNet()
    run = fit(tmp_path, net, doctor, enable_checkpointing=True)
    assert run.global_step == 20
    assert torch.equal(flat(net), flat(plain))


def test_a_case_that_cannot_be_opened_costs_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_doctor.callbacks.ranks.announce", lambda _: 1 / 0)
    doctor = Doctor()
    with pytest.warns(UserWarning, match="lightning-doctor does not watch this run: ZeroDivisionError"):
        run = fit(tmp_path, DigitsNet(), doctor)
    assert run.global_step == 20


def test_a_stream_with_errors_of_its_own_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Weird:
        def write(self, _: str) -> None:
            raise RuntimeError("my own stream")

    monkeypatch.setattr("sys.stderr", Weird())
    run = fit(tmp_path, DigitsNet(50.0), Doctor(strict=True), max_epochs=10)
    assert run.global_step == 100


def test_a_data_set_that_cannot_tell_its_size_leaves_the_rest_of_the_facts(tmp_path: Path) -> None:
    class Shy:
        batch_size = 32

        @property
        def dataset(self) -> Any:
            raise RuntimeError("not telling")

        def __iter__(self) -> Any:
            return iter(digits())

    doctor = Doctor(strict=True)
    trainer(tmp_path, doctor).fit(DigitsNet(), Shy())
    assert doctor.report.history.fact("model.class") == "DigitsNet"
    assert doctor.report.history.fact("data") == {"batch_size": 32}
    assert doctor.report.history["train_loss"].steps == list(range(20))


def test_a_rule_that_fails_leaves_the_others_to_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_doctor.rules import all_rules

    broken = next(rule for rule in all_rules() if rule.code == "LD102")
    monkeypatch.setitem(broken.__dict__, "check", lambda history: 1 / 0)
    doctor = Doctor()
    fit(tmp_path, DigitsNet(), doctor)
    judged = {*doctor.report.healthy, *doctor.report.unassessed, *(f.code for f in doctor.report.findings)}
    assert judged == {rule.code for rule in all_rules()}
    assert "the rule failed: ZeroDivisionError" in doctor.report.unassessed["LD102"]
    assert len(doctor.report.notes) == 1


def test_optimizers_used_without_lightnings_wrapper_leak_nothing(tmp_path: Path) -> None:
    class Raw(DigitsNet):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers(use_pl_optimizer=False)
            optimizer.zero_grad()
            self.manual_backward(torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1]))
            optimizer.step()

    doctor = Doctor(strict=True)
    fit(tmp_path, Raw(), doctor, validate=False)
    assert doctor.report.history["train_loss"].steps == list(range(20))
    assert doctor.report.history.absent["grad_norm"] == "no optimizer step with a gradient was seen"


def test_strict_raises_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Gradients, "before_step", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fit(tmp_path, DigitsNet(), Doctor(strict=True))


def test_a_callback_of_the_user_that_fails_costs_one_note(tmp_path: Path) -> None:
    doctor = Doctor(on_finding=lambda finding: 1 / 0)
    run = fit(tmp_path, DigitsNet(50.0), doctor, max_epochs=10)
    assert run.global_step == 100
    assert len(doctor.report.notes) == 1
    assert "on_finding" in doctor.report.notes[0]


def test_a_doctor_can_be_pickled_before_and_after_a_fit(tmp_path: Path) -> None:
    doctor = Doctor()
    pickle.loads(pickle.dumps(doctor))
    fit(tmp_path, DigitsNet(), doctor)
    pickle.loads(pickle.dumps(doctor))


def test_after_a_fit_neither_model_nor_trainer_is_kept_alive(tmp_path: Path) -> None:
    import gc
    import weakref

    doctor, net = GradientMonitor(), DigitsNet()
    run = fit(tmp_path, net, doctor)
    model, owner = weakref.ref(net), weakref.ref(run)
    # Lightning itself ties every callback to the model by these.
    doctor.log = doctor.log_dict = None
    del net, run
    gc.collect()
    assert model() is None
    assert owner() is None
    assert doctor.report is not None


def test_a_monitor_without_a_fit_has_no_report() -> None:
    assert GradientMonitor().report is None
