"""Reads the metrics.csv of Lightning's CSVLogger, and tables like it."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from lightning_doctor.jsonable import MalformedError
from lightning_doctor.logs.curves import Curves, printable

# Whole numbers above this are not exact as a float, which is how a table may write them.
_LARGEST_STEP = 2**53
# Of a thousand columns, a hundred times over.
_LONGEST = 1 << 21


def read_csv(path: Path) -> Curves:
    """Reads a table with a column ``step`` (or only ``epoch``) and one column a tag; blank cells hold nothing.

    Raises:
        MalformedError: Where it is not such a table; the message names the row.
        OSError: Where the file cannot be read.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _curves(_rows(csv.reader(_lines(file))))
    except UnicodeDecodeError as error:
        raise MalformedError(f"not a table: byte {error.start} is not UTF-8 text") from error


def _lines(file: TextIO) -> Iterator[str]:
    while line := file.readline(_LONGEST):
        if len(line) == _LONGEST:
            raise MalformedError(f"not a table: a line has {_LONGEST:,} characters or more")
        yield line


def _rows(reader: Iterator[list[str]]) -> Iterator[list[str]]:
    number = 0
    while True:
        number += 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise MalformedError(f"not a table: row {number}: {error}") from error
        if any("\0" in cell for cell in row):
            raise MalformedError(f"not a table: row {number} holds a NUL byte")
        yield row


def _curves(rows: Iterator[list[str]]) -> Curves:
    header = [name.strip() for name in next(rows, [])]
    if not any(header):
        raise MalformedError("the file is empty; a header with a column named step was expected")
    axis = next((name for name in ("step", "epoch") if name in header), None)
    if axis is None:
        raise MalformedError(f"no column is named step or epoch; the first row reads {printable(','.join(header))!r}")
    twice = next((name for name in header if name and header.count(name) > 1), None)
    if twice is not None:
        raise MalformedError(f"two columns are named {printable(twice)!r}; each must be named once")
    curves, step, short, cells = Curves(), 0, 0, 0
    at = header.index(axis)
    for number, row in enumerate(rows, start=2):
        if short:
            raise MalformedError(f"row {short} has {cells} cells, it must have the {len(header)} of the header")
        if not row:
            continue
        if len(row) > len(header):
            raise MalformedError(f"row {number} has {len(row)} cells, it must have the {len(header)} of the header")
        if len(row) < len(header):
            # The last row of a run that was killed while it wrote; anywhere else it is an error.
            short, cells = number, len(row)
            continue
        if row[at].strip():
            step = _step(row[at], axis, number)
        for name, cell in zip(header, row, strict=True):
            if cell.strip() and name and name != axis and name not in curves.text:
                try:
                    curves.add(name, step, float(cell))
                except ValueError:
                    curves.text[name] = f"{printable(cell, 40)!r} in row {number}"
    if short:
        curves.notes.append(f"row {short}, the last, is cut off and was left out")
    for name in curves.text:
        curves.points.pop(name, None)
    return curves


def _step(cell: str, axis: str, number: int) -> int:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not (abs(value) <= _LARGEST_STEP and value.is_integer()):
        raise MalformedError(f"row {number}: {axis} must be a whole number, got {printable(cell, 40)!r}")
    return int(value)
