from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lightning_doctor import demo, demo_patients
from lightning_doctor.demo_patients import PATIENTS

SICK = [patient.name for patient in PATIENTS if patient.sick]
CURED = [patient.name for patient in PATIENTS if not patient.sick]


def lightning_doctor(folder: Path, *arguments: str, prelude: str = "", **variables: str) -> Any:
    code = f"{prelude}\nimport sys\nfrom lightning_doctor.console import main\nsys.exit(main(sys.argv[1:]))"
    environment = {key: value for key, value in os.environ.items() if key not in ("LIGHTNING_DOCTOR", "FORCE_COLOR")}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=folder,
        env={**environment, "PYTHONPATH": str(Path(__file__).parents[1]), "COLUMNS": "100", **variables},
    )


def reports(folder: Path, version: int = 0) -> dict[str, Any]:
    files = {patient.name: folder / patient.name / f"version_{version}" / "doctor.json" for patient in PATIENTS}
    return {name: json.loads(file.read_text()) for name, file in files.items()}


def ill(report: dict[str, Any]) -> list[dict[str, Any]]:
    return [finding for finding in report["findings"] if finding["severity"] != "note"]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("demo")
    return folder / "my logs", lightning_doctor(folder, "demo", "--folder", "my logs")


def test_every_sick_network_is_found_ill_and_every_cured_one_well(shown: tuple[Path, Any]) -> None:
    folder, done = shown
    assert done.returncode == 0, done.stderr[-3000:]
    found = {name: ill(report) for name, report in reports(folder).items()}
    assert [name for name in SICK if not found[name]] == []
    assert [name for name in CURED if found[name]] == []


def test_the_step_size_a_hundred_times_too_high_is_announced_while_the_network_still_trains(
    shown: tuple[Path, Any],
) -> None:
    report = reports(shown[0])["step_size_sick"]
    root = ill(report)[0]
    assert root["explained_by"] is None
    # An epoch has 38 steps, the run 760.
    assert root["step"] < 38
    assert report["step"] == 759
    assert root["remedy"].startswith("lower lr from 10 to ")


def test_the_table_shows_what_the_reports_say(shown: tuple[Path, Any]) -> None:
    folder, done = shown
    rows = {row.split()[1]: row for row in re.split(r"\n[├┡].*\n", done.stdout)[1:]}
    assert list(rows) == [patient.name for patient in PATIENTS]
    for name, report in reports(folder).items():
        roots = [finding for finding in report["findings"] if finding["explained_by"] is None]
        assert ("nothing ill" in rows[name]) == (not roots)
        for root in roots:
            assert f"{root['severity'].upper()} {root['code']} {root['name']}" in rows[name]
            assert f"announced at step {root['step']}" in " ".join(rows[name].split())
            assert root["remedy"].split()[0] in rows[name]


def test_it_ends_with_the_command_that_opens_tensorboard(shown: tuple[Path, Any]) -> None:
    folder, done = shown
    *_, said, command = done.stdout.rstrip().split("\n")
    assert said.endswith("in the Doctor tab:")
    assert command == "tensorboard --logdir 'my logs'"
    assert len(list(folder.glob("*/version_0/events.out.tfevents.*"))) == len(PATIENTS)


def test_nothing_but_the_demo_itself_speaks(shown: tuple[Path, Any]) -> None:
    said = [line for line in shown[1].stderr.splitlines() if line.strip()]
    assert said[0].startswith("Loading PyTorch")
    # A line for each diagnosis as it is made, and the bar.
    assert all(re.match(r"\w+ · step \d+ · (ERROR|WARNING) LD\d{3} \w+$", line) for line in said[1:-1])
    assert "epochs" in said[-1]


def test_it_is_the_same_each_time_and_keeps_the_earlier_logs(tmp_path: Path) -> None:
    for _ in range(2):
        lightning_doctor(tmp_path, "demo", "--epochs", "1")
    first, second = (reports(tmp_path / "doctor_demo", version) for version in range(2))
    for name, report in first.items():
        # Only the times differ; what was computed is the same to the last bit.
        assert second[name]["history"]["series"]["train_loss"] == report["history"]["series"]["train_loss"]


def test_a_sick_network_that_is_not_found_ill_fails_the_demo(tmp_path: Path) -> None:
    done = lightning_doctor(tmp_path, "demo", "--epochs", "1")
    assert done.returncode == 1
    # Nobody can see overfitting after a single pass.
    assert "memorizing_sick is sick and was not found ill in 2 steps" in done.stderr


def test_a_cured_network_that_is_found_ill_fails_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    patients = {patient.name: patient for patient in PATIENTS}
    # Told that it is cured, which it is not.
    monkeypatch.setattr(demo_patients, "PATIENTS", (replace(patients["blank_pixels_sick"], sick=False),))
    assert demo.run(str(tmp_path), 1) == 1
    assert "blank_pixels_sick is cured and was found ill: LD101 non_finite_loss" in capsys.readouterr().err


def test_without_scikit_learn_it_says_what_to_install(tmp_path: Path) -> None:
    done = lightning_doctor(tmp_path, "demo", prelude="import sys; sys.modules['sklearn'] = None")
    assert done.returncode == 2
    assert done.stderr.strip() == (
        'lightning-doctor: error: the demo needs scikit-learn: pip install "lightning-doctor[demo]"'
    )
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    done = lightning_doctor(tmp_path, "demo", "--folder", "taken")
    assert done.returncode == 2
    assert done.stderr.strip() == "lightning-doctor: error: taken: File exists"
