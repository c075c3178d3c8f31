from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path

import pytest

from lightning_doctor.jsonable import MalformedError
from lightning_doctor.report import Report
from lightning_doctor.sinks.report import read, write
from tests.sinks.reports import REPORTS, diverging, healthy


def test_what_was_written_is_read_back(report: Report, tmp_path: Path):
    path = write(report, tmp_path / "new" / "folder")
    assert path.name == "doctor.json"
    # repr: NaN is not equal to itself.
    assert repr(read(path).to_dict()) == repr(report.to_dict())
    assert repr(read(path.parent).to_dict()) == repr(report.to_dict())


@pytest.mark.parametrize("name", REPORTS)
def test_the_file_is_strict_json_in_utf8(name: str, tmp_path: Path):
    text = write(REPORTS[name](), tmp_path).read_bytes().decode("utf-8")

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert json.loads(text, parse_constant=refuse)["schema"] == 1


def test_the_file_can_be_looked_at(tmp_path: Path):
    lines = write(diverging(), tmp_path).read_text("utf-8").splitlines()
    assert lines[1] == '"schema": 1,'
    assert any("0.31 → 8434" in line for line in lines)


def test_a_second_report_replaces_the_first_and_leaves_nothing_beside_it(tmp_path: Path):
    write(diverging(), tmp_path)
    write(healthy(), tmp_path)
    assert read(tmp_path).findings == []
    assert os.listdir(tmp_path) == ["doctor.json"]


def test_the_file_has_the_mode_of_any_new_file(tmp_path: Path):
    before = os.umask(0o027)
    try:
        path = write(healthy(), tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_report_alone(
    call: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write(diverging(), tmp_path)

    def fail(*args: object) -> None:
        raise error

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(type(error)):
        write(healthy(), tmp_path)
    assert os.listdir(tmp_path) == ["doctor.json"]
    assert len(read(tmp_path).findings) == 3


def test_a_folder_that_is_a_file_is_an_os_error(tmp_path: Path):
    (tmp_path / "logs").write_text("")
    with pytest.raises(OSError, match="logs"):
        write(healthy(), tmp_path / "logs")


def test_a_file_that_is_not_there_is_not_found(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        read(tmp_path)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "doctor.json")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"\x80\x02}q\x00", "not text: byte 0"),
        (b"PK\x03\x04\xff", "not text: byte 4"),
        (b"\x00" * 64, "not JSON"),
        (b'{"schema": 1, "findings": [', "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"schema": 1, "history": {"facts": ' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}}", None),
        (b'{"schema": 1, "overhead": NaN}', "NaN is not JSON"),
        (b'{"schema": 1, "step": 1e999}', "cannot be read"),
        (b'{"schema": 1, "step": ' + b"9" * 5000 + b"}", "cannot be read"),
        (b"[]", "must be an object"),
        (b'{"schema": 99}', "schema 99"),
        (b'{"schema": 1, "findings": 3}', "cannot be read"),
        (b'{"schema": 1, "findings": [{"severity": "error", "evidence": 3}]}', "cannot be read"),
        (b'{"schema": 1, "unassessed": [1]}', "cannot be read"),
        (b'{"schema": 1, "guide": {"answers": 3}}', "cannot be read"),
        (b'{"schema": 1, "history": []}', "cannot be read"),
    ],
)
def test_a_spoilt_file_is_refused_with_its_path_and_the_reason(content: bytes, complaint: str | None, tmp_path: Path):
    path = tmp_path / "doctor.json"
    path.write_bytes(content)
    if complaint is None:
        # How deep is too deep is the interpreter's business; either answer is right, a crash is not.
        try:
            read(path)
        except MalformedError as error:
            assert "nested too deeply" in str(error)  # noqa: PT017
        return
    with pytest.raises(MalformedError, match=complaint) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_a_mark_at_the_start_of_the_file_does_no_harm(tmp_path: Path):
    path = write(healthy(), tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read(path).step == 1000


def test_numbers_that_json_lacks_survive(tmp_path: Path):
    report = diverging()
    assert math.isnan(read(write(report, tmp_path)).findings[1].evidence["value"])
    assert math.isnan(read(tmp_path).history["train_loss"].values[-1])
