"""Logs of unknown origin are read as data: nothing in them is run, unpickled, followed or read without a bound."""

from __future__ import annotations

import json
import os
import pickle
import struct
import subprocess
import sys
import textwrap
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_FLOAT, DT_HALF, DT_STRING, DT_VARIANT
from tensorboard.summary.writer.record_writer import RecordWriter

from lightning_doctor.console import main
from lightning_doctor.history import SERIES_CAPACITY, History
from lightning_doctor.jsonable import MalformedError
from lightning_doctor.logs import curves, event_files, metrics_csv
from lightning_doctor.logs.event_files import _masked_checksum, read_events
from lightning_doctor.logs.metrics_csv import read_csv
from lightning_doctor.logs.runs import find_runs
from lightning_doctor.report import Report
from lightning_doctor.sinks import report as json_file
from lightning_doctor.sinks.report import read, write

SECRET = "the secret of another user"


class Bomb:
    """What unpickling runs."""

    def __reduce__(self) -> Any:
        return os.system, ("touch exploded",)


def event_file(path: Path, *events: Event) -> None:
    with path.open("wb") as file:
        records = RecordWriter(file)
        for event in events:
            records.write(event.SerializeToString())


def scalar(tag: str, step: int, value: float) -> Event:
    return Event(step=step, summary=Summary(value=[Summary.Value(tag=tag, simple_value=value)]))


def tensor(tag: str, **fields: Any) -> Event:
    value = Summary.Value(tag=tag, tensor=TensorProto(**fields))
    value.metadata.plugin_data.plugin_name = "scalars"
    return Event(step=1, summary=Summary(value=[value]))


_DOCUMENTS: dict[str, bytes] = {
    "yaml": b'!!python/object/apply:os.system ["touch exploded"]\n',
    "formulas": b'step,loss,note\n0,1,"=cmd|\' /C touch exploded\'!A0"\n1,1,__import__("os").system("touch x")\n',
    "json that names classes": json.dumps(
        {"schema": 1, "__class__": "os.system", "py/object": "os.system", "history": {"facts": {"$ref": "/etc/passwd"}}}
    ).encode(),
    "json with an absolute path": json.dumps({"schema": 1, "notes": ["/etc/passwd", "file:///etc/passwd"]}).encode(),
    "template": b"step,loss,{{ ''.__class__.__mro__ }},{0.__init__.__globals__}\n0,1,2,3\n1,1,2,3\n",
    "pickle": pickle.dumps(Bomb()),
    "pickle, protocol 0": pickle.dumps(Bomb(), protocol=0),
}


def hostile(folder: Path) -> None:
    """A folder for each kind of attack, of each kind of log."""
    for title, content in _DOCUMENTS.items():
        for name in ("doctor.json", "metrics.csv", "events.out.tfevents.1"):
            place = folder / title / name.partition(".")[0]
            place.mkdir(parents=True)
            (place / name).write_bytes(content)
    events = folder / "tensors"
    events.mkdir()
    event_file(
        events / "events.out.tfevents.1",
        *(scalar("train_loss", step, 1 / (1 + step)) for step in range(20)),
        tensor("bomb", dtype=DT_STRING, string_val=[pickle.dumps(Bomb())]),
        tensor("huge", dtype=DT_FLOAT, tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=1 << 40)])),
        tensor("short", dtype=DT_HALF, tensor_content=b"x"),
        tensor("odd", dtype=DT_VARIANT),
    )


WATCHED = textwrap.dedent(
    """
    import io, json, os, sys
    from contextlib import redirect_stderr, redirect_stdout
    from lightning_doctor.console import main

    hostile, log = sys.argv[1:]
    def commands(folder):
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            main(["diagnose", folder])
            main(["diagnose", folder, "--json"])
            main(["compare", folder, folder])
            main(["report", folder, "--html", os.path.join(os.path.dirname(log), "page.html")])
    # Whatever is imported and compiled the first time.
    commands(hostile)
    seen = []
    def hook(event, args):
        if event in ("open", "os.listdir", "os.scandir"):
            place = os.path.abspath(os.fsdecode(args[0])) if isinstance(args[0], (str, bytes)) else ""
            # Where an import looks for a module.
            if event == "open" or place not in map(os.path.abspath, sys.path):
                seen.append([event, place])
        elif event.partition(".")[0] in (
            "pickle", "marshal", "exec", "compile", "subprocess", "socket", "urllib", "ctypes", "shutil", "webbrowser",
        ) or event in ("os.system", "os.exec", "os.posix_spawn", "os.fork", "os.remove", "os.rename", "import"):
            seen.append([event, repr(args)[:200]])
    sys.addaudithook(hook)
    commands(hostile)
    found = list(seen)
    with open(log, "w") as file:
        json.dump(found, file)
    """
)


