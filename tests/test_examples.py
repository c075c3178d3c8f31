from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(folder: Path, *arguments: str) -> str:
    variables = {key: value for key, value in os.environ.items() if key != "LIGHTNING_DOCTOR"}
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        cwd=folder,
        env={**variables, "PYTHONPATH": str(EXAMPLES.parent)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def report(folder: Path) -> Any:
    return json.loads((folder / "lightning_logs" / "version_0" / "doctor.json").read_text())


def test_the_quickstart_is_diagnosed_and_stopped_in_its_first_epoch(tmp_path: Path) -> None:
    printed = run(tmp_path, str(EXAMPLES / "quickstart.py"))
    found = report(tmp_path)["findings"]
    assert found[0]["severity"] == "error"
    # An epoch has 16 steps, and it asks for 20 of them.
    assert report(tmp_path)["step"] < 16
    assert f"{found[0]['code']} {found[0]['name']} error at step {found[0]['step']}" in printed
    assert "lower lr from 10 to " in printed


def test_the_monitors_share_one_history(tmp_path: Path) -> None:
    printed = run(tmp_path, str(EXAMPLES / "monitors.py"))
    listed = {line.split()[0] for line in printed.splitlines() if " values, the last " in line}
    assert listed >= {"train_loss", "val_loss", "val_metric", "learning_rate", "momentum", "grad_norm", "clip_factor"}
    assert [finding for finding in report(tmp_path)["findings"] if finding["severity"] != "note"] == []


def test_the_command_line_takes_its_doctor_from_the_yaml(tmp_path: Path) -> None:
    run(tmp_path, str(EXAMPLES / "cli.py"), "fit", "--config", str(EXAMPLES / "cli.yaml"))
    judged = {*report(tmp_path)["healthy"], *report(tmp_path)["unassessed"]}
    assert "LD102" in judged
    assert "LD107" not in judged
    saved = yaml.safe_load((tmp_path / "lightning_logs" / "version_0" / "config.yaml").read_text())
    asked = yaml.safe_load((EXAMPLES / "cli.yaml").read_text())
    assert saved["doctor"]["init_args"].items() >= asked["doctor"].items()


def test_the_command_line_can_leave_its_doctor_out(tmp_path: Path) -> None:
    config = str(EXAMPLES / "cli.yaml")
    run(tmp_path, str(EXAMPLES / "cli.py"), "fit", "--config", config, "--trainer.max_epochs=1", "--doctor", "false")
    assert [path.name for path in tmp_path.glob("**/doctor.json")] == []
    assert (tmp_path / "lightning_logs" / "version_0" / "config.yaml").exists()


def test_a_saddle_is_walked_from_the_lectures_two_weights_to_a_deep_network(tmp_path: Path) -> None:
    printed = run(tmp_path, str(EXAMPLES / "critical_points.py"))
    assert "(0, 0) is a saddle" in printed
    assert "eigenvalues -2.000 and 2.000" in printed
    assert "down by 1.000 at distance 1.414" in printed
    assert "it is at a saddle" in printed
    assert printed.splitlines()[-1].startswith("loss 0.01")
    assert "a minimum" in printed.splitlines()[-1]
