from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import pytest

from lightning_doctor import Doctor, environment
from tests.runs import DigitsNet, fit


@pytest.fixture
def doctors(monkeypatch: pytest.MonkeyPatch) -> Any:
    def under(value: str | None) -> list[Any]:
        environment._warned.clear()
        if value is None:
            monkeypatch.delenv("LIGHTNING_DOCTOR", raising=False)
        else:
            monkeypatch.setenv("LIGHTNING_DOCTOR", value)
        return environment.callbacks()

    return under


@pytest.mark.parametrize("value", [None, "", " ", "0", "false", "No", "OFF"])
def test_it_is_off_unless_asked_for(doctors: Any, value: str | None) -> None:
    assert doctors(value) == []


@pytest.mark.parametrize("value", ["1", "true", "YES", " on "])
def test_it_is_on_when_asked_for(doctors: Any, value: str) -> None:
    (doctor,) = doctors(value)
    assert isinstance(doctor, Doctor)
    assert doctor.from_environment


def test_it_takes_the_options_of_the_doctor(doctors: Any) -> None:
    text = "overhead=0.01, every_n_steps=20,stop_on=error,ignore=LD107+stale_validation,LD504.patience=8,strict=true"
    (doctor,) = doctors(text)
    assert doctor.settings.overhead == 0.01
    assert doctor.settings.every_n_steps == 20
    assert doctor.settings.stop_on == "error"
    assert doctor.settings.strict
    assert list(doctor.settings.ignore) == ["LD107", "stale_validation"]
    assert doctor.settings.thresholds == {"LD504": {"patience": 8}}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("yess", "write it as 1, or as option=value, got 'yess'"),
        ("overhed=0.1", "there is no option 'overhed', did you mean 'overhead'?"),
        ("overhead=lots", "overhead must be a number, got 'lots'"),
        ("overhead=7", r"overhead must be in \(0, 1\], got 7.0"),
        ("every_n_steps=1.5", "every_n_steps must be a whole number of at least 1, got 1.5"),
        ("strict=maybe", "strict must be true or false, got 'maybe'"),
        ("LD504.patienc=8", "did you mean 'patience'"),
        ("select=overfiting", "did you mean 'overfitting'"),
        ("on_finding=print", "there is no option 'on_finding'"),
        ("1,2", "write it as 1, or as option=value, got '1'"),
        ("=", "there is no option ''"),
    ],
)
def test_a_typo_gives_one_warning_and_no_doctor(doctors: Any, value: str, message: str) -> None:
    with pytest.warns(UserWarning, match=message):
        assert doctors(value) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert environment.callbacks() == []


def test_a_doctor_that_cannot_be_imported_breaks_no_trainer(doctors: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning_doctor.callbacks.doctor", None)
    with pytest.warns(UserWarning, match="starts no doctor"):
        assert doctors("1") == []


def test_an_explicit_doctor_wins_silently(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTNING_DOCTOR", "every_n_steps=3")
    explicit = Doctor(strict=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = fit(tmp_path, DigitsNet(), explicit)
    guests = [callback for callback in run.callbacks if isinstance(callback, Doctor) and callback is not explicit]
    assert len(guests) == 1
    assert guests[0].report is explicit.report
    assert not [w for w in caught if "Doctor" in str(w.message)]
    assert explicit.report.history["train_loss"].steps == list(range(20))


SCRIPT = textwrap.dedent(
    """
    import sys
    from tests.runs import DigitsNet, digits
    PACKAGE = sys.argv[1]
    if PACKAGE == "lightning":
        from lightning.pytorch import Trainer
        net = DigitsNet(100.0)
    else:
        import pytorch_lightning as pl
        from pytorch_lightning import Trainer
        class Net(pl.LightningModule):
            def __init__(self):
                super().__init__()
                self.inner = DigitsNet(100.0).net
            def training_step(self, batch, batch_idx):
                import torch
                return torch.nn.functional.cross_entropy(self.inner(batch[0]), batch[1])
            def configure_optimizers(self):
                import torch
                return torch.optim.SGD(self.parameters(), lr=100.0)
        net = Net()
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    Trainer(max_epochs=20, accelerator="cpu", **options).fit(net, digits())
    """
)


@pytest.mark.parametrize("package", ["lightning", "pytorch_lightning"])
@pytest.mark.parametrize("value", ["1", None])
def test_a_script_that_knows_no_doctor_is_watched_if_the_environment_says_so(
    tmp_path: Path, package: str, value: str | None
) -> None:
    variables = {key: text for key, text in os.environ.items() if key != "LIGHTNING_DOCTOR"}
    if value is not None:
        variables["LIGHTNING_DOCTOR"] = value
    variables["PYTHONPATH"] = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, package],
        capture_output=True, text=True, timeout=180, check=True, env=variables, cwd=tmp_path,
    )  # fmt: skip
    assert ("LD102" in done.stderr) == (value is not None)
    assert ("doctor" in done.stderr.lower()) == (value is not None)