def test_of_hostile_logs_nothing_is_run_or_unpickled_and_nothing_else_is_opened(tmp_path: Path) -> None:
    folder = tmp_path / "hostile"
    folder.mkdir()
    hostile(folder)
    log = tmp_path / "log.json"
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(folder), str(log)],
        capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert not [path for name in ("exploded", "x") for path in tmp_path.rglob(name)]
    seen = json.loads(log.read_text())
    opened = {place for event, place in seen if event in ("open", "os.listdir", "os.scandir")}
    assert str(folder / "tensors" / "events.out.tfevents.1") in opened
    # Code and data of the package and what it uses, and what was asked for.
    allowed = (str(folder), sys.prefix, sys.base_prefix, str(Path(__file__).parents[2]), str(tmp_path / "page.html"))
    assert [place for place in opened if place and not place.startswith(allowed)] == []
    others = [entry for entry in seen if entry[0] not in ("open", "os.listdir", "os.scandir")]
    assert others == []


def falling() -> History:
    history = History()
    for step in range(20):
        history.record("train_loss", step, 1 / (1 + step))
    return history


def test_links_below_a_folder_are_not_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    away, top = tmp_path / "away", tmp_path / "top"
    away.mkdir()
    (away / "secret").write_text(SECRET)
    (away / "metrics.csv").write_text(f"{SECRET}\n")
    write(Report(history=falling()), away)
    for name in ("doctor.json", "metrics.csv", "events.out.tfevents.1"):
        (top / name.partition(".")[0]).mkdir(parents=True)
        (top / name.partition(".")[0] / name).symlink_to(away / ("secret" if "events" in name else name))
    (top / "folder").symlink_to(away)
    with pytest.raises(MalformedError, match=r"no doctor\.json"):
        find_runs(top)
    for command in (["diagnose", str(top)], ["report", str(top), "--html", str(tmp_path / "page.html")]):
        assert main(command) == 2
    said = capsys.readouterr()
    assert SECRET not in said.out + said.err
    # What was asked for by name is read, link or not.
    assert [run.name for run in find_runs(top / "folder")] == ["."]


def test_a_pipe_that_calls_itself_a_report_is_not_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "doctor.json")
    assert main(["diagnose", str(tmp_path)]) == 2
    assert "a pipe or a device" in capsys.readouterr().err
    with pytest.raises(MalformedError, match="a pipe or a device"):
        read(tmp_path)


def test_a_report_of_absurd_size_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "doctor.json").open("wb") as file:
        file.truncate(json_file._MOST + 1)
    with pytest.raises(MalformedError, match="no report takes more than"):
        read(tmp_path)


def test_a_record_of_absurd_size_is_passed_over_unread(tmp_path: Path) -> None:
    path, more = tmp_path / "events.out.tfevents.1", tmp_path / "more"
    event_file(path, scalar("train_loss", 0, 1.0))
    event_file(more, scalar("train_loss", 1, 0.5))
    size = event_files._LARGEST + 1
    header = struct.pack("<Q", size)
    with path.open("ab") as file:
        file.write(header + struct.pack("<I", _masked_checksum(header)))
    # A hole: the file takes no room on the disk.
    os.truncate(path, path.stat().st_size + size + 4)
    with path.open("ab") as file:
        file.write(more.read_bytes())
    tracemalloc.start()
    try:
        assert read_events([path]).points["train_loss"] == [(0, 1.0), (1, 0.5)]
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # What is imported meanwhile takes some megabytes too.
    assert most < size / 4


def test_a_line_without_an_end_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss\n" + "1" * (metrics_csv._LONGEST + 1))
    with pytest.raises(MalformedError, match="a line has"):
        read_csv(path)


def test_a_log_of_very_many_points_is_thinned_and_keeps_its_peak(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curves, "_MOST_POINTS", 4 * SERIES_CAPACITY)
    found = curves.Curves()
    longest = 0
    for step in range(100_000):
        found.add("loss", step, 50.0 if step == 30_001 else 1 / (1 + step))
        longest = max(longest, len(found.points["loss"]))
    assert longest <= 4 * SERIES_CAPACITY + 1
    points = found.points["loss"]
    assert points[0] == (0, 1.0)
    assert (30_001, 50.0) in points
    assert points[-SERIES_CAPACITY:] == [(step, 1 / (1 + step)) for step in range(100_000 - SERIES_CAPACITY, 100_000)]
