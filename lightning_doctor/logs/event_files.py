"""Reads the scalars of TensorBoard event files: every one of them, where TensorBoard's own reader keeps a sample."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning_doctor.jsonable import MalformedError
from lightning_doctor.logs.curves import Curves

# A checksum costs about 0.1 s a megabyte in Python. A larger record holds an image or a graph: its checksum is
# taken only where it turns out to hold a scalar.
_ALWAYS_CHECKED = 4096
# No record with scalars is as large: such a one is passed over unread.
_LARGEST = 1 << 26
_POLYNOMIAL = 0x82F63B78


def read_events(paths: list[Path]) -> Curves:
    """Reads the event files of one run, oldest first; a damaged one as far as it can be read.

    Raises:
        MalformedError: Where none of them holds a readable event; the message says what the first one looks like.
        OSError: Where one cannot be opened.
    """
    curves, failures, read = Curves(), [], 0
    metadata: dict[str, str] = {}
    for path in paths:
        part = Curves()
        events, damage = _read_file(path, curves, part, metadata)
        read += events
        curves.resume(part)
        if damage:
            failures.append(f"{path.name}: {damage}")
            # An empty file beside a full one is what a run leaves that was killed at its start.
            if events or path.stat().st_size:
                curves.notes.append(f"{path.name} is damaged after {events} events: {damage}")
    if not read:
        raise MalformedError(failures[0] if failures else "no event file")
    return curves


def _read_file(path: Path, before: Curves, curves: Curves, plugins: dict[str, str]) -> tuple[int, str | None]:
    """Adds what one file holds to ``curves``; returns the number of events read and what damage was met."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    events, damage = 0, None
    try:
        for data, checksum in _records(path):
            try:
                event = Event.FromString(data)
            except DecodeError:
                damage = "a record is not an event"
                continue
            scalars = list(_scalars(event, plugins))
            if (scalars or len(data) <= _ALWAYS_CHECKED) and _masked_checksum(data) != checksum:
                damage = "a record does not fit its checksum"
                continue
            events += 1
            if event.HasField("session_log") and event.session_log.status == SessionLog.START:
                before.restart(event.step)
                curves.restart(event.step)
            for tag, value in scalars:
                curves.add(tag, event.step, value)
    except MalformedError as error:
        damage = str(error)
    return events, damage


def _records(path: Path) -> Iterator[tuple[bytes, int]]:
    """Yields each record's bytes, but for huge ones, with the checksum that stands beside them, unchecked.

    Raises:
        MalformedError: Where a record's header is damaged, behind which no further one can be found.
    """
    left = path.stat().st_size
    if not left:
        raise MalformedError("the file is empty")
    with path.open("rb") as file:
        while header := file.read(12):
            left -= len(header)
            if len(header) < 12:
                raise MalformedError("the file ends inside a record")
            length, checksum = struct.unpack("<QI", header)
            if _masked_checksum(header[:8]) != checksum:
                raise MalformedError("not a TensorBoard event record")
            # Also keeps a made-up length from asking for more memory than the file is long.
            if length + 4 > left:
                raise MalformedError("the file ends inside a record")
            if length > _LARGEST:
                file.seek(length + 4, os.SEEK_CUR)
                left -= length + 4
                continue
            data = file.read(length)
            (checksum,) = struct.unpack("<I", file.read(4))
            left -= length + 4
            yield data, checksum


def _scalars(event: Any, plugins: dict[str, str]) -> Iterator[tuple[str, float]]:
    for value in event.summary.value:
        kind = value.WhichOneof("value")
        # Only the first value of a tag carries its metadata.
        if value.HasField("metadata"):
            plugins.setdefault(value.tag, value.metadata.plugin_data.plugin_name)
        if kind == "simple_value":
            yield value.tag, value.simple_value
        elif kind == "tensor" and plugins.get(value.tag) == "scalars":
            number = _number(value.tensor)
            if number is not None:
                yield value.tag, number


def _number(tensor: Any) -> float | None:
    """Returns the one number of a scalar tensor; None where it is none."""
    # The shape first: a few bytes can declare a tensor that fills the memory.
    if any(dim.size != 1 for dim in tensor.tensor_shape.dim):
        return None
    from tensorboard.util.tensor_util import make_ndarray

    try:
        return float(make_ndarray(tensor).reshape(-1)[0])
    except (TypeError, ValueError, LookupError, ArithmeticError):
        return None


def _table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (_POLYNOMIAL if byte & 1 else 0)
        table.append(byte)
    return table


_TABLE = _table()


def _masked_checksum(data: bytes) -> int:
    """CRC-32C (Castagnoli), rotated and offset as the TFRecord format asks."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
