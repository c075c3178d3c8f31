from __future__ import annotations

import math
from pathlib import Path

import pytest

from lightning_doctor.jsonable import MalformedError
from lightning_doctor.logs.metrics_csv import read_csv


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "metrics.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_blank_cells_hold_nothing_and_every_value_keeps_its_step(tmp_path: Path) -> None:
    text = "epoch,step,train_loss,val_loss\n0,49,1.5,\n0,99,1.25,\n0,99,,2.0\n,149,1.0,\n"
    curves = read_csv(write(tmp_path, text))
    assert curves.points["train_loss"] == [(49, 1.5), (99, 1.25), (149, 1.0)]
    assert curves.points["val_loss"] == [(99, 2.0)]


def test_nan_and_infinity_are_values(tmp_path: Path) -> None:
    curves = read_csv(write(tmp_path, "step,loss\n0,nan\n1,inf\n2,-inf\n3,NaN\n"))
    values = [value for _, value in curves.points["loss"]]
    assert math.isnan(values[0])
    assert values[1:3] == [math.inf, -math.inf]
    assert math.isnan(values[3])


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path: Path) -> None:
    curves = read_csv(write(tmp_path, b"\xef\xbb\xbfstep,loss\r\n0,1.0\r\n1,0.5\r\n"))
    assert curves.points["loss"] == [(0, 1.0), (1, 0.5)]


def test_a_row_without_a_step_belongs_to_the_step_before_it(tmp_path: Path) -> None:
    curves = read_csv(write(tmp_path, "step,loss\n7,1.0\n,0.5\n"))
    assert curves.points["loss"] == [(7, 1.0), (7, 0.5)]


def test_epochs_are_the_axis_of_a_table_without_steps(tmp_path: Path) -> None:
    curves = read_csv(write(tmp_path, "epoch,loss,val_loss\n0,1.0,1.1\n1,0.5,0.7\n"))
    assert curves.points["val_loss"] == [(0, 1.1), (1, 0.7)]


def test_the_last_row_of_a_killed_run_is_left_out_and_noted(tmp_path: Path) -> None:
    curves = read_csv(write(tmp_path, "step,a,loss\n0,1,1.0\n1,1,0.5\n2,1"))
    assert curves.points["loss"] == [(0, 1.0), (1, 0.5)]
    assert any("row 4" in note for note in curves.notes)


def test_steps_that_go_back_replace_what_they_overlap(tmp_path: Path) -> None:
    curves = read_csv(write(tmp_path, "step,loss\n0,4.0\n1,3.0\n2,9.0\n1,2.5\n2,2.0\n"))
    assert curves.points["loss"] == [(0, 4.0), (1, 2.5), (2, 2.0)]
    assert any("went back" in note for note in curves.notes)


def test_a_column_of_words_is_no_curve(tmp_path: Path) -> None:
    curves = read_csv(write(tmp_path, "step,loss,stage\n0,1.0,fit\n1,0.5,fit\n"))
    assert set(curves.points) == {"loss"}
    assert "'fit' in row 2" in curves.text["stage"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty"),
        ("\n\n", "empty"),
        ("time,loss\n0,1\n", "no column is named step or epoch"),
        ("hello\n", "no column is named step or epoch"),
        ("step,loss\n0,1\n1\n2,1\n", "row 3 has 1 cells, it must have the 2"),
        ("step,loss\n0,1,5\n", "row 2 has 3 cells, it must have the 2"),
        ("step,loss\nzero,1\n", "row 2: step must be a whole number, got 'zero'"),
        ("step,loss\n0.5,1\n", "must be a whole number"),
        ("step,loss\nnan,1\n", "must be a whole number"),
        ("step,loss\n1e300,1\n", "must be a whole number"),
        ("step,loss,loss\n0,1,1\n", "two columns are named 'loss'"),
        (b"step,loss\n0,\x00\n", "row 2"),
        (b"\x80\x04\x95garbage", "byte 0 is not UTF-8"),
        (b"\xff\xfes\x00t\x00e\x00p\x00", "byte 0 is not UTF-8"),
        ("step,loss\n0," + "9" * 200_000 + "\n", "row 2"),
    ],
    ids=lambda value: None if len(value) > 40 else repr(value),
)
def test_what_is_no_such_table_is_refused_with_the_place(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(MalformedError, match=message):
        read_csv(write(tmp_path, content))
