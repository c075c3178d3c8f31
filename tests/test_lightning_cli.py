from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

SCRIPT = """
import sys
{imports}
from tests.runs import DigitsNet as Base, digits, validation_digits
import torch

class Net({package}.LightningModule):
    def __init__(self, lr: float = 0.1):
        super().__init__()
        self.lr = lr
        self.net = Base().net

    def training_step(self, batch, batch_idx):
        loss = torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def train_dataloader(self):
        return digits()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)

{cli}(Net, seed_everything_default=0, {options})
"""
DOCTOR_CLI = SCRIPT.format(
    imports="import lightning.pytorch as pl\nfrom lightning_doctor import DoctorCLI", package="pl", cli="DoctorCLI",
    options="",
)  # fmt: skip
PLAIN_CLI = SCRIPT.format(
    imports="import lightning.pytorch as pl\nfrom lightning.pytorch.cli import LightningCLI", package="pl",
    cli="LightningCLI", options="",
)  # fmt: skip
OTHER_DOCTOR_CLI = SCRIPT.format(
    imports="import pytorch_lightning as pl\nfrom lightning_doctor import DoctorCLI",
    package="pl",
    cli="DoctorCLI",
    options="",
)
OTHER_CLI = SCRIPT.format(
    imports="import pytorch_lightning as pl\nfrom pytorch_lightning.cli import LightningCLI", package="pl",
    cli="LightningCLI", options="",
)  # fmt: skip


def run(folder: Path, script: str, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    (folder / "train.py").write_text(script)
    variables = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    variables.pop("LIGHTNING_DOCTOR", None)
    done = subprocess.run(
        [sys.executable, "train.py", *arguments],
        capture_output=True, text=True, timeout=180, check=False, env=variables, cwd=folder,
    )  # fmt: skip
    assert done.returncode == code, done.stderr[-3000:]
    return done


FIT = ("fit", "--trainer.max_epochs=2", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false")


def reports(folder: Path) -> list[Path]:
    return sorted(folder.rglob("doctor.json"))


def test_the_flag_is_off_by_default(tmp_path: Path) -> None:
    done = run(tmp_path, DOCTOR_CLI, *FIT)
    assert reports(tmp_path) == []
    assert "lightning-doctor" not in done.stderr


def test_the_flag_adds_a_doctor_and_round_trips_through_the_saved_config(tmp_path: Path) -> None:
    run(tmp_path, DOCTOR_CLI, *FIT, "--doctor", "true")
    (first,) = reports(tmp_path)
    config = first.parent / "config.yaml"
    assert yaml.safe_load(config.read_text())["doctor"] is True
    run(tmp_path, DOCTOR_CLI, "fit", "--config", str(config))
    assert len(reports(tmp_path)) == 2


def test_an_option_adds_a_doctor_with_it_and_round_trips(tmp_path: Path) -> None:
    run(tmp_path, DOCTOR_CLI, *FIT, "--doctor.overhead", "0.01", "--doctor.ignore", '["LD504"]')
    (first,) = reports(tmp_path)
    config = first.parent / "config.yaml"
    saved = yaml.safe_load(config.read_text())["doctor"]
    options = saved.get("init_args", saved)
    assert options["overhead"] == 0.01
    run(tmp_path, DOCTOR_CLI, "fit", "--config", str(config))
    second = reports(tmp_path)[1]
    report = json.loads(second.read_text())
    assert "LD504" not in report["unassessed"]
    assert "LD501" in report["unassessed"]


def test_the_flag_works_for_a_script_of_the_other_package(tmp_path: Path) -> None:
    run(tmp_path, OTHER_DOCTOR_CLI, *FIT, "--doctor", "true")
    assert len(reports(tmp_path)) == 1


def test_yaml_turns_it_on(tmp_path: Path) -> None:
    config = {
        "trainer": {"max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False},
        "doctor": {
            "class_path": "lightning_doctor.Doctor",
            "init_args": {"stop_on": "error", "thresholds": {"LD504": {"patience": 8}}},
        },
    }
    (tmp_path / "on.yaml").write_text(yaml.safe_dump(config))
    run(tmp_path, DOCTOR_CLI, "fit", "--config", "on.yaml")
    assert len(reports(tmp_path)) == 1


def test_yaml_may_give_the_options_alone(tmp_path: Path) -> None:
    config = {
        "trainer": {"max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False},
        "doctor": {"overhead": 0.05, "select": ["LD1"]},
    }
    (tmp_path / "on.yaml").write_text(yaml.safe_dump(config))
    run(tmp_path, DOCTOR_CLI, "fit", "--config", "on.yaml")
    (saved,) = reports(tmp_path)
    assert {code[:3] for code in json.loads(saved.read_text())["healthy"]} == {"LD1"}


def test_a_wrong_option_is_refused_by_the_command_line(tmp_path: Path) -> None:
    done = run(tmp_path, DOCTOR_CLI, *FIT, "--doctor.overhed", "0.01", code=2)
    assert "overhed" in done.stderr
    assert reports(tmp_path) == []


@pytest.mark.parametrize("script", [PLAIN_CLI, OTHER_CLI], ids=["lightning", "pytorch_lightning"])
def test_any_lightning_cli_takes_it_among_its_callbacks(tmp_path: Path, script: str) -> None:
    run(tmp_path, script, *FIT, "--trainer.callbacks+=lightning_doctor.Doctor", "--trainer.callbacks.overhead=0.01")
    assert len(reports(tmp_path)) == 1
