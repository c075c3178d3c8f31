"""A run that is killed at any moment, even while it writes: what it left can be read, and it goes on from there."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_doctor.console import main
from lightning_doctor.jsonable import MalformedError
from lightning_doctor.logs.event_files import read_events
from lightning_doctor.report import SCHEMA_VERSION, Report
from lightning_doctor.sinks.report import read

TRAIN = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.loggers import TensorBoardLogger
    from lightning_doctor import Doctor
    from lightning_doctor.callbacks import publisher
    from tests.runs import DigitsNet, digits, trainer, validation_digits

    folder, steps = Path(sys.argv[1]), int(sys.argv[2])
    # Everything is written anew at every look, so that most moments are within a write.
    publisher.substance = lambda report: object()
    doctor = Doctor(strict=True, overhead=1.0, every_n_steps=1)
    keeps = ModelCheckpoint(folder / "kept", filename="{step}", every_n_train_steps=4, save_top_k=-1)
    logger = TensorBoardLogger(folder, name="", version="run")
    run = trainer(
        folder, doctor, keeps, max_epochs=-1, max_steps=steps, logger=logger, enable_checkpointing=True,
        log_every_n_steps=1,
    )
    kept = sorted((folder / "kept").glob("*.ckpt"), key=lambda path: int(path.stem.partition("=")[2]))
    run.fit(DigitsNet(), digits(shuffle=False), validation_digits(), ckpt_path=str(kept[-1]) if kept else None)
    """
)


def start(folder: Path, steps: int) -> subprocess.Popen[bytes]:
    variables = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    variables.pop("LIGHTNING_DOCTOR", None)
    with (folder / "output").open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-c", TRAIN, str(folder), str(steps)], env=variables, stdout=output, stderr=output
        )


def kill_when(process: subprocess.Popen[bytes], ready: Callable[[], bool], patience: float = 300.0) -> None:
    """Kills the process, with no chance to clean up, as soon as it is ready."""
    ends = time.monotonic() + patience
    while not ready():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < ends
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def writes(folder: Path, count: int) -> Callable[[], bool]:
    """When ``doctor.json`` has been replaced so many times."""
    seen: set[int] = set()

    def ready() -> bool:
        path = folder / "run" / "doctor.json"
        if path.exists():
            seen.add(path.stat().st_ino)
        return len(seen) > count

    return ready


def writing(folder: Path) -> Callable[[], bool]:
    """When a new ``doctor.json`` is half-way."""
    before = set((folder / "run").glob(".doctor.json.*"))
    return lambda: bool(set((folder / "run").glob(".doctor.json.*")) - before)


def grown(folder: Path, by: int) -> Callable[[], bool]:
    """When the event files have grown by so many bytes."""

    def size() -> int:
        return sum(path.stat().st_size for path in (folder / "run").glob("*tfevents*"))

    before = size()
    return lambda: size() >= before + by


def assert_readable(folder: Path) -> None:
    """What is there is whole."""
    run = folder / "run"
    if (run / "doctor.json").exists():
        assert json.loads((run / "doctor.json").read_text("utf-8"))["schema"] == SCHEMA_VERSION
        report = read(run)
        assert Report.from_dict(report.to_dict()).to_dict() == report.to_dict()
        assert report.notes == []
        assert main(["diagnose", str(run)]) == 0
    events = [path for path in run.glob("*tfevents*") if path.stat().st_size]
    if not events:
        return
    try:
        read_events(events)
    except MalformedError as error:
        # Killed within the first record of all.
        assert "ends inside a record" in str(error)  # noqa: PT017
        assert max(path.stat().st_size for path in events) < 256
        return
    alone = folder / "events alone"
    shutil.rmtree(alone, ignore_errors=True)
    alone.mkdir()
    for path in events:
        shutil.copy(path, alone)
    if "train_loss" in read_events(sorted(alone.iterdir())).points:
        assert main(["diagnose", str(alone)]) == 0


def test_a_run_that_is_killed_again_and_again_is_readable_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = random.Random(0)
    moments: list[Callable[[], Callable[[], bool]]] = [
        lambda: writes(tmp_path, 1),
        lambda: writing(tmp_path),
        lambda: grown(tmp_path, source.randrange(1, 100_000)),
        lambda: writes(tmp_path, source.randrange(2, 20)),
        lambda: grown(tmp_path, source.randrange(1, 100_000)),
    ]
    for moment in moments:
        kill_when(start(tmp_path, 10_000), moment())
        assert_readable(tmp_path)
    kept = max(int(path.stem.partition("=")[2]) for path in (tmp_path / "kept").glob("*.ckpt"))
    assert kept >= 4
    process = start(tmp_path, kept + 20)
    assert process.wait(timeout=300) == 0, (tmp_path / "output").read_text()[-3000:]
    assert_readable(tmp_path)
    # Not a step is missing, and none is there twice.
    history = read(tmp_path / "run").history
    assert history["train_loss"].steps == list(range(kept + 20))
    assert history["grad_norm"].steps == list(range(kept + 20))
    assert history.fact("run.ended") == "completed"
    assert capsys.readouterr().err == ""
